/* Allocations in functions that are inlined into their callers; tests look for the lines below.
 * TRUTH
 *   site innermost calls=10 bytes=80 live_blocks=10 live_bytes=80
 *   site outlined calls=5 bytes=45 live_blocks=5 live_bytes=45
 * END
 */
#include "truth.h"

static inline __attribute__((always_inline)) void innermost(void) {
    keep(malloc(8)); /* innermost's line */
}

static inline __attribute__((always_inline)) void between(void) {
    innermost(); /* between's line */
}

SITE void around(void) {
    between(); /* around's line */
}

SITE void outlined(void) {
    keep(malloc(9)); /* outlined's line */
}

static void prepare(void) {}

SITE void workload(void) {
    for (int i = 0; i < 10; i++) around();
    for (int i = 0; i < 5; i++) outlined(); /* workload's line */
}

TRUTH_MAIN
