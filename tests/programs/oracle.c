/* Counts what a program asks of malloc by interposition, so that the truth programs' own claims are
 * checked by something that shares nothing with memtrace. Preloaded; writes ORACLE_OUT.PID when the
 * process ends:
 *   site FRAMES calls bytes live_blocks live_bytes temporary failed peak_bytes
 *   total free_calls unknown_frees inherited_frees peak_bytes
 * FRAMES is the call's return address as MODULE:SYMBOL by the dynamic symbols (build with -rdynamic)
 * or MODULE:+0xOFFSET; with ORACLE_DEEP set it is the whole stack, innermost first,
 * byte 1 between. Fields are separated by tabs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *__libc_valloc(size_t);
void *__libc_pvalloc(size_t);
void __libc_free(void *);
pid_t __fork(void);

enum { SITES = 1024, BLOCKS = 1 << 23, INHERITED = SITES, DEPTH = 24 };

struct site {
    void *frames[DEPTH];
    char names[4096]; /* named at once: a library may be gone at the end */
    uint64_t calls, bytes, live_blocks, live_bytes, temporary, failed, peak_bytes;
};

struct block {
    uintptr_t address; /* 0 free, 1 deleted */
    uint64_t size;
    uint32_t site;
};

static struct site sites[SITES];
static unsigned site_count;
static struct block *blocks;
static uint64_t live, peak, free_calls, unknown_frees, inherited_frees;
static int lock, dumped;
static __thread int inside __attribute__((tls_model("initial-exec")));
static __thread uintptr_t last __attribute__((tls_model("initial-exec")));
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_reallocarray)(void *, size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);

static void take(void) {
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE)) {
    }
    if (!blocks) {
        blocks = mmap(NULL, sizeof(struct block) * BLOCKS, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (blocks == MAP_FAILED) _exit(95);
    }
}

static void give(void) {
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
}

static struct site *site_of(void *caller) {
    static int deep = -1;
    void *frames[DEPTH] = {caller};
    if (deep < 0) deep = getenv("ORACLE_DEEP") != NULL;
    if (deep) {
        void *raw[DEPTH + 8];
        int n = backtrace(raw, DEPTH + 8);
        int first = 0;
        while (first < n && raw[first] != caller) first++;
        for (int i = 0; first + i < n && i < DEPTH; i++) frames[i] = raw[first + i];
    }
    for (unsigned i = 0; i < site_count; i++)
        if (memcmp(sites[i].frames, frames, sizeof frames) == 0) return &sites[i];
    if (site_count == SITES) _exit(94);
    struct site *site = &sites[site_count++];
    memcpy(site->frames, frames, sizeof frames);
    for (int i = 0; i < DEPTH && frames[i]; i++) {
        Dl_info info = {0};
        char name[600];
        dladdr((char *)frames[i] - 1, &info);
        const char *slash = info.dli_fname ? strrchr(info.dli_fname, '/') : NULL;
        const char *module = slash ? slash + 1 : info.dli_fname ? info.dli_fname : "?";
        if (info.dli_sname)
            snprintf(name, sizeof name, "%s%s:%s", i ? "\1" : "", module, info.dli_sname);
        else
            snprintf(name, sizeof name, "%s%s:+0x%lx", i ? "\1" : "", module,
                     (unsigned long)((char *)frames[i] - 1 - (char *)info.dli_fbase));
        if (strlen(site->names) + strlen(name) + 1 < sizeof site->names) strcat(site->names, name);
    }
    return site;
}

static struct block *find(uintptr_t address, int insert) {
    size_t at = (address >> 4) * 0x9e3779b97f4a7c15ull >> 41;
    struct block *hole = NULL;
    for (size_t n = 0; n < BLOCKS; n++, at = (at + 1) & (BLOCKS - 1)) {
        struct block *b = &blocks[at];
        if (b->address == address) return b;
        if (b->address == 1 && !hole) hole = b;
        if (b->address == 0) return insert ? (hole ? hole : b) : NULL;
    }
    _exit(93);
}

static void allocated(void *p, size_t size, void *caller) {
    struct site *site = site_of(caller);
    if (!p) {
        site->failed++;
        return;
    }
    struct block *b = find((uintptr_t)p, 1);
    b->address = (uintptr_t)p;
    b->size = size;
    b->site = (uint32_t)(site - sites);
    site->calls++;
    site->bytes += size;
    site->live_blocks++;
    site->live_bytes += size;
    live += size;
    last = (uintptr_t)p;
    if (live > peak) {
        peak = live;
        for (unsigned i = 0; i < site_count; i++) sites[i].peak_bytes = sites[i].live_bytes;
    }
}

static void released(void *p) {
    struct block *b = find((uintptr_t)p, 0);
    if (!b) {
        unknown_frees++;
    } else if (b->site == INHERITED) {
        inherited_frees++;
        b->address = 1;
    } else {
        struct site *site = &sites[b->site];
        free_calls++;
        site->live_blocks--;
        site->live_bytes -= b->size;
        live -= b->size;
        if (last == (uintptr_t)p) site->temporary++;
        b->address = 1;
    }
    last = 0;
}

#define COUNTED(CALL, SIZE)                                                                        \
    if (inside) return CALL;                                                                       \
    inside = 1;                                                                                    \
    void *p = CALL;                                                                                \
    take();                                                                                        \
    allocated(p, SIZE, __builtin_return_address(0));                                               \
    give();                                                                                        \
    inside = 0;                                                                                    \
    return p;

void *malloc(size_t size) {
    COUNTED(__libc_malloc(size), size)
}

void *calloc(size_t n, size_t size) {
    COUNTED(__libc_calloc(n, size), n * size)
}

void *memalign(size_t alignment, size_t size) {
    COUNTED(__libc_memalign(alignment, size), size)
}

void *valloc(size_t size) {
    COUNTED(__libc_valloc(size), size)
}

void *pvalloc(size_t size) {
    COUNTED(__libc_pvalloc(size), size)
}

void *aligned_alloc(size_t alignment, size_t size) {
    if (!real_aligned_alloc) real_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    COUNTED(real_aligned_alloc(alignment, size), size)
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (!real_posix_memalign) real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    if (inside) return real_posix_memalign(result, alignment, size);
    inside = 1;
    int error = real_posix_memalign(result, alignment, size);
    take();
    allocated(error ? NULL : *result, size, __builtin_return_address(0));
    give();
    inside = 0;
    return error;
}

/* The lock is held across the call, so that the old address is released before it is seen again. */
static void *resize(void *old, size_t n, size_t size, int array, void *caller) {
    inside = 1;
    take();
    void *p = array ? real_reallocarray(old, n, size) : __libc_realloc(old, size);
    if (p || (!array && size == 0 && old) || (array && n * size == 0 && old)) {
        if (old) released(old);
        if (p) allocated(p, n * size, caller);
    } else {
        allocated(NULL, n * size, caller);
    }
    give();
    inside = 0;
    return p;
}

void *realloc(void *old, size_t size) {
    if (inside) return __libc_realloc(old, size);
    return resize(old, 1, size, 0, __builtin_return_address(0));
}

void *reallocarray(void *old, size_t n, size_t size) {
    if (!real_reallocarray) real_reallocarray = dlsym(RTLD_NEXT, "reallocarray");
    if (inside) return real_reallocarray(old, n, size);
    return resize(old, n, size, 1, __builtin_return_address(0));
}

void free(void *p) {
    if (!inside && p) {
        inside = 1;
        take();
        released(p);
        give();
        inside = 0;
    }
    __libc_free(p);
}

/* The child's copies of its parent's blocks are the parent's. */
pid_t fork(void) {
    take();
    pid_t pid = __fork();
    if (pid == 0) {
        for (size_t i = 0; i < BLOCKS; i++)
            if (blocks[i].address > 1) blocks[i].site = INHERITED;
        memset(sites, 0, sizeof sites);
        site_count = 0;
        live = peak = free_calls = unknown_frees = inherited_frees = 0;
        last = 0;
    }
    give();
    return pid;
}

static void dump(void) {
    const char *base = getenv("ORACLE_OUT");
    if (!base || __atomic_exchange_n(&dumped, 1, __ATOMIC_SEQ_CST)) return;
    inside = 1;
    static char line[8192];
    snprintf(line, sizeof line, "%s.%d", base, (int)getpid());
    int fd = open(line, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return;
    for (unsigned i = 0; i < site_count; i++) {
        struct site *s = &sites[i];
        dprintf(fd, "site\t%s\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\n", s->names, s->calls, s->bytes,
                s->live_blocks, s->live_bytes, s->temporary, s->failed, s->peak_bytes);
    }
    dprintf(fd, "total\t%lu\t%lu\t%lu\t%lu\n", free_calls, unknown_frees, inherited_frees, peak);
    close(fd);
    inside = 0;
}

/* backtrace loads its helper library at the first call. */
__attribute__((constructor)) static void at_start(void) {
    void *frame;
    inside = 1;
    backtrace(&frame, 1);
    inside = 0;
}

__attribute__((destructor)) static void at_exit(void) {
    dump();
}

__attribute__((noreturn)) void _exit(int status) {
    static void (*real)(int);
    dump();
    inside = 1;
    if (!real) real = (void (*)(int))dlsym(RTLD_NEXT, "_exit");
    real(status);
    __builtin_unreachable();
}
