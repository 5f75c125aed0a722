/* Four threads allocate and free as fast as they can; blocks of one size, so that calls and bytes
 * of a lossy recording can be checked against each other.
 * TRUTH
 *   site storm_pair calls=800000 bytes=51200000 temporary=800000
 *   site storm_leak calls=4000 bytes=256000 live_blocks=4000 live_bytes=256000
 *   total free_calls=800000 unknown_frees=0 only=attach
 *   foreign ld-linux only=command
 *   foreign pthread_create only=command
 * END
 */
#include "truth.h"
#include <pthread.h>

static pthread_barrier_t start;
static pthread_t threads[4];

SITE void storm_pair(void) {
    free(keep(malloc(64)));
    __asm__ volatile("" ::: "memory");
}

SITE void storm_leak(void) {
    keep(malloc(64));
}

static void *run(void *unused) {
    pthread_barrier_wait(&start);
    for (int i = 0; i < 200000; i++) {
        storm_pair();
        if (i % 200 == 0) storm_leak();
    }
    return unused;
}

static void prepare(void) {
    pthread_barrier_init(&start, NULL, 5);
    for (int i = 0; i < 4; i++) must(pthread_create(&threads[i], NULL, run, NULL) == 0, "thread");
}

static void workload(void) {
    pthread_barrier_wait(&start);
    for (int i = 0; i < 4; i++) must(pthread_join(threads[i], NULL) == 0, "join");
}

TRUTH_MAIN
