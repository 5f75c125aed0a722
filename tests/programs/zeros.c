/* malloc(0) is a block of its own; free(NULL) is nothing.
 * TRUTH
 *   site malloc_nothing calls=100 live_blocks=60
 *   site malloc_one calls=10 bytes=10 live_blocks=10 live_bytes=10
 *   site free_nothing
 *   total free_calls=40 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void *malloc_nothing(void) {
    void *p = keep(malloc(opaque(0)));
    must(p != NULL, "malloc(0) gave NULL");
    return p;
}

SITE void malloc_one(void) {
    keep(malloc(1));
}

SITE void free_nothing(void) {
    free(keep(NULL));
    __asm__ volatile("" ::: "memory");
}

static void prepare(void) {}

static void workload(void) {
    void *blocks[100];
    for (int i = 0; i < 100; i++) {
        blocks[i] = malloc_nothing();
        free_nothing();
    }
    for (int i = 0; i < 10; i++) malloc_one();
    for (int i = 0; i < 40; i++) free(blocks[i]);
}

TRUTH_MAIN
