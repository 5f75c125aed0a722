// The program that the live tests probe. It announces itself ("ready"), waits for a line, does what
// its arguments say, says "done N" with the number of hits there must have been, and waits for the
// end of its input.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

// The clobber makes `push %rbx` the first instruction, which the kernel emulates.
__attribute__((noinline, visibility("default"))) long hit(long n) {
    __asm__ volatile("" ::: "rbx", "memory");
    return n + 1;
}

static void hits(long n) {
    for (long i = 0; i < n; i++)
        hit(i);
}

static void *hits_thread(void *n) {
    hits((long)n);
    return 0;
}

static long wait_child(pid_t child, long expected) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
        exit(9);
    return expected;
}

static void line(void) {
    char c;
    while (read(0, &c, 1) == 1 && c != '\n')
        ;
}

static volatile int stop_churn;
static int go[2]; // a pipe that is closed when the forks may begin
static long churned;

// Forks once it may, from a thread that may be younger than the attachment or older.
static void *churn_thread(void *unused) {
    char c;
    (void)unused;
    if (read(go[0], &c, 1) != 0)
        exit(5);
    pid_t child = fork();
    if (child == 0) {
        hits(3);
        _exit(0);
    }
    __sync_fetch_and_add(&churned, wait_child(child, 3));
    return 0;
}

static void *churn_maker(void *limit) {
    static pthread_t made[100000];
    long count = 0;
    while (!stop_churn && count < (long)limit) {
        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, 16384);
        if (pthread_create(&made[count], &attr, churn_thread, 0) != 0)
            exit(8);
        count++;
        usleep(20);
    }
    for (long i = 0; i < count; i++)
        pthread_join(made[i], 0);
    return 0;
}

static volatile int leader_ends;

static void *late_forks(void *n) {
    char state = 0;
    while (!leader_ends || state != 'Z') {
        FILE *stat = fopen("/proc/self/stat", "r");
        if (!stat || fscanf(stat, "%*d %*s %c", &state) != 1)
            exit(4);
        fclose(stat);
        usleep(1000);
    }
    printf("child %d\n", getpid());
    fflush(stdout);
    line();
    long total = 0;
    for (long i = 0; i < (long)n; i++) {
        pid_t child = fork();
        if (child == 0) {
            hits(2);
            _exit(0);
        }
        total += wait_child(child, 2);
    }
    printf("done %ld\n", total);
    fflush(stdout);
    line();
    exit(0);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    long n = argc > 2 ? atol(argv[2]) : 0, m = argc > 3 ? atol(argv[3]) : 0, total = 0;
    if (!strcmp(mode, "now")) { // what an exec'ed child does
        hits(n);
        return 0;
    }
    if (!strcmp(mode, "lib")) {
        void *lib = dlopen(argv[3], RTLD_NOW);
        long (*f)(long) = lib ? dlsym(lib, "hit") : 0;
        if (!f)
            return 7;
        for (long i = 0; i < n; i++)
            f(i);
        return 0;
    }
    pthread_t maker;
    if (!strcmp(mode, "churn") && pipe(go) == 0)
        pthread_create(&maker, 0, churn_maker, (void *)n);
    pthread_t heir;
    if (!strcmp(mode, "leader"))
        pthread_create(&heir, 0, late_forks, (void *)n);
    if (!strcmp(mode, "forever"))
        printf("ready\n"), fflush(stdout);
    else {
        printf("ready\n");
        fflush(stdout);
        line();
    }
    if (!strcmp(mode, "deep-siblings")) {
        mode = "siblings";
        pid_t child = fork();
        if (child != 0)
            return (int)wait_child(child, 0);
    }
    if (!strcmp(mode, "hits")) {
        hits(n);
        total = n;
    } else if (!strcmp(mode, "threads")) {
        pthread_t threads[64];
        for (long i = 0; i < m; i++)
            pthread_create(&threads[i], 0, hits_thread, (void *)n);
        for (long i = 0; i < m; i++)
            pthread_join(threads[i], 0);
        total = n * m;
    } else if (!strcmp(mode, "forks")) { // n children with m hits each, every second with a child
        for (long i = 0; i < n; i++) {
            pid_t child = fork();
            if (child == 0) {
                hits(m);
                if (i % 2) {
                    pid_t grandchild = fork();
                    if (grandchild == 0) {
                        hits(m);
                        _exit(0);
                    }
                    wait_child(grandchild, 0);
                }
                _exit(0);
            }
            total += wait_child(child, i % 2 ? 2 * m : m);
        }
    } else if (!strcmp(mode, "execs")) { // fork+exec, vfork+exec, posix_spawn in turn
        for (long i = 0; i < n; i++) {
            char count[24];
            snprintf(count, sizeof count, "%ld", m);
            char *args[] = {argv[0], "now", count, 0};
            pid_t child;
            if (i % 3 == 0) {
                child = fork();
            } else if (i % 3 == 1) {
                child = vfork();
            } else if (posix_spawn(&child, "/proc/self/exe", 0, 0, args, environ) != 0) {
                return 6;
            }
            if (i % 3 != 2 && child == 0) {
                execve("/proc/self/exe", args, environ);
                _exit(1);
            }
            total += wait_child(child, m);
        }
    } else if (!strcmp(mode, "dlopen")) {
        char count[24];
        snprintf(count, sizeof count, "%ld", n);
        char *args[] = {argv[0], "lib", count, argv[4], 0};
        pid_t child = fork();
        if (child == 0) {
            execve("/proc/self/exe", args, environ);
            _exit(1);
        }
        total = wait_child(child, n);
    } else if (!strcmp(mode, "churn")) {
        stop_churn = 1;
        close(go[1]);
        pthread_join(maker, 0);
        total = churned;
    } else if (!strcmp(mode, "leader")) { // the leader ends, an older thread forks
        leader_ends = 1;
        pthread_exit(0);
    } else if (!strcmp(mode, "young-leader")) { // the leader ends, a younger thread hits and forks
        leader_ends = 1;
        pthread_create(&heir, 0, late_forks, (void *)n);
        pthread_exit(0);
    } else if (!strcmp(mode, "siblings")) { // one child outlives n others, all on one CPU
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        sched_setaffinity(0, sizeof one, &one);
        int start[2];
        char c;
        if (pipe(start) != 0)
            return 5;
        pid_t old = fork();
        if (old == 0) {
            close(start[1]);
            for (long i = 0; i < n; i++)
                sched_yield();
            if (read(start[0], &c, 1) != 0)
                _exit(5);
            hits(m);
            _exit(0);
        }
        printf("child %d\n", old);
        fflush(stdout);
        line();
        for (long i = 0; i < n; i++) {
            pid_t child = fork();
            if (child == 0) {
                sched_yield();
                _exit(0);
            }
            sched_yield();
            wait_child(child, 0);
        }
        close(start[1]);
        total = wait_child(old, m);
    } else if (!strcmp(mode, "cost")) { // nanoseconds of CPU a hit, times 1000, of n hits
        struct timespec a, b;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
        hits(n);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
        total = ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec) * 1000 / n;
    } else if (!strcmp(mode, "forever")) {
        for (;;) {
            hits(1);
            usleep(50);
        }
    }
    printf("done %ld\n", total);
    fflush(stdout);
    line();
    return 0;
}
