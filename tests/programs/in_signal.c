/* Allocations in a signal handler, on the usual stack and on one of its own; the handler interrupts
 * a function that has just been entered, where an unwinder must not look up the address before.
 * TRUTH
 *   site handler_leak calls=60 bytes=1260 live_blocks=60 live_bytes=1260
 *   total free_calls=0 unknown_frees=0
 * END
 */
#include "truth.h"
#include <sys/syscall.h>
#include <ucontext.h>

SITE void handler_leak(void) {
    keep(malloc(21));
}

/* Steps over the illegal instruction (2 bytes) that brought it here. */
SITE void handler(int signal, siginfo_t *info, void *context) {
    (void)info;
    handler_leak();
    if (signal == SIGILL) ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

SITE void interrupted_in_a_call(int signal) {
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal);
    __asm__ volatile("" ::: "memory");
}

/* Interrupted at its very first instruction. */
__attribute__((noipa, naked)) void interrupted_at_entry(void) {
    __asm__ volatile("ud2\n\tret");
}

static char own_stack[65536];

static void prepare(void) {
    stack_t stack = {.ss_sp = own_stack, .ss_size = sizeof own_stack, .ss_flags = 0};
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    must(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    must(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
    must(sigaction(SIGILL, &action, NULL) == 0, "sigaction");
    action.sa_flags |= SA_ONSTACK;
    must(sigaction(SIGWINCH, &action, NULL) == 0, "sigaction");
}

SITE void workload(void) {
    for (int i = 0; i < 20; i++) {
        interrupted_in_a_call(SIGUSR2);
        interrupted_in_a_call(SIGWINCH);
        interrupted_at_entry();
    }
}

TRUTH_MAIN
