/* Blocks older than the recording are freed, resized and left alone during it.
 * TRUTH
 *   site old_block calls=100 bytes=6400 live_blocks=35 live_bytes=2240 only=command
 *   site resize_old calls=15 bytes=15000 live_blocks=15 live_bytes=15000
 *   site fail_to_resize_old failed=5
 *   site young_block calls=20 bytes=400 live_blocks=10 live_bytes=200
 *   total free_calls=10 unknown_frees=65 only=attach
 *   total free_calls=75 unknown_frees=0 only=command
 * END
 */
#include "truth.h"

static void *old[100];

SITE void *old_block(void) {
    return keep(malloc(64));
}

SITE void resize_old(void *p) {
    keep(realloc(p, 1000));
}

SITE void fail_to_resize_old(void *p) {
    must(keep(realloc(p, HUGE_SIZE)) == NULL, "realloc of 4 EiB worked");
}

SITE void *young_block(void) {
    return keep(malloc(20));
}

static void prepare(void) {
    for (int i = 0; i < 100; i++) old[i] = old_block();
}

static void workload(void) {
    void *young[20];
    for (int i = 0; i < 20; i++) young[i] = young_block();
    for (int i = 0; i < 50; i++) free(old[i]);
    for (int i = 50; i < 65; i++) resize_old(old[i]);
    for (int i = 65; i < 70; i++) fail_to_resize_old(old[i]);
    for (int i = 0; i < 10; i++) free(young[i]);
}

TRUTH_MAIN
