/* Temporary: the very next event of the thread frees the block.
 * TRUTH
 *   site at_once calls=1000 bytes=50000 temporary=1000
 *   site outer_block calls=300 bytes=3300
 *   site inner_block calls=300 bytes=3600 temporary=300
 *   site same_size_swapped calls=400 bytes=5200
 *   site last_of_three calls=90 bytes=1260 live_blocks=60 live_bytes=840 temporary=30
 *   site never_freed calls=10 bytes=150 live_blocks=10 live_bytes=150
 *   total free_calls=2030 temporary_calls=1330 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void *at_once(void) {
    return keep(malloc(50));
}

SITE void *outer_block(void) {
    return keep(malloc(11));
}

SITE void *inner_block(void) {
    return keep(malloc(12));
}

SITE void *same_size_swapped(void) {
    return keep(malloc(13));
}

SITE void *last_of_three(void) {
    return keep(malloc(14));
}

SITE void never_freed(void) {
    keep(malloc(15));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 1000; i++) free(at_once());
    for (int i = 0; i < 300; i++) {
        void *outer = outer_block();
        void *inner = inner_block();
        free(inner);
        free(outer);
    }
    /* The next event frees a block of the same site and size, but not the same block. */
    for (int i = 0; i < 200; i++) {
        void *first = same_size_swapped();
        void *second = same_size_swapped();
        free(first);
        free(second);
    }
    for (int i = 0; i < 30; i++) {
        last_of_three();
        last_of_three();
        free(last_of_three());
    }
    for (int i = 0; i < 10; i++) never_freed();
}

TRUTH_MAIN
