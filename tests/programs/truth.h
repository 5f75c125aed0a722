/* Frame of the truth programs: how they start, wait and end, without one hidden allocation.
 *
 * A program defines `prepare` (before the measured part) and `workload` (the measured part) and
 * ends with TRUTH_MAIN. Straight, it runs both and returns 0. With --wait as its first argument it
 * prints "ready PID" after prepare, waits for a line, SIGUSR1 or end of file, runs the workload,
 * prints "done" and waits again, so that a recorder can attach first and stop last.
 *
 * What each call site does is written at the top of each program, one line a site:
 *   site NAME calls=N bytes=N [live_blocks=N live_bytes=N] [temporary=N] [failed=N] [peak_bytes=N]
 *             [depth=any] [only=attach|command]
 *   total [free_calls=N] [unknown_frees=N] [peak_bytes=N] [inherited_frees=N] ... [only=...]
 *   foreign TEXT [only=...]    allocations whose innermost frame's function or module has TEXT in
 *                              it are the C library's or the language's own, not the program's
 * What is not given is 0, except total keys and peak_bytes, which are then not compared.
 */
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* A call site: never inlined, cloned or otherwise seen through. */
#define SITE __attribute__((noipa, used))

#ifdef __cplusplus
#define TRUTH_EXTERN extern "C"
#else
#define TRUTH_EXTERN extern
#endif

/* The compiler can neither drop the call that made `p` nor make it a tail call. */
static inline void *keep(void *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

/* A number the compiler knows nothing about (so that it does not warn of huge sizes). */
static inline size_t opaque(size_t n) {
    __asm__ volatile("" : "+r"(n));
    return n;
}

#define HUGE_SIZE opaque((size_t)1 << 62)

static inline void say(const char *text) {
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t n = write(1, text, left);
        if (n < 0) {
            if (errno == EINTR) continue;
            _exit(97);
        }
        text += n;
        left -= (size_t)n;
    }
}

static inline void say_number(const char *before, unsigned long n, const char *after) {
    char line[128];
    char digits[24];
    int at = (int)sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    line[0] = 0;
    strncat(line, before, 40);
    strncat(line, digits + at, 24);
    strncat(line, after, 40);
    say(line);
}

/* The program's own check of what the allocator did; a failed one ends it with status 98. */
static inline void must(int condition, const char *what) {
    if (!condition) {
        say("FAILED: ");
        say(what);
        say("\n");
        _exit(98);
    }
}

/* Until a line on stdin, its end, or SIGUSR1 (blocked since the start, so never missed). */
static inline void wait_for_word(int signals) {
    for (;;) {
        struct pollfd fds[2] = {{0, POLLIN, 0}, {signals, POLLIN, 0}};
        int n = poll(fds, 2, -1);
        if (n < 0 && errno == EINTR) continue;
        must(n > 0, "poll");
        if (fds[1].revents & POLLIN) {
            struct signalfd_siginfo info;
            must(read(signals, &info, sizeof info) == (ssize_t)sizeof info, "signalfd");
            return;
        }
        if (fds[0].revents) {
            char c;
            ssize_t got = read(0, &c, 1);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0 || c == '\n') return;
        }
    }
}

TRUTH_EXTERN char **truth_arguments; /* what follows --wait, ended by NULL */

#define TRUTH_MAIN                                                                                 \
    char **truth_arguments;                                                                        \
    int main(int argc, char **argv) {                                                              \
        int waits = argc > 1 && strcmp(argv[1], "--wait") == 0;                                    \
        int signals = -1;                                                                          \
        if (waits) {                                                                               \
            sigset_t set;                                                                          \
            sigemptyset(&set);                                                                     \
            sigaddset(&set, SIGUSR1);                                                              \
            sigprocmask(SIG_BLOCK, &set, NULL);                                                    \
            signals = signalfd(-1, &set, SFD_CLOEXEC);                                             \
        }                                                                                          \
        truth_arguments = argv + 1 + waits;                                                        \
        prepare();                                                                                 \
        if (waits) {                                                                               \
            say_number("ready ", (unsigned long)getpid(), "\n");                                   \
            wait_for_word(signals);                                                                \
        }                                                                                          \
        workload();                                                                                \
        say("done\n");                                                                             \
        if (waits) wait_for_word(signals);                                                         \
        return 0;                                                                                  \
    }

#endif
