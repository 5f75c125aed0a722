/* Threads that end otherwise than by returning: cancelled while they wait, pthread_exit deep in a
 * call, and the process's first thread ended while others go on allocating.
 * TRUTH
 *   site before_cancel calls=40 bytes=4000 live_blocks=40 live_bytes=4000
 *   site in_cleanup calls=4 bytes=36 live_blocks=4 live_bytes=36
 *   site before_exit calls=60 bytes=1200 live_blocks=60 live_bytes=1200
 *   site after_main_thread calls=500 bytes=11000 live_blocks=500 live_bytes=11000
 *   foreign ld-linux
 *   foreign libc.so
 *   foreign libgcc_s
 * END
 */
#include "truth.h"
#include <pthread.h>
#include <sys/syscall.h>

SITE void before_cancel(void) {
    keep(malloc(100));
}

SITE void in_cleanup(void) {
    keep(malloc(9));
}

SITE void before_exit(void) {
    keep(malloc(20));
}

SITE void after_main_thread(void) {
    keep(malloc(22));
}

static void cleanup(void *unused) {
    (void)unused;
    in_cleanup();
}

static void *run_until_cancelled(void *unused) {
    for (int i = 0; i < 10; i++) before_cancel();
    pthread_cleanup_push(cleanup, NULL);
    for (;;) pause();
    pthread_cleanup_pop(0);
    return unused;
}

/* The recursion ends in pthread_exit. */
SITE void exit_within(int depth) {
    before_exit();
    if (depth == 0) pthread_exit(NULL);
    exit_within(depth - 1);
    __asm__ volatile("" ::: "memory");
}

static void *run_until_exit(void *unused) {
    exit_within(19);
    return unused;
}

static pthread_t main_thread;

/* Goes on when the first thread is gone, ends the process itself. */
static void *run_on(void *waits) {
    pthread_join(main_thread, NULL);
    for (int i = 0; i < 500; i++) after_main_thread();
    say("done\n");
    if (waits) {
        char c;
        while (read(0, &c, 1) == 1 && c != '\n') {
        }
    }
    _exit(0);
}

static void prepare(void) {}

/* Never returns: the process ends in run_on. */
static void workload(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        must(pthread_create(&threads[i], NULL, run_until_cancelled, NULL) == 0, "thread");
        must(pthread_cancel(threads[i]) == 0, "cancel");
    }
    for (int i = 0; i < 4; i++) must(pthread_join(threads[i], NULL) == 0, "join");
    for (int i = 0; i < 3; i++) {
        must(pthread_create(&threads[i], NULL, run_until_exit, NULL) == 0, "thread");
        must(pthread_join(threads[i], NULL) == 0, "join");
    }
    main_thread = pthread_self();
    void *waits = truth_arguments[-1][0] == '-' ? &main_thread : NULL;
    must(pthread_create(&threads[0], NULL, run_on, waits) == 0, "thread");
    pthread_exit(NULL);
}

TRUTH_MAIN
