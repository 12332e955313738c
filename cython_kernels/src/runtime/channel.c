/* channel.c - how activations and gradients go from stage to stage within a process.
 *
 * A channel owns num_buffers buffers in the consumer's arena. The producer takes an empty one,
 * its last kernel writes straight into it, and SEND hands the pointer over; the consumer keeps
 * it as its saved input until the microbatch's weight gradient is done, then returns it. No
 * byte is copied. There are always enough buffers for what the consumer may hold, plus the
 * capacity, plus the one being filled: so the only thing a sender ever waits for is room among
 * the `capacity` messages, exactly as the schedule's check assumes. */
#include "runtime.h"

#include <stdlib.h>

static int queue_create(rk_queue *queue, int64_t size) {
    queue->size = size;
    queue->slots = calloc((size_t)size, sizeof *queue->slots);
    queue->tags = calloc((size_t)size, sizeof *queue->tags);
    atomic_init(&queue->written, 0);
    atomic_init(&queue->read, 0);
    return queue->slots && queue->tags;
}

int rk_push(rk_queue *queue, void *pointer, int32_t tag) {
    int64_t written = atomic_load_explicit(&queue->written, memory_order_relaxed);
    int64_t read = atomic_load_explicit(&queue->read, memory_order_acquire);
    if (written - read == queue->size) return 0;
    queue->slots[written % queue->size] = pointer;
    queue->tags[written % queue->size] = tag;
    /* Sequentially consistent, so that the sleeper check which follows cannot pass it. */
    atomic_store(&queue->written, written + 1);
    return 1;
}

void *rk_pop(rk_queue *queue, int32_t *tag) {
    int64_t read = atomic_load_explicit(&queue->read, memory_order_relaxed);
    int64_t written = atomic_load(&queue->written);
    if (read == written) return NULL;
    void *pointer = queue->slots[read % queue->size];
    *tag = queue->tags[read % queue->size];
    atomic_store(&queue->read, read + 1);
    return pointer;
}

int64_t rk_queued(const rk_queue *queue) {
    return atomic_load(&queue->written) - atomic_load(&queue->read);
}

int rk_channel_create(rk_channel *channel, const rk_channel_spec *spec, char *arena, int here) {
    int is_source = here == spec->producer && here != spec->consumer;
    channel->spec = *spec;
    channel->buffers = arena + (is_source ? spec->source_offset : spec->offset);
    channel->num_buffers = is_source ? spec->source_buffers : spec->num_buffers;
    /* The message queue has room for every buffer; the capacity is enforced by the sender. */
    if (!queue_create(&channel->full, channel->num_buffers)) return 0;
    if (!queue_create(&channel->empty, channel->num_buffers)) return 0;
    rk_channel_reset(channel);
    return 1;
}

void rk_channel_reset(rk_channel *channel) {
    rk_queue *both[2] = {&channel->full, &channel->empty};
    for (int i = 0; i < 2; i++) {
        atomic_store(&both[i]->written, 0);
        atomic_store(&both[i]->read, 0);
    }
    atomic_store(&channel->waiting, 0);
    for (int32_t i = 0; i < channel->num_buffers; i++)
        rk_push(&channel->empty, channel->buffers + i * channel->spec.buffer_bytes, 0);
}

void rk_channel_destroy(rk_channel *channel) {
    free(channel->full.slots);
    free(channel->full.tags);
    free(channel->empty.slots);
    free(channel->empty.tags);
}
