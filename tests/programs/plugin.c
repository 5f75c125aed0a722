/* A library that leaks, loaded by plugin_host.c; PLUGIN names its one function. */
#include <stdlib.h>

void PLUGIN(int calls, unsigned long size);

__attribute__((noipa)) void PLUGIN(int calls, unsigned long size) {
    for (int i = 0; i < calls; i++) {
        void *p = malloc(size);
        __asm__ volatile("" : "+r"(p) : : "memory");
    }
}
