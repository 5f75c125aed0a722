/* fork, allocate in the child, exec: the child's blocks vanish with its old image, the parent's
 * stay. The argument is the leaf program.
 * TRUTH
 *   site parent_leak calls=30 bytes=900 live_blocks=30 live_bytes=900
 *   site before_exec calls=16 bytes=800
 *   site leaf_leak calls=24 bytes=2400 live_blocks=24 live_bytes=2400
 *   total unknown_frees=0 exec_dropped_blocks=16
 * END
 */
#include "truth.h"
#include <sys/wait.h>

SITE void parent_leak(void) {
    keep(malloc(30));
}

SITE void before_exec(void) {
    keep(malloc(50));
}

static void prepare(void) {
    must(truth_arguments[0] != NULL, "the leaf program as argument");
}

static void workload(void) {
    for (int i = 0; i < 30; i++) parent_leak();
    for (int round = 0; round < 2; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 8; i++) before_exec();
            execl(truth_arguments[0], truth_arguments[0], "5", (char *)NULL);
            _exit(96);
        }
        int status = 0;
        must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 5,
             "leaf");
    }
}

TRUTH_MAIN
