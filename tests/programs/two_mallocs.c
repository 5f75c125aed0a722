/* A library that has a malloc of its own is loaded beside the C library; the program itself goes on
 * with the C library's. The argument is the library, loaded before the measured part. Calls of its
 * own malloc may be recorded or not: it isn't the program's heap.
 * TRUTH
 *   site on_the_c_library calls=500 bytes=12500 live_blocks=400 live_bytes=10000
 *   foreign use_other_malloc
 *   foreign ld-linux only=command
 *   foreign libc.so only=command
 * END
 */
#include "truth.h"
#include <dlfcn.h>

static void (*use_other_malloc)(void);

SITE void *on_the_c_library(void) {
    return keep(malloc(25));
}

static void prepare(void) {
    must(truth_arguments[0] != NULL, "the library as argument");
    void *library = dlopen(truth_arguments[0], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    must(library != NULL, "dlopen");
    use_other_malloc = (void (*)(void))dlsym(library, "use_other_malloc");
    must(use_other_malloc != NULL, "dlsym");
}

static void workload(void) {
    void *blocks[500];
    for (int i = 0; i < 500; i++) {
        blocks[i] = on_the_c_library();
        if (i % 10 == 0) use_other_malloc();
    }
    for (int i = 0; i < 100; i++) free(blocks[i]);
}

TRUTH_MAIN
