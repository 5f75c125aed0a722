/* One call site that never frees.
 * TRUTH
 *   site leak_here calls=1000 bytes=64000 live_blocks=1000 live_bytes=64000 peak_bytes=64000
 *   total free_calls=0 unknown_frees=0 peak_bytes=64000
 * END
 */
#include "truth.h"

SITE void leak_here(void) {
    keep(malloc(64));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 1000; i++) leak_here();
}

TRUTH_MAIN
