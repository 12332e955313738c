/* wire.c - see wire.h. */
#include "wire.h"

#include "runtime.h"

#include <stdlib.h>
#include <string.h>

/* ---- MPI ----------------------------------------------------------------------------------- */

typedef int (*isend_function)(const void *, int, uint64_t, int, int, uint64_t, uint64_t *);
typedef int (*irecv_function)(void *, int, uint64_t, int, int, uint64_t, uint64_t *);
typedef int (*iallreduce_function)(const void *, void *, int, uint64_t, uint64_t, uint64_t,
                                   uint64_t *);
typedef int (*test_function)(uint64_t *, int *, void *);
typedef int (*cancel_function)(uint64_t *);

/* An MPI_Status of any library fits; nobody reads it. */
typedef struct status {
    _Alignas(64) char bytes[128];
} status;

/* ---- the ends of channels ------------------------------------------------------------------- */

/* Requests under way, oldest first, each with the buffer it fills or empties. */
typedef struct flight {
    uint64_t *requests;
    void **buffers;
    int32_t size, first, count;
} flight;

enum { GLANCE = 200000 }; /* ns between polls while the rank computes */
enum { CREDITS = 16 }; /* on their way at once; if more are owed, the newest stands for all */

typedef struct end {
    rk_channel *channel;
    int32_t peer, tag;
    int is_producer;
    flight data;
    /* The consumer counts what it took; the producer knows the newest count that has come. */
    int64_t credit_values[CREDITS];
    flight credits;
    int64_t owed;     /* consumer: its count */
    int64_t told;     /* consumer: the count last sent */
    int64_t credited; /* producer */
    int64_t sent;     /* producer: messages ever sent */
} end;

struct rk_wire {
    rk_engine *engine;
    rk_mpi mpi;
    end *ends;
    int32_t num_ends;
    int64_t polled; /* when it last was between calls */
    /* The end of a step. */
    int64_t num_sums; /* square sums, losses, whether anyone wants to stop */
    double *given, *sums;
    uint64_t sums_request;
    int sums_under_way, sums_are_here;
};

typedef struct trailer {
    int64_t step;
    int32_t unit, channel;
} trailer;

/* mpi4py has MPI return its errors. The run then ends; what MPI does next is undefined. */
static void check(rk_wire *wire, int status) {
    rk_engine *engine = wire->engine;
    if (status) rk_fail(engine, RK_BROKEN, &engine->ranks[engine->here]);
}

static int flight_create(flight *f, int32_t size) {
    f->size = size;
    f->requests = calloc((size_t)size, sizeof *f->requests);
    f->buffers = calloc((size_t)size, sizeof *f->buffers);
    return f->requests && f->buffers;
}

static void flight_destroy(flight *f) {
    free(f->requests);
    free(f->buffers);
}

static uint64_t *flight_add(flight *f, void *buffer) {
    int32_t at = (f->first + f->count++) % f->size;
    f->buffers[at] = buffer;
    f->requests[at] = 0;
    return &f->requests[at];
}

/* The oldest buffer, if MPI is done with it. */
static void *flight_landed(rk_wire *wire, flight *f) {
    status unread;
    int done = 0;
    if (f->count == 0) return NULL;
    check(wire, ((test_function)wire->mpi.test)(&f->requests[f->first], &done, &unread));
    if (!done) return NULL;
    void *buffer = f->buffers[f->first];
    f->first = (f->first + 1) % f->size;
    f->count--;
    return buffer;
}

static trailer *trailer_of(const rk_channel *channel, void *buffer) {
    return (trailer *)((char *)buffer + channel->spec.buffer_bytes - RK_TRAILER);
}

static void send(rk_wire *wire, const end *e, int tag, void *from, int64_t bytes, flight *f) {
    isend_function isend = (isend_function)wire->mpi.isend;
    check(wire, isend(from, (int)bytes, wire->mpi.byte, e->peer, tag, wire->mpi.messages,
                      flight_add(f, from)));
}

static void receive(rk_wire *wire, const end *e, int tag, void *to, int64_t bytes, flight *f) {
    irecv_function irecv = (irecv_function)wire->mpi.irecv;
    check(wire, irecv(to, (int)bytes, wire->mpi.byte, e->peer, tag, wire->mpi.messages,
                      flight_add(f, to)));
}

static void post_data(rk_wire *wire, end *e) {
    int32_t tag;
    void *buffer;
    while (e->data.count < e->data.size && (buffer = rk_pop(&e->channel->empty, &tag)))
        receive(wire, e, e->tag, buffer, e->channel->spec.buffer_bytes, &e->data);
}

static void post_credit(rk_wire *wire, end *e) {
    if (e->credits.count) return;
    int64_t *value = &e->credit_values[0];
    receive(wire, e, e->tag + 1, value, sizeof *value, &e->credits);
}

static void tell_credit(rk_wire *wire, end *e) {
    if (e->told == e->owed || e->credits.count == CREDITS) return;
    int32_t at = (e->credits.first + e->credits.count) % CREDITS;
    int64_t *value = &e->credit_values[at];
    *value = e->told = e->owed;
    send(wire, e, e->tag + 1, value, sizeof *value, &e->credits);
}

static void poll_producer(rk_wire *wire, end *e) {
    void *buffer;
    while ((buffer = flight_landed(wire, &e->data))) rk_push(&e->channel->empty, buffer, 0);
    while ((buffer = flight_landed(wire, &e->credits))) {
        e->credited = *(int64_t *)buffer;
        post_credit(wire, e);
    }
}

static void poll_consumer(rk_wire *wire, end *e) {
    void *buffer;
    while ((buffer = flight_landed(wire, &e->data))) {
        rk_push(&e->channel->full, buffer, trailer_of(e->channel, buffer)->unit);
        rk_ring_bell(wire->engine, e->channel->spec.consumer);
    }
    post_data(wire, e);
    while (flight_landed(wire, &e->credits)) {}
    tell_credit(wire, e);
}

static void poll_sums(rk_wire *wire) {
    status unread;
    int done = 0;
    if (!wire->sums_under_way) return;
    check(wire, ((test_function)wire->mpi.test)(&wire->sums_request, &done, &unread));
    if (!done) return;
    wire->sums_under_way = 0;
    wire->sums_are_here = 1;
}

void rk_wire_poll(rk_wire *wire) {
    for (int32_t i = 0; i < wire->num_ends; i++) {
        end *e = &wire->ends[i];
        if (e->is_producer)
            poll_producer(wire, e);
        else
            poll_consumer(wire, e);
    }
    poll_sums(wire);
    rk_exchange_poll(wire->engine->exchange);
}

void rk_wire_glance(rk_wire *wire) {
    int64_t now = os_now();
    if (now - wire->polled < GLANCE) return;
    wire->polled = now;
    rk_wire_poll(wire);
}

int rk_wire_has_sent_all(rk_wire *wire) {
    int all = 1;
    for (int32_t i = 0; i < wire->num_ends; i++) {
        const end *e = &wire->ends[i];
        all &= (e->is_producer ? &e->data : &e->credits)->count == 0;
        all &= e->told == e->owed;
    }
    return all;
}

/* ---- messages ------------------------------------------------------------------------------ */

int rk_wire_has_room(const rk_channel *channel) {
    const end *e = channel->remote;
    /* With capacity 0 a credit says that the consumer has come for one more. */
    return channel->spec.capacity > 0 ? e->sent - e->credited < channel->spec.capacity
                                      : e->credited > e->sent;
}

void rk_wire_send(rk_wire *wire, rk_channel *channel, void *buffer, int32_t unit) {
    end *e = channel->remote;
    trailer *told = trailer_of(channel, buffer);
    told->unit = unit;
    told->channel = e->tag;
    e->sent++;
    send(wire, e, e->tag, buffer, channel->spec.buffer_bytes, &e->data);
    rk_wire_poll(wire);
}

void rk_wire_credit(rk_wire *wire, rk_channel *channel) {
    end *e = channel->remote;
    e->owed++;
    tell_credit(wire, e);
}

/* ---- the end of a step ---------------------------------------------------------------------- */

void rk_wire_begin_step(rk_wire *wire) {
    memset(wire->given, 0, (size_t)wire->num_sums * sizeof(double));
}

static int64_t num_square_sums(const rk_wire *wire) {
    const rk_engine *engine = wire->engine;
    return engine->first_block[engine->config.num_params / engine->config.copies];
}

double *rk_wire_losses(rk_wire *wire) { return wire->given + num_square_sums(wire); }

/* Each value is some process's own and zero elsewhere, so that their sum is exact in any order. */
void rk_wire_give_sums(rk_wire *wire, const double *square_sums, int stop) {
    memcpy(wire->given, square_sums, (size_t)num_square_sums(wire) * sizeof(double));
    wire->given[wire->num_sums - 1] = stop;
    wire->sums_are_here = 0;
    wire->sums_under_way = 1;
    check(wire, ((iallreduce_function)wire->mpi.iallreduce)(
                    wire->given, wire->sums, (int)wire->num_sums, wire->mpi.real64,
                    wire->mpi.sum, wire->mpi.sums, &wire->sums_request));
}

int rk_wire_sums_are_here(rk_wire *wire, double *square_sums, double *losses, int *stop) {
    int64_t params = num_square_sums(wire), m = wire->engine->config.num_microbatches;
    if (!wire->sums_are_here) return 0;
    memcpy(square_sums, wire->sums, (size_t)params * sizeof(double));
    memcpy(losses, wire->sums + params, (size_t)m * sizeof(double));
    *stop = wire->sums[wire->num_sums - 1] > 0;
    return 1;
}

/* ---- transfers that are no channel's ---------------------------------------------------------- */

/* Tags of channels come first. */
static int tag_of(const rk_wire *wire, int32_t tag) {
    return 2 * wire->engine->config.num_channels + tag;
}

void rk_wire_isend(rk_wire *wire, const void *from, int64_t bytes, int peer, int32_t tag,
                   uint64_t *request) {
    isend_function isend = (isend_function)wire->mpi.isend;
    check(wire, isend(from, (int)bytes, wire->mpi.byte, peer, tag_of(wire, tag),
                      wire->mpi.messages, request));
}

void rk_wire_irecv(rk_wire *wire, void *to, int64_t bytes, int peer, int32_t tag,
                   uint64_t *request) {
    irecv_function irecv = (irecv_function)wire->mpi.irecv;
    check(wire, irecv(to, (int)bytes, wire->mpi.byte, peer, tag_of(wire, tag),
                      wire->mpi.messages, request));
}

int rk_wire_test(rk_wire *wire, uint64_t *request) {
    status unread;
    int done = 0;
    check(wire, ((test_function)wire->mpi.test)(request, &done, &unread));
    return done;
}

void rk_wire_cancel(rk_wire *wire, uint64_t *request) {
    ((cancel_function)wire->mpi.cancel)(request);
}

/* ---- opening and closing -------------------------------------------------------------------- */

static int open_end(rk_wire *wire, end *e, rk_channel *channel, int32_t index) {
    int here = wire->engine->here;
    e->channel = channel;
    e->is_producer = channel->spec.producer == here;
    e->peer = e->is_producer ? channel->spec.consumer : channel->spec.producer;
    e->tag = 2 * index;
    channel->remote = e;
    if (!flight_create(&e->data, channel->num_buffers) || !flight_create(&e->credits, CREDITS)) return 0;
    if (e->is_producer)
        post_credit(wire, e);
    else
        post_data(wire, e);
    return 1;
}

rk_wire *rk_wire_create(rk_engine *engine, const rk_mpi *mpi) {
    rk_wire *wire = calloc(1, sizeof *wire);
    if (!wire) return NULL;
    const rk_config *config = &engine->config;
    wire->engine = engine;
    wire->mpi = *mpi;
    wire->num_sums = num_square_sums(wire) + config->num_microbatches + 1;
    wire->given = calloc((size_t)wire->num_sums, sizeof(double));
    wire->sums = calloc((size_t)wire->num_sums, sizeof(double));
    wire->ends = calloc((size_t)config->num_channels + 1, sizeof *wire->ends);
    int whole = wire->given && wire->sums && wire->ends;
    for (int32_t c = 0; whole && c < config->num_channels; c++)
        if (rk_is_remote(engine, &engine->channels[c].spec))
            whole = open_end(wire, &wire->ends[wire->num_ends++], &engine->channels[c], c);
    if (whole) return wire;
    rk_wire_destroy(wire);
    return NULL;
}

/* Waits for sends to land, so that their buffers may go, but not for ever: a peer may be dead.
 * 0: something is still under way. */
static int settle(rk_wire *wire, flight *f, int cancel) {
    int64_t limit = os_now() + 1000000000;
    for (int32_t i = 0; cancel && i < f->count; i++)
        ((cancel_function)wire->mpi.cancel)(&f->requests[(f->first + i) % f->size]);
    while (f->count && os_now() < limit)
        if (!flight_landed(wire, f)) os_yield();
    return f->count == 0;
}

void rk_wire_destroy(rk_wire *wire) {
    if (!wire) return;
    int settled = rk_exchange_settle(wire->engine->exchange) && !wire->sums_under_way;
    for (int32_t i = 0; i < wire->num_ends; i++) {
        settled &= settle(wire, &wire->ends[i].data, !wire->ends[i].is_producer);
        settled &= settle(wire, &wire->ends[i].credits, wire->ends[i].is_producer);
    }
    /* What MPI may still write to is left to the end of the process. */
    if (!settled) return;
    for (int32_t i = 0; i < wire->num_ends; i++) {
        flight_destroy(&wire->ends[i].data);
        flight_destroy(&wire->ends[i].credits);
    }
    free(wire->ends);
    free(wire->given);
    free(wire->sums);
    free(wire);
}
