/* A small service that leaks: what `cargo xtask demo` records.
 *
 * Four workers answer requests. Each request is parsed, finds its session in a cache, and gets a
 * page. Two mistakes of the common kind:
 *
 *   - a session that is signed out leaves the cache, but only the entry is freed: the profile that
 *     was loaded for it stays behind (load_profile, about 4 KB a time);
 *   - every failed request adds a line to an audit trail that nobody ever trims (audit_failure,
 *     about 100 bytes a time).
 *
 * Everything else is freed as it should be. Ends on SIGTERM, or with the process that started it. */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WORKERS 4
#define BUCKETS 256
#define PROFILE_BYTES 4096
/* Each function stays a frame of its own, as it would be in a program of real size. */
#define FRAME __attribute__((noinline, noclone))

struct profile {
    char data[PROFILE_BYTES];
};

struct session {
    struct session *next;
    uint32_t user;
    unsigned requests;
    struct profile *profile;
};

struct request {
    uint32_t user;
    int sign_out;
    char *path;
};

struct page {
    char *text;
    size_t length, capacity;
};

struct audit_line {
    struct audit_line *next;
    char text[88];
};

static struct session *cache[BUCKETS];
static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static struct audit_line *audit_trail;
static pthread_mutex_t audit_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_ulong answered;

static void *checked(void *block) {
    if (!block) {
        fputs("session_service: out of memory\n", stderr);
        exit(1);
    }
    return block;
}

static FRAME struct profile *load_profile(uint32_t user) {
    struct profile *profile = checked(malloc(sizeof *profile));
    memset(profile->data, (int)(user & 0x7f), sizeof profile->data);
    return profile;
}

static FRAME struct session *open_session(uint32_t user) {
    struct session *session = checked(calloc(1, sizeof *session));
    session->user = user;
    session->profile = load_profile(user);
    return session;
}

static FRAME struct session *find_session(uint32_t user) {
    struct session **bucket = &cache[user % BUCKETS];
    for (struct session *session = *bucket; session; session = session->next)
        if (session->user == user)
            return session;
    struct session *session = open_session(user);
    session->next = *bucket;
    *bucket = session;
    return session;
}

static FRAME void close_session(uint32_t user) {
    for (struct session **at = &cache[user % BUCKETS]; *at; at = &(*at)->next) {
        struct session *session = *at;
        if (session->user == user) {
            *at = session->next;
            free(session); /* and session->profile? */
            return;
        }
    }
}

static FRAME void audit_failure(const struct request *request) {
    struct audit_line *line = checked(malloc(sizeof *line));
    snprintf(line->text, sizeof line->text, "user %u: no such page %s", request->user,
             request->path);
    pthread_mutex_lock(&audit_lock);
    line->next = audit_trail;
    audit_trail = line;
    pthread_mutex_unlock(&audit_lock);
}

static FRAME void append(struct page *page, const char *text, size_t length) {
    if (page->length + length > page->capacity) {
        page->capacity = 2 * page->capacity + length;
        page->text = checked(realloc(page->text, page->capacity));
    }
    memcpy(page->text + page->length, text, length);
    page->length += length;
}

static FRAME void render_page(const struct request *request, unsigned requests) {
    struct page page = {0};
    for (unsigned row = 0; row < 20; row++) {
        char *text = checked(malloc(64)); /* freed at once: a temporary allocation */
        int length = snprintf(text, 64, "<li>%s #%u</li>", request->path, requests + row);
        append(&page, text, (size_t)length);
        free(text);
    }
    free(page.text);
}

static FRAME struct request *parse_request(unsigned *seed) {
    struct request *request = checked(malloc(sizeof *request));
    request->user = (uint32_t)(rand_r(seed) % 500);
    request->sign_out = rand_r(seed) % 8 == 0;
    request->path = checked(malloc(32));
    snprintf(request->path, 32, "/page/%d", rand_r(seed) % 100);
    return request;
}

static FRAME void handle_request(unsigned *seed) {
    struct request *request = parse_request(seed);
    pthread_mutex_lock(&cache_lock);
    unsigned requests = ++find_session(request->user)->requests;
    if (request->sign_out)
        close_session(request->user);
    pthread_mutex_unlock(&cache_lock);
    if (strcmp(request->path, "/page/7") == 0)
        audit_failure(request);
    else
        render_page(request, requests);
    free(request->path);
    free(request);
    atomic_fetch_add_explicit(&answered, 1, memory_order_relaxed);
}

static void *worker(void *argument) {
    unsigned seed = (unsigned)(uintptr_t)argument;
    const struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
    for (;;) {
        handle_request(&seed);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

int main(void) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    /* The workers inherit the mask, so that the signal waits for sigwait below. */
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ending, NULL);
    for (uintptr_t i = 1; i <= WORKERS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)i) != 0) {
            fputs("session_service: cannot start a worker\n", stderr);
            return 1;
        }
    }
    printf("ready\n");
    fflush(stdout);
    int signal;
    sigwait(&ending, &signal);
    fprintf(stderr, "session_service: answered %lu requests\n", atomic_load(&answered));
    return 0;
}
