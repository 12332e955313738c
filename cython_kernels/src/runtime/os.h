/* os.h - every call to the operating system that the runtime makes. Linux has the fast paths
 * (futex, huge pages); any POSIX system has a fallback that behaves the same. */
#ifndef RK_OS_H
#define RK_OS_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct os_thread os_thread;

/* Zeroed, page-aligned memory, on huge pages where the system gives them; NULL if refused. */
void *os_pages(int64_t bytes);
void os_free_pages(void *memory, int64_t bytes);

/* Starts a native thread; NULL if the system refuses. os_join waits for its end and frees it. */
os_thread *os_start(void (*body)(void *), void *argument);
void os_join(os_thread *thread);

/* Nanoseconds of a monotonic clock. */
int64_t os_now(void);

/* Nanoseconds that the calling thread has run; os_now where the system does not tell. */
int64_t os_thread_now(void);

/* Gives the core away; a hint that a loop is spinning. */
void os_yield(void);
void os_sleep(int64_t nanoseconds);
void os_spin(void);

/* Sleeps while *word == seen, until os_wake or `nanoseconds` have passed (it may wake early). */
void os_wait(_Atomic uint32_t *word, uint32_t seen, int64_t nanoseconds);
void os_wake(_Atomic uint32_t *word);

#endif
