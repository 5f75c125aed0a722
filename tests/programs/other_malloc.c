/* A library with a malloc of its own for its own use (as an allocator that is linked into a plugin):
 * loaded beside the C library it takes nothing over. Built as a shared library. */
#include <stddef.h>

static _Alignas(16) char room[1 << 20];
static size_t used;

void *malloc(size_t size);
void *calloc(size_t n, size_t size);
void *realloc(void *old, size_t size);
void free(void *p);
void use_other_malloc(void);

void *malloc(size_t size) {
    size = (size + 15) & ~(size_t)15;
    if (size > sizeof room - used) return NULL;
    void *p = room + used;
    used += size;
    return p;
}

void *calloc(size_t n, size_t size) {
    return malloc(n * size);
}

void *realloc(void *old, size_t size) {
    (void)old;
    return malloc(size);
}

void free(void *p) {
    __asm__ volatile("" : : "r"(p) : "memory");
}

__attribute__((noipa)) void use_other_malloc(void) {
    void *p = malloc(77);
    __asm__ volatile("" : "+r"(p) : : "memory");
}
