/* Deletes its own binary before it allocates (run it from a copy).
 * TRUTH
 *   site leak_of_the_deleted calls=100 bytes=3300 live_blocks=100 live_bytes=3300
 *   total unknown_frees=0
 * END
 */
#include "truth.h"

SITE void leak_of_the_deleted(void) {
    keep(malloc(33));
}

static void prepare(void) {}

static void workload(void) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    must(n > 0, "readlink");
    path[n] = 0;
    must(unlink(path) == 0, "unlink");
    for (int i = 0; i < 100; i++) leak_of_the_deleted();
}

TRUTH_MAIN
