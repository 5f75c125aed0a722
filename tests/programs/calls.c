/* The library that leak.py calls through ctypes. */
#include <stdlib.h>

__attribute__((noipa)) void from_python(unsigned long size) {
    void *p = malloc(size);
    __asm__ volatile("" : "+r"(p) : : "memory");
}

__attribute__((noipa)) void *given_to_python(unsigned long size) {
    void *p = calloc(1, size);
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

__attribute__((noipa)) void taken_back(void *p) {
    free(p);
    __asm__ volatile("" : : : "memory");
}
