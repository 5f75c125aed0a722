/* calloc, small and by mmap, and its overflow; big mallocs.
 * TRUTH
 *   site calloc_small calls=200 bytes=16000 live_blocks=200 live_bytes=16000
 *   site calloc_big calls=5 bytes=20971520 live_blocks=3 live_bytes=12582912
 *   site calloc_nothing calls=4 live_blocks=4
 *   site calloc_overflow failed=3
 *   site calloc_huge failed=2
 *   site malloc_big calls=4 bytes=4194304 live_blocks=1 live_bytes=1048576
 *   site malloc_huge failed=7
 *   total free_calls=5 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void calloc_small(void) {
    keep(calloc(10, 8));
}

SITE void *calloc_big(void) {
    return keep(calloc(1024, 4096));
}

SITE void calloc_nothing(void) {
    keep(calloc(opaque(0), 8));
}

SITE void calloc_overflow(void) {
    must(keep(calloc(opaque(SIZE_MAX / 2), 4)) == NULL, "calloc overflow");
}

SITE void calloc_huge(void) {
    must(keep(calloc(HUGE_SIZE, 1)) == NULL, "calloc of 4 EiB");
}

SITE void *malloc_big(void) {
    return keep(malloc((size_t)1 << 20));
}

SITE void malloc_huge(void) {
    must(keep(malloc(HUGE_SIZE)) == NULL, "malloc of 4 EiB");
}

static void prepare(void) {}

static void workload(void) {
    void *blocks[5];
    for (int i = 0; i < 200; i++) calloc_small();
    for (int i = 0; i < 5; i++) blocks[i] = calloc_big();
    free(blocks[1]);
    free(blocks[3]);
    for (int i = 0; i < 4; i++) calloc_nothing();
    for (int i = 0; i < 3; i++) calloc_overflow();
    for (int i = 0; i < 2; i++) calloc_huge();
    for (int i = 0; i < 4; i++) blocks[i] = malloc_big();
    for (int i = 0; i < 3; i++) free(blocks[i]);
    for (int i = 0; i < 7; i++) malloc_huge();
}

TRUTH_MAIN
