/* No C library, no allocator: says it is ready and sleeps by raw system calls. Built static and
 * stripped. */
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c)
                     : "rcx", "r11", "memory");
    return result;
}

void _start(void) {
    char c;
    call(1, 1, (long)"ready 0\n", 8);
    call(0, 0, (long)&c, 1);
    call(231, 0, 0, 0);
    __builtin_unreachable();
}
