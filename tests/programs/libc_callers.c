/* Allocations made by the C library on behalf of the program: its functions lie between.
 * TRUTH
 *   site dup_strings calls=10 bytes=120 live_blocks=10 live_bytes=120 depth=any
 *   site dup_parts calls=20 bytes=80 live_blocks=10 live_bytes=40 depth=any
 *   total free_calls=10 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void dup_strings(void) {
    keep(strdup("eleven char"));
}

SITE char *dup_parts(void) {
    return (char *)keep(strndup("eleven char", 3));
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 10; i++) {
        char *part = dup_parts();
        dup_strings();
        dup_parts();
        free(part);
    }
}

TRUTH_MAIN
