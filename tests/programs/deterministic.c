/* A mixed load that is the same every time, for comparison with heaptrack: sizes, lifetimes and
 * sites from a fixed generator, one thread, only functions that heaptrack follows. A slot's blocks
 * have sizes of their own, since heaptrack counts as temporary also the free of another block of
 * the same site and size as the last one.
 */
#include "truth.h"

#define SLOTS 512

static void *slots[SLOTS];
static uint64_t state = 88172645463325252ull;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

SITE void *mixed_malloc(size_t size) {
    return keep(malloc(size));
}

SITE void *mixed_calloc(size_t size) {
    return keep(calloc(3, size));
}

SITE void *mixed_realloc(void *p, size_t size) {
    return keep(realloc(p, size));
}

SITE void *mixed_aligned(size_t size) {
    void *p = NULL;
    must(posix_memalign(&p, 64, size) == 0, "posix_memalign");
    return keep(p);
}

SITE void *mixed_temporary(size_t size) {
    return keep(malloc(size));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 20000; i++) {
        uint64_t r = next();
        unsigned slot = (unsigned)(r >> 40) % SLOTS;
        size_t size = 1 + slot + SLOTS * ((r >> 8) % ((r & 7) == 0 ? 200 : 2));
        switch ((r >> 32) % 5) {
        case 0:
            free(slots[slot]);
            slots[slot] = mixed_malloc(size);
            break;
        case 1:
            free(slots[slot]);
            slots[slot] = mixed_calloc(size);
            break;
        case 2:
            slots[slot] = mixed_realloc(slots[slot], size);
            break;
        case 3:
            free(slots[slot]);
            slots[slot] = mixed_aligned(size);
            break;
        default:
            free(mixed_temporary(size));
        }
    }
}

TRUTH_MAIN
