/* posix_spawn and vfork: the child shares the parent's memory until it execs, which must not clear
 * the parent's heap. The argument is the leaf program.
 * TRUTH
 *   site parent_leak calls=30 bytes=900 live_blocks=20 live_bytes=600
 *   site leaf_leak calls=36 bytes=3600 live_blocks=36 live_bytes=3600
 *   total free_calls=10 unknown_frees=0
 * END
 */
#include "truth.h"
#include <spawn.h>
#include <sys/wait.h>

SITE void *parent_leak(void) {
    return keep(malloc(30));
}

static void *blocks[30];

static void prepare(void) {
    must(truth_arguments[0] != NULL, "the leaf program as argument");
}

static void reap(pid_t pid) {
    int status = 0;
    must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7, "leaf");
}

static void workload(void) {
    char *const arguments[] = {truth_arguments[0], (char *)"7", NULL};
    for (int i = 0; i < 30; i++) blocks[i] = parent_leak();
    for (int round = 0; round < 2; round++) {
        pid_t pid = 0;
        must(posix_spawn(&pid, truth_arguments[0], NULL, NULL, arguments, environ) == 0, "spawn");
        reap(pid);
    }
    pid_t pid = vfork();
    if (pid == 0) {
        execv(truth_arguments[0], arguments);
        _exit(96);
    }
    must(pid > 0, "vfork");
    reap(pid);
    for (int i = 0; i < 10; i++) free(blocks[i]);
}

TRUTH_MAIN
