/* Leaks at the bottom of known depths: below `bottom_D` there are exactly D frames of `descend`,
 * then `workload`, `main` and the C library's start.
 * TRUTH
 *   site bottom_5 calls=10 bytes=50 live_blocks=10 live_bytes=50
 *   site bottom_20 calls=10 bytes=200 live_blocks=10 live_bytes=200
 *   site bottom_60 calls=10 bytes=600 live_blocks=10 live_bytes=600
 *   site bottom_127 calls=10 bytes=1270 live_blocks=10 live_bytes=1270
 *   site bottom_200 calls=10 bytes=2000 live_blocks=10 live_bytes=2000
 * END
 */
#include "truth.h"

#define BOTTOM(DEPTH)                                                                              \
    SITE void bottom_##DEPTH(void) {                                                               \
        keep(malloc(DEPTH));                                                                       \
    }

BOTTOM(5)
BOTTOM(20)
BOTTOM(60)
BOTTOM(127)
BOTTOM(200)

/* `depth` frames of its own, then `bottom`. */
SITE void descend(int depth, void (*bottom)(void)) {
    if (depth > 1) {
        descend(depth - 1, bottom);
    } else {
        bottom();
    }
    __asm__ volatile("" ::: "memory");
}

static void prepare(void) {}

SITE void workload(void) {
    for (int i = 0; i < 10; i++) {
        descend(5, bottom_5);
        descend(20, bottom_20);
        descend(60, bottom_60);
        descend(127, bottom_127);
        descend(200, bottom_200);
    }
}

TRUTH_MAIN
