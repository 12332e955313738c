/* recorder.c - a ring of events per rank. The rank writes and never waits; a reader that comes
 * too late finds the oldest events overwritten, and is told how many. */
#include "runtime.h"

void rk_record(rk_ring *ring, const rk_event *event) {
    int64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    ring->events[head & ring->mask] = *event;
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
}

int64_t rk_read(const rk_ring *ring, int64_t *cursor, rk_event *out, int64_t room,
                int64_t *lost) {
    int64_t size = ring->mask + 1;
    int64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    int64_t first = *cursor;
    if (head - first > size) {
        *lost += head - size - first;
        first = head - size;
    }
    int64_t count = head - first < room ? head - first : room;
    for (int64_t i = 0; i < count; i++) out[i] = ring->events[(first + i) & ring->mask];
    /* What the writer overtook while we copied is not to be trusted; the slot it may be writing
     * now (head itself) counts as overtaken too. */
    atomic_thread_fence(memory_order_acquire);
    int64_t now = atomic_load_explicit(&ring->head, memory_order_relaxed);
    int64_t spoiled = now + 1 - size - first;
    if (spoiled < 0) spoiled = 0;
    if (spoiled > count) spoiled = count;
    if (spoiled > 0) {
        for (int64_t i = spoiled; i < count; i++) out[i - spoiled] = out[i];
        *lost += spoiled;
    }
    *cursor = first + count;
    return count - spoiled;
}
