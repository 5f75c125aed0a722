/* Three allocations and away; the argument is the exit status, "kill" for death by signal.
 * TRUTH
 *   site last_words calls=3 bytes=51 live_blocks=3 live_bytes=51
 *   total free_calls=0 unknown_frees=0
 * END
 */
#include "truth.h"

SITE void last_words(void) {
    keep(malloc(17));
}

int main(int argc, char **argv) {
    for (int i = 0; i < 3; i++) last_words();
    if (argc > 1 && strcmp(argv[1], "kill") == 0) kill(getpid(), SIGKILL);
    if (argc > 1 && strcmp(argv[1], "abort") == 0) abort();
    _exit(argc > 1 ? atoi(argv[1]) : 0);
}
