/* Four threads, each with its own counts, all started and ended during the recording.
 * TRUTH
 *   site thread_one calls=1000 bytes=16000 live_blocks=1000 live_bytes=16000
 *   site thread_two calls=2000 bytes=64000 live_blocks=1000 live_bytes=32000
 *   site thread_three calls=3000 bytes=144000 temporary=3000
 *   site thread_four calls=500 bytes=2048000 live_blocks=500 live_bytes=2048000
 *   site from_all calls=4000 bytes=28000 live_blocks=4000 live_bytes=28000
 *   foreign ld-linux
 *   foreign pthread_create
 * END
 * The C library makes one block a thread (its dtv), by calloc in the loader.
 */
#include "truth.h"
#include <pthread.h>

SITE void from_all(void) {
    keep(malloc(7));
}

SITE void thread_one(void) {
    keep(malloc(16));
}

SITE void *thread_two(void) {
    return keep(malloc(32));
}

SITE void *thread_three(void) {
    return keep(malloc(48));
}

SITE void thread_four(void) {
    keep(malloc(4096));
}

static void *run_one(void *unused) {
    for (int i = 0; i < 1000; i++) {
        thread_one();
        from_all();
    }
    return unused;
}

static void *run_two(void *unused) {
    for (int i = 0; i < 1000; i++) {
        void *first = thread_two();
        thread_two();
        from_all();
        free(first);
    }
    return unused;
}

static void *run_three(void *unused) {
    for (int i = 0; i < 3000; i++) {
        free(thread_three());
        if (i % 3 == 0) from_all();
    }
    return unused;
}

static void *run_four(void *unused) {
    for (int i = 0; i < 1000; i++) {
        if (i % 2 == 0) thread_four();
        from_all();
    }
    return unused;
}

static void prepare(void) {}

static void workload(void) {
    static void *(*const run[4])(void *) = {run_one, run_two, run_three, run_four};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) must(pthread_create(&threads[i], NULL, run[i], NULL) == 0, "thread");
    for (int i = 0; i < 4; i++) must(pthread_join(threads[i], NULL) == 0, "join");
}

TRUTH_MAIN
