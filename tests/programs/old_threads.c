/* Threads that run before the recording begins: the recorder must attach every one of them. The
 * main thread itself allocates nothing.
 * TRUTH
 *   site worker_leak calls=1000 bytes=40000 live_blocks=1000 live_bytes=40000
 *   site worker_temporary calls=1000 bytes=10000 temporary=1000
 *   foreign ld-linux only=command
 *   foreign pthread_create only=command
 *   total free_calls=1000 unknown_frees=0 only=attach
 * END
 */
#include "truth.h"
#include <pthread.h>

static pthread_barrier_t start;

SITE void worker_leak(void) {
    keep(malloc(40));
}

SITE void *worker_temporary(void) {
    return keep(malloc(10));
}

static pthread_t threads[4];

static void *run(void *unused) {
    pthread_barrier_wait(&start);
    for (int i = 0; i < 250; i++) {
        worker_leak();
        free(worker_temporary());
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
