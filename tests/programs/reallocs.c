/* Every meaning of realloc. A block that realloc takes away at once counts as temporary, as the
 * thread's next event released it.
 * TRUTH
 *   site grow_chain calls=17 bytes=1310710 live_blocks=1 live_bytes=655360 temporary=16
 *   site shrink_chain calls=4 bytes=1750 live_blocks=1 live_bytes=50 temporary=3
 *   site kept_block calls=10 bytes=1000 live_blocks=10 live_bytes=1000
 *   site failing_realloc failed=10
 *   site realloc_of_null calls=10 bytes=770 live_blocks=10 live_bytes=770
 *   site zeroed_block calls=10 bytes=330
 *   site realloc_to_zero
 *   site first_owner calls=20 bytes=1000
 *   site second_owner calls=20 bytes=100000 live_blocks=20 live_bytes=100000
 *   site freed_after_failure calls=5 bytes=1005
 *   site failing_then_freed failed=5
 *   site mapped_growth calls=3 bytes=14680064 temporary=3
 *   total free_calls=57 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void grow_chain(void) {
    size_t size = 10;
    void *p = keep(malloc(size));
    for (int i = 0; i < 16; i++) {
        size *= 2;
        p = keep(realloc(p, size));
    }
    must(size == 655360, "grow_chain");
}

SITE void shrink_chain(void) {
    void *p = keep(malloc(1000));
    p = keep(realloc(p, 500));
    p = keep(realloc(p, 200));
    keep(realloc(p, 50));
}

SITE void *kept_block(void) {
    return keep(malloc(100));
}

SITE void failing_realloc(void *p) {
    must(keep(realloc(p, HUGE_SIZE)) == NULL, "realloc of 4 EiB worked");
}

SITE void realloc_of_null(void) {
    keep(realloc(NULL, 77));
}

SITE void *zeroed_block(void) {
    return keep(malloc(33));
}

SITE void realloc_to_zero(void *p) {
    must(keep(realloc(p, opaque(0))) == NULL, "realloc(p, 0) gave a block");
}

SITE void *first_owner(void) {
    return keep(malloc(50));
}

SITE void second_owner(void *p) {
    keep(realloc(p, 5000));
}

SITE void *freed_after_failure(void) {
    return keep(malloc(201));
}

SITE void failing_then_freed(void *p) {
    must(keep(realloc(p, HUGE_SIZE)) == NULL, "realloc of 4 EiB worked");
}

/* 2 MiB, 4 MiB, 8 MiB: the mremap path of glibc. */
SITE void *mapped_growth(void) {
    void *p = keep(malloc((size_t)2 << 20));
    p = keep(realloc(p, (size_t)4 << 20));
    return keep(realloc(p, (size_t)8 << 20));
}

static void prepare(void) {}

static void workload(void) {
    void *blocks[20];
    grow_chain();
    shrink_chain();
    for (int i = 0; i < 10; i++) blocks[i] = kept_block();
    for (int i = 0; i < 10; i++) failing_realloc(blocks[i]);
    for (int i = 0; i < 10; i++) realloc_of_null();
    for (int i = 0; i < 10; i++) blocks[i] = zeroed_block();
    for (int i = 0; i < 10; i++) realloc_to_zero(blocks[i]);
    for (int i = 0; i < 20; i++) blocks[i] = first_owner();
    for (int i = 0; i < 20; i++) second_owner(blocks[i]);
    for (int i = 0; i < 5; i++) blocks[i] = freed_after_failure();
    for (int i = 0; i < 5; i++) failing_then_freed(blocks[i]);
    for (int i = 0; i < 5; i++) free(blocks[i]);
    free(mapped_growth());
}

TRUTH_MAIN
