/* Two million blocks live at once.
 * TRUTH
 *   site live_small calls=1000000 bytes=16000000 live_blocks=1000000 live_bytes=16000000
 *   site live_larger calls=1000000 bytes=48000000 live_blocks=999000 live_bytes=47952000
 *   total free_calls=1000 unknown_frees=0
 * END
 */
#include "truth.h"

static void *blocks[1000000];

SITE void live_small(void) {
    keep(malloc(16));
}

SITE void *live_larger(void) {
    return keep(malloc(48));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 1000000; i++) {
        live_small();
        blocks[i] = live_larger();
    }
    for (int i = 0; i < 1000000; i += 1000) free(blocks[i]);
}

TRUTH_MAIN
