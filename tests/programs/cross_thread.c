/* One thread allocates, another frees: nothing leaks, and nothing is temporary, since the next
 * event of the allocating thread never is the free.
 * TRUTH
 *   site handed_over calls=2000 bytes=50000
 *   site handed_over_and_kept calls=100 bytes=2600 live_blocks=50 live_bytes=1300
 *   foreign ld-linux only=command
 *   foreign pthread_create only=command
 *   total free_calls=2050 temporary_calls=0 unknown_frees=0
 * END
 */
#include "truth.h"
#include <pthread.h>
#include <semaphore.h>

static sem_t full, empty;
static void *slot;
static pthread_t consumer;

SITE void *handed_over(void) {
    return keep(malloc(25));
}

SITE void *handed_over_and_kept(void) {
    return keep(malloc(26));
}

static void give(void *p) {
    while (sem_wait(&empty) != 0) {
    }
    slot = p;
    sem_post(&full);
}

static void *consume(void *unused) {
    for (int i = 0; i < 2050; i++) {
        while (sem_wait(&full) != 0) {
        }
        free(slot);
        sem_post(&empty);
    }
    return unused;
}

static void prepare(void) {
    sem_init(&full, 0, 0);
    sem_init(&empty, 0, 1);
    must(pthread_create(&consumer, NULL, consume, NULL) == 0, "thread");
}

static void workload(void) {
    for (int i = 0; i < 100; i++) {
        void *p = handed_over_and_kept();
        if (i % 2 == 0) give(p);
    }
    for (int i = 0; i < 2000; i++) give(handed_over());
    must(pthread_join(consumer, NULL) == 0, "join");
}

TRUTH_MAIN
