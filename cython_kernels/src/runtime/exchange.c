/* exchange.c - what holders in different processes tell one another at the end of a step.
 *
 * Three kinds of transfers, all known beforehand: roots, the sums that a holder has over its own
 * gradient groups, go to the piece's owner; totals go back to the holders; with ZeRO-1 the
 * owner's new weights go instead. Each is one message, posted as soon as both its memory and its
 * contents allow, and moved along whenever the rank polls. */
#include "runtime.h"

#include <stdlib.h>

enum { IDLE, UNDER_WAY, DONE };

typedef struct transfer {
    rk_transfer spec;
    int is_send, state;
    uint64_t request;
} transfer;

struct rk_exchange {
    rk_engine *engine;
    transfer *transfers; /* those of this process */
    int32_t count;
    int32_t *first_root;            /* per piece: the first root that comes for it, or -1 */
    int32_t left[RK_NUM_TRANSFERS]; /* of this step, not DONE yet */
    int is_active;                  /* until the step's first REDUCE_GRAD polling is idle */
};

static char *memory(const rk_exchange *exchange, const transfer *t) {
    const rk_engine *engine = exchange->engine;
    return engine->ranks[engine->here].arena +
           (t->is_send ? t->spec.source_offset : t->spec.target_offset);
}

static void post(rk_exchange *exchange, transfer *t) {
    rk_wire *wire = exchange->engine->wire;
    if (t->state != IDLE) return;
    t->state = UNDER_WAY;
    if (t->is_send)
        rk_wire_isend(wire, memory(exchange, t), t->spec.bytes, t->spec.target, t->spec.tag,
                      &t->request);
    else
        rk_wire_irecv(wire, memory(exchange, t), t->spec.bytes, t->spec.source, t->spec.tag,
                      &t->request);
}

/* A total comes to where roots were sent from. */
static int has_sent_roots(const rk_exchange *exchange, int32_t stage) {
    const rk_engine *engine = exchange->engine;
    int64_t at = atomic_load(&engine->ranks[engine->here].at_step);
    if (atomic_load(&engine->gathered[stage]) < at - engine->first_step + 1) return 0;
    for (int32_t i = 0; i < exchange->count; i++) {
        const transfer *t = &exchange->transfers[i];
        if (t->is_send && t->spec.kind == RK_ROOT && t->spec.stage == stage && t->state != DONE)
            return 0;
    }
    return 1;
}

static void post_totals(rk_exchange *exchange) {
    int32_t stage = -1;
    int ready = 0;
    for (int32_t i = 0; i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (t->is_send || t->spec.kind != RK_TOTAL || t->state != IDLE) continue;
        if (t->spec.stage != stage) ready = has_sent_roots(exchange, t->spec.stage);
        stage = t->spec.stage;
        if (ready) post(exchange, t);
    }
}

void rk_exchange_poll(rk_exchange *exchange) {
    if (!exchange || !exchange->is_active) return;
    for (int32_t i = 0; i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (t->state != UNDER_WAY || !rk_wire_test(exchange->engine->wire, &t->request)) continue;
        t->state = DONE;
        exchange->left[t->spec.kind]--;
    }
    if (exchange->left[RK_TOTAL]) post_totals(exchange);
    exchange->is_active =
        exchange->left[RK_ROOT] + exchange->left[RK_TOTAL] + exchange->left[RK_WEIGHTS] > 0;
}

void rk_exchange_begin_step(rk_exchange *exchange) {
    if (!exchange) return;
    exchange->is_active = 0;
    for (int k = 0; k < RK_NUM_TRANSFERS; k++) exchange->left[k] = 0;
    for (int32_t i = 0; i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        t->state = IDLE;
        exchange->left[t->spec.kind]++;
    }
    rk_exchange_receive(exchange, RK_ROOT);
}

void rk_exchange_receive(rk_exchange *exchange, int kind) {
    for (int32_t i = 0; exchange && i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (!t->is_send && t->spec.kind == kind) post(exchange, t);
    }
}

void rk_exchange_send_roots(rk_exchange *exchange, int32_t stage) {
    if (exchange) exchange->is_active = 1;
    for (int32_t i = 0; exchange && i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (t->is_send && t->spec.kind == RK_ROOT && t->spec.stage == stage) post(exchange, t);
    }
}

void rk_exchange_send_piece(rk_exchange *exchange, int32_t piece) {
    for (int32_t i = 0; exchange && i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (t->is_send && t->spec.kind != RK_ROOT && t->spec.piece == piece) post(exchange, t);
    }
}

float *rk_exchange_root(rk_exchange *exchange, int32_t piece, int32_t param, int group) {
    for (int32_t i = exchange->first_root[piece];; i++) {
        const transfer *t = &exchange->transfers[i];
        if (t->spec.param == param && t->spec.group == group) return (float *)memory(exchange, t);
    }
}

int rk_exchange_has_roots(const rk_exchange *exchange, int32_t piece) {
    int32_t i = exchange ? exchange->first_root[piece] : -1;
    for (; i >= 0 && i < exchange->count; i++) {
        const transfer *t = &exchange->transfers[i];
        if (t->is_send || t->spec.kind != RK_ROOT || t->spec.piece != piece) break;
        if (t->state != DONE) return 0;
    }
    return 1;
}

int rk_exchange_is_done(const rk_exchange *exchange, int kind) {
    return !exchange || exchange->left[kind] == 0;
}

rk_exchange *rk_exchange_create(rk_engine *engine, const rk_transfer *specs, int64_t count) {
    rk_exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange) return NULL;
    exchange->engine = engine;
    exchange->transfers = calloc((size_t)count + 1, sizeof *exchange->transfers);
    exchange->first_root = calloc((size_t)engine->config.num_pieces + 1, sizeof(int32_t));
    if (!exchange->transfers || !exchange->first_root) {
        rk_exchange_destroy(exchange);
        return NULL;
    }
    for (int32_t i = 0; i < engine->config.num_pieces; i++) exchange->first_root[i] = -1;
    for (int64_t i = 0; i < count; i++) {
        if (specs[i].source != engine->here && specs[i].target != engine->here) continue;
        transfer *t = &exchange->transfers[exchange->count++];
        t->spec = specs[i];
        t->is_send = specs[i].source == engine->here;
        t->state = DONE;
        if (!t->is_send && specs[i].kind == RK_ROOT && exchange->first_root[specs[i].piece] < 0)
            exchange->first_root[specs[i].piece] = exchange->count - 1;
    }
    return exchange;
}

/* 0: MPI may still write to the arena. */
int rk_exchange_settle(rk_exchange *exchange) {
    int64_t limit = os_now() + 1000000000;
    int settled = 1;
    for (int32_t i = 0; exchange && i < exchange->count; i++) {
        transfer *t = &exchange->transfers[i];
        if (t->state != UNDER_WAY) continue;
        if (!t->is_send) rk_wire_cancel(exchange->engine->wire, &t->request);
        while (!rk_wire_test(exchange->engine->wire, &t->request) && os_now() < limit) os_yield();
        settled &= os_now() < limit;
    }
    return settled;
}

void rk_exchange_destroy(rk_exchange *exchange) {
    if (!exchange) return;
    free(exchange->transfers);
    free(exchange->first_root);
    free(exchange);
}
