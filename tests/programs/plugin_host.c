/* Two libraries loaded during the recording leak; the second is unloaded again.
 * TRUTH
 *   site plugin_kept calls=300 bytes=14400 live_blocks=300 live_bytes=14400
 *   site plugin_closed calls=70 bytes=7000 live_blocks=70 live_bytes=7000
 *   site host_leak calls=11 bytes=143 live_blocks=11 live_bytes=143
 *   foreign ld-linux
 *   foreign libc.so
 * END
 * The arguments are the two libraries.
 */
#include "truth.h"
#include <dlfcn.h>

typedef void plugin(int calls, unsigned long size);

SITE void host_leak(void) {
    keep(malloc(13));
}

static void *open_and_run(const char *path, const char *name, int calls, unsigned long size) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    must(library != NULL, "dlopen");
    plugin *run = (plugin *)dlsym(library, name);
    must(run != NULL, "dlsym");
    run(calls, size);
    return library;
}

static void prepare(void) {
    must(truth_arguments[0] && truth_arguments[1], "two libraries as arguments");
}

static void workload(void) {
    open_and_run(truth_arguments[0], "plugin_kept", 300, 48);
    must(dlclose(open_and_run(truth_arguments[1], "plugin_closed", 70, 100)) == 0, "dlclose");
    for (int i = 0; i < 11; i++) host_leak();
}

TRUTH_MAIN
