/* What `cargo xtask bench` measures: pairs of malloc and free, and blocks that stay.
 *
 * Commands on stdin, one a line, each answered by one line on stdout:
 *   pair N   N times malloc and free; answers the CPU time of it in ns
 *   hold N   allocates N blocks that stay until the end; answers the same
 * The time is this thread's CPU time, user and system, so that what a probe costs is in it and what
 * other processes do is not. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 64

static long long cpu_ns(void) {
    struct timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0)
        abort();
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The compiler must not see that the pair is of no use. */
static void keep(void *block) {
    __asm__ volatile("" : : "r"(block) : "memory");
}

__attribute__((noinline)) static void pair(long count) {
    for (long i = 0; i < count; i++) {
        void *block = malloc(BLOCK);
        keep(block);
        free(block);
    }
}

__attribute__((noinline)) static void hold(long count) {
    for (long i = 0; i < count; i++)
        keep(malloc(BLOCK));
}

int main(void) {
    char line[64];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        long count;
        char what;
        if (sscanf(line, "%c%*s %ld", &what, &count) != 2 || (what != 'p' && what != 'h'))
            return 1;
        long long start = cpu_ns();
        (what == 'p' ? pair : hold)(count);
        printf("%lld\n", cpu_ns() - start);
    }
    return 0;
}
