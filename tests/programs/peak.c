/* The first maximum of live bytes, and each site's share at it. The same height is reached again
 * later with other shares.
 * TRUTH
 *   site base calls=100 bytes=100000 live_blocks=10 live_bytes=10000 peak_bytes=50000
 *   site hill calls=60 bytes=120000 peak_bytes=120000
 *   site second_hill calls=160 bytes=160000
 *   site afterwards calls=5 bytes=500 live_blocks=5 live_bytes=500
 *   total free_calls=310 unknown_frees=0 peak_bytes=170000 only=attach
 *   total unknown_frees=0 peak_bytes=170000 only=command
 * END
 */
#include "truth.h"

SITE void *base(void) {
    return keep(malloc(1000));
}

SITE void *hill(void) {
    return keep(malloc(2000));
}

SITE void *second_hill(void) {
    return keep(malloc(1000));
}

SITE void afterwards(void) {
    keep(malloc(100));
}

static void prepare(void) {}

static void workload(void) {
    void *bases[100];
    void *others[160];
    for (int i = 0; i < 100; i++) bases[i] = base();
    for (int i = 0; i < 50; i++) free(bases[i]);
    for (int i = 0; i < 60; i++) others[i] = hill();
    for (int i = 0; i < 60; i++) free(others[i]);
    for (int i = 50; i < 90; i++) free(bases[i]);
    for (int i = 0; i < 160; i++) others[i] = second_hill();
    for (int i = 0; i < 160; i++) free(others[i]);
    for (int i = 0; i < 5; i++) afterwards();
}

TRUTH_MAIN
