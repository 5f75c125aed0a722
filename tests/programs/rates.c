/* Several sites that leak at different rates beside one that does not leak.
 * TRUTH
 *   site leak_fast calls=900 bytes=21600 live_blocks=900 live_bytes=21600
 *   site leak_slow calls=90 bytes=90000 live_blocks=90 live_bytes=90000
 *   site leak_rare calls=9 bytes=900000 live_blocks=9 live_bytes=900000
 *   site balanced calls=900 bytes=115200
 *   site half_freed calls=180 bytes=5760 live_blocks=90 live_bytes=2880
 *   total free_calls=990 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void leak_fast(void) {
    keep(malloc(24));
}

SITE void leak_slow(void) {
    keep(malloc(1000));
}

SITE void leak_rare(void) {
    keep(malloc(100000));
}

SITE void *balanced(void) {
    return keep(malloc(128));
}

SITE void *half_freed(void) {
    return keep(malloc(32));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 900; i++) {
        void *block = balanced();
        leak_fast();
        if (i % 10 == 0) {
            leak_slow();
            void *one = half_freed();
            half_freed();
            free(one);
        }
        if (i % 100 == 0) leak_rare();
        free(block);
    }
}

TRUTH_MAIN
