/* The process ends while three threads are in the middle of allocator calls. How many calls they
 * got through is not known; what is known stands below.
 * TRUTH
 *   site known_leak calls=25 bytes=2500 live_blocks=25 live_bytes=2500
 *   foreign spinning
 *   foreign ld-linux
 *   foreign pthread_create
 * END
 */
#include "truth.h"
#include <pthread.h>
#include <time.h>

SITE void known_leak(void) {
    keep(malloc(100));
}

SITE void spinning(void) {
    free(keep(malloc(3000)));
    __asm__ volatile("" ::: "memory");
}

static void *run(void *unused) {
    for (;;) spinning();
    return unused;
}

static void prepare(void) {}

static void workload(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) must(pthread_create(&thread, NULL, run, NULL) == 0, "thread");
    for (int i = 0; i < 25; i++) known_leak();
    struct timespec some = {0, 50 * 1000 * 1000};
    nanosleep(&some, NULL);
    say("done\n");
    _exit(0);
}

TRUTH_MAIN
