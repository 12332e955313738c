/* os.c - see os.h. The only file of the project's C that includes system headers beyond C11's. */
#if defined(__linux__)
#define _GNU_SOURCE
#else
#define _POSIX_C_SOURCE 200809L
#define _DARWIN_C_SOURCE
#endif

#include "os.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

void *os_pages(int64_t bytes) {
    void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
    if (memory == MAP_FAILED) return NULL;
#if defined(MADV_HUGEPAGE)
    /* A hint only: without huge pages everything still works, page by page. */
    (void)madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
#endif
    return memory;
}

void os_free_pages(void *memory, int64_t bytes) {
    if (memory) munmap(memory, (size_t)bytes);
}

struct os_thread {
    pthread_t handle;
    void (*body)(void *);
    void *argument;
};

static void *thread_main(void *raw) {
    os_thread *thread = raw;
    thread->body(thread->argument);
    return NULL;
}

os_thread *os_start(void (*body)(void *), void *argument) {
    os_thread *thread = malloc(sizeof *thread);
    if (!thread) return NULL;
    thread->body = body;
    thread->argument = argument;
    if (pthread_create(&thread->handle, NULL, thread_main, thread) != 0) {
        free(thread);
        return NULL;
    }
    return thread;
}

void os_join(os_thread *thread) {
    if (!thread) return;
    pthread_join(thread->handle, NULL);
    free(thread);
}

int64_t os_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t os_thread_now(void) {
#if defined(CLOCK_THREAD_CPUTIME_ID)
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0)
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
#endif
    return os_now();
}

void os_yield(void) { sched_yield(); }

void os_sleep(int64_t nanoseconds) {
    struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    nanosleep(&t, NULL);
}

void os_spin(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#if defined(__linux__)

void os_wait(_Atomic uint32_t *word, uint32_t seen, int64_t nanoseconds) {
    struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &limit, NULL, 0);
}

void os_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#else

/* One lock for all sleepers: waiting is rare and short where this is used. */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleep_cond = PTHREAD_COND_INITIALIZER;

void os_wait(_Atomic uint32_t *word, uint32_t seen, int64_t nanoseconds) {
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    int64_t end = (int64_t)limit.tv_nsec + nanoseconds;
    limit.tv_sec += end / 1000000000;
    limit.tv_nsec = end % 1000000000;
    pthread_mutex_lock(&sleep_lock);
    if (atomic_load(word) == seen) pthread_cond_timedwait(&sleep_cond, &sleep_lock, &limit);
    pthread_mutex_unlock(&sleep_lock);
}

void os_wake(_Atomic uint32_t *word) {
    (void)word;
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&sleep_cond);
    pthread_mutex_unlock(&sleep_lock);
}

#endif
