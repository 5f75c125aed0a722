/* Children and a grandchild allocate; a child frees copies of its parent's blocks, which leaves the
 * parent's own blocks live.
 * TRUTH
 *   site parent_block calls=40 bytes=400 live_blocks=35 live_bytes=350
 *   site child_leak calls=60 bytes=1200 live_blocks=60 live_bytes=1200
 *   site child_balanced calls=30 bytes=900
 *   site grandchild_leak calls=7 bytes=280 live_blocks=7 live_bytes=280
 *   total free_calls=35 inherited_frees=24 unknown_frees=0
 * END
 */
#include "truth.h"
#include <sys/wait.h>

SITE void *parent_block(void) {
    return keep(malloc(10));
}

SITE void child_leak(void) {
    keep(malloc(20));
}

SITE void *child_balanced(void) {
    return keep(malloc(30));
}

SITE void grandchild_leak(void) {
    keep(malloc(40));
}

static void *blocks[40];

static void reap(pid_t child) {
    int status = 0;
    must(child > 0 && waitpid(child, &status, 0) == child && status == 0, "child");
}

static void child(int which) {
    void *own[10];
    for (int i = 0; i < 20; i++) child_leak();
    for (int i = 0; i < 10; i++) own[i] = child_balanced();
    for (int i = 0; i < 10; i++) free(own[i]);
    for (int i = 0; i < 8; i++) free(blocks[i]);
    if (which == 1) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            for (int i = 0; i < 7; i++) grandchild_leak();
            _exit(0);
        }
        reap(grandchild);
    }
    _exit(0);
}

static void prepare(void) {}

static void workload(void) {
    for (int i = 0; i < 40; i++) blocks[i] = parent_block();
    for (int which = 0; which < 3; which++) {
        pid_t pid = fork();
        if (pid == 0) child(which);
        reap(pid);
    }
    for (int i = 0; i < 5; i++) free(blocks[i]);
}

TRUTH_MAIN
