/* All aligned functions and reallocarray, with their failures. Sizes are the requested ones.
 * TRUTH
 *   site by_posix_memalign calls=40 bytes=4000 live_blocks=20 live_bytes=2000
 *   site posix_memalign_bad failed=12
 *   site posix_memalign_huge failed=3
 *   site by_aligned_alloc calls=30 bytes=7680 live_blocks=30 live_bytes=7680
 *   site aligned_alloc_huge failed=2
 *   site by_memalign calls=25 bytes=2525 live_blocks=25 live_bytes=2525
 *   site memalign_bad failed=4
 *   site by_valloc calls=6 bytes=6006 live_blocks=6 live_bytes=6006
 *   site valloc_huge failed=1
 *   site by_pvalloc calls=5 bytes=15 live_blocks=5 live_bytes=15
 *   site pvalloc_huge failed=2
 *   site by_reallocarray calls=8 bytes=2560 live_blocks=8 live_bytes=2560
 *   site by_reallocarray_grown calls=8 bytes=5120 live_blocks=8 live_bytes=5120
 *   site by_reallocarray_moved calls=8 bytes=1280
 *   site reallocarray_overflow failed=8
 *   site big_posix_memalign calls=2 bytes=6291456 live_blocks=1 live_bytes=3145728
 *   total free_calls=29 unknown_frees=0
 * END
 */
#include "truth.h"
#include <malloc.h>

SITE void *by_posix_memalign(void) {
    void *p = NULL;
    must(posix_memalign(&p, 256, 100) == 0, "posix_memalign");
    must(((uintptr_t)p & 255) == 0, "posix_memalign alignment");
    return keep(p);
}

SITE void posix_memalign_bad(size_t alignment) {
    void *p = (void *)0x1234;
    must(posix_memalign(&p, opaque(alignment), 100) == EINVAL, "bad alignment worked");
    must(p == (void *)0x1234, "failed posix_memalign wrote its result");
    keep(p);
}

SITE void posix_memalign_huge(void) {
    void *p = NULL;
    must(posix_memalign(&p, 64, HUGE_SIZE) == ENOMEM, "posix_memalign of 4 EiB");
    keep(p);
}

SITE void by_aligned_alloc(void) {
    keep(aligned_alloc(128, 256));
}

SITE void aligned_alloc_huge(void) {
    must(keep(aligned_alloc(64, HUGE_SIZE)) == NULL, "aligned_alloc of 4 EiB");
}

SITE void by_memalign(void) {
    keep(memalign(32, 101));
}

SITE void memalign_bad(void) {
    must(keep(memalign(opaque(SIZE_MAX), 100)) == NULL, "memalign of alignment 2^64-1");
}

SITE void by_valloc(void) {
    keep(valloc(1001));
}

SITE void valloc_huge(void) {
    must(keep(valloc(HUGE_SIZE)) == NULL, "valloc of 4 EiB");
}

SITE void by_pvalloc(void) {
    keep(pvalloc(3));
}

SITE void pvalloc_huge(void) {
    must(keep(pvalloc(opaque(SIZE_MAX - 10))) == NULL, "pvalloc of 2^64-11");
}

SITE void by_reallocarray(void) {
    keep(reallocarray(NULL, 40, 8));
}

SITE void *by_reallocarray_moved(void) {
    return keep(reallocarray(NULL, 20, 8));
}

SITE void *by_reallocarray_grown(void *p) {
    return keep(reallocarray(p, 80, 8));
}

SITE void reallocarray_overflow(void *p) {
    must(keep(reallocarray(p, opaque(SIZE_MAX / 2), 4)) == NULL, "reallocarray overflow");
}

SITE void *big_posix_memalign(void) {
    void *p = NULL;
    must(posix_memalign(&p, 1 << 16, (size_t)3 << 20) == 0, "posix_memalign of 3 MiB");
    return keep(p);
}

static void prepare(void) {}

static void workload(void) {
    void *blocks[40];
    for (int i = 0; i < 40; i++) blocks[i] = by_posix_memalign();
    for (int i = 0; i < 40; i += 2) free(blocks[i]);
    for (int i = 0; i < 4; i++) {
        posix_memalign_bad(0);
        posix_memalign_bad(4);
        posix_memalign_bad(24);
    }
    for (int i = 0; i < 3; i++) posix_memalign_huge();
    for (int i = 0; i < 30; i++) by_aligned_alloc();
    for (int i = 0; i < 2; i++) aligned_alloc_huge();
    for (int i = 0; i < 25; i++) by_memalign();
    for (int i = 0; i < 4; i++) memalign_bad();
    for (int i = 0; i < 6; i++) by_valloc();
    valloc_huge();
    for (int i = 0; i < 5; i++) by_pvalloc();
    for (int i = 0; i < 2; i++) pvalloc_huge();
    for (int i = 0; i < 8; i++) by_reallocarray();
    for (int i = 0; i < 8; i++) blocks[i] = by_reallocarray_moved();
    for (int i = 0; i < 8; i++) blocks[i] = by_reallocarray_grown(blocks[i]);
    for (int i = 0; i < 8; i++) reallocarray_overflow(blocks[i]);
    blocks[0] = big_posix_memalign();
    big_posix_memalign();
    free(blocks[0]);
}

TRUTH_MAIN
