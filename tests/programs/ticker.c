/* Works at a steady pace until told to stop, then says what it did: 100 leaks and 100 pairs every
 * tenth of a second. "done TICKS" on stdout; each tick is checked by the program itself.
 */
#include "truth.h"
#include <time.h>

SITE void *tick_leak(void) {
    return keep(malloc(40));
}

SITE void *tick_pair(void) {
    return keep(malloc(400));
}

int main(void) {
    say_number("ready ", (unsigned long)getpid(), "\n");
    unsigned long ticks = 0;
    for (;;) {
        struct pollfd in = {0, POLLIN, 0};
        struct timespec began, now;
        clock_gettime(CLOCK_MONOTONIC, &began);
        for (int i = 0; i < 100; i++) {
            char *leaked = (char *)tick_leak();
            char *pair = (char *)tick_pair();
            memset(leaked, 1, 40);
            memset(pair, 2, 400);
            must(leaked[39] == 1 && pair[399] == 2, "memory");
            free(pair);
        }
        ticks++;
        long left = 100;
        do {
            if (poll(&in, 1, (int)left) > 0) {
                say_number("done ", ticks, "\n");
                return 0;
            }
            clock_gettime(CLOCK_MONOTONIC, &now);
            left = 100 - ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000);
        } while (left > 0);
    }
}
