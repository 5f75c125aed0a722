/* What fork_exec.c and spawn.c start: leaks and ends with the status of its argument.
 * TRUTH
 *   site leaf_leak calls=12 bytes=1200 live_blocks=12 live_bytes=1200
 * END
 */
#include "truth.h"

SITE void leaf_leak(void) {
    keep(malloc(100));
}

int main(int argc, char **argv) {
    for (int i = 0; i < 12; i++) leaf_leak();
    return argc > 1 ? atoi(argv[1]) : 0;
}
