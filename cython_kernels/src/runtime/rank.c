/* rank.c - what a rank does: walk its program, step after step, and wait where it must. */
#include "runtime.h"

#include <string.h>

/* ---- waiting ------------------------------------------------------------------------------- */

void rk_ring_bell(rk_engine *engine, int rank) {
    rk_bell *bell = &engine->ranks[rank].bell;
    atomic_fetch_add(&bell->rung, 1);
    if (atomic_load(&bell->sleeping)) os_wake(&bell->rung);
}

void rk_ring_all(rk_engine *engine) {
    for (int r = 0; r < engine->config.num_ranks; r++) rk_ring_bell(engine, r);
}

void rk_fail(rk_engine *engine, int error, const rk_rank *rank) {
    int none = RK_OK;
    if (atomic_compare_exchange_strong(&engine->error, &none, error) && rank) {
        engine->error_rank = rank->index;
        engine->error_counter = atomic_load(&rank->counter);
        engine->error_step = atomic_load(&rank->at_step);
    }
    rk_ring_all(engine);
}

enum { SPINS = 4000, YIELDS = 50, WIRE_NAP = 20000 /* ns */ };

/* Until the bell is rung; nobody rings for what comes from another process. */
static void doze(rk_rank *rank, rk_condition met, const rk_step *step) {
    if (rank->engine->wire) {
        os_sleep(WIRE_NAP);
        return;
    }
    uint32_t rung = atomic_load(&rank->bell.rung);
    atomic_store(&rank->bell.sleeping, 1);
    if (!met(rank, step)) os_wait(&rank->bell.rung, rung, 50000000);
    atomic_store(&rank->bell.sleeping, 0);
}

int rk_wait_until(rk_rank *rank, rk_condition met, const rk_step *step) {
    rk_engine *engine = rank->engine;
    int spins = engine->config.spin ? SPINS : 0;
    int64_t begun = 0;
    for (int turn = 0;; turn++) {
        if (engine->wire) rk_wire_poll(engine->wire);
        if (met(rank, step)) return 1;
        if (atomic_load_explicit(&engine->error, memory_order_relaxed)) return 0;
        if (turn < spins) {
            os_spin();
            continue;
        }
        if (turn < spins + YIELDS) {
            os_yield();
            continue;
        }
        doze(rank, met, step);
        int64_t now = os_now();
        if (!begun) begun = now;
        if ((double)(now - begun) > engine->config.wait_limit * 1e9) {
            rk_fail(engine, RK_STALLED, rank);
            return 0;
        }
    }
}

/* ---- channels ------------------------------------------------------------------------------ */

static rk_channel *channel_of(rk_engine *engine, const rk_step *step) {
    const rk_stage_spec *stage = &engine->stages[step->stage].spec;
    int32_t index = step->kind == RK_SEND_F   ? stage->channel_out
                    : step->kind == RK_RECV_F ? stage->channel_in
                    : step->kind == RK_SEND_B ? stage->channel_din
                                              : stage->channel_dout;
    return &engine->channels[index];
}

/* What a message carries: the number of a slice of a microbatch. */
static int32_t unit_of(const rk_engine *engine, const rk_step *step) {
    return step->microbatch * engine->config.num_slices + step->slice;
}

static int has_room(rk_rank *rank, const rk_step *step) {
    rk_channel *channel = channel_of(rank->engine, step);
    if (channel->remote) return rk_wire_has_room(channel);
    if (channel->spec.capacity > 0) return rk_queued(&channel->full) < channel->spec.capacity;
    /* Rendezvous: the consumer has come for this message and nothing is on its way to it. */
    return atomic_load(&channel->waiting) > atomic_load(&channel->full.written);
}

static int has_message(rk_rank *rank, const rk_step *step) {
    return rk_queued(&channel_of(rank->engine, step)->full) > 0;
}

static int send(rk_rank *rank, const rk_step *step, int wait) {
    rk_engine *engine = rank->engine;
    rk_channel *channel = channel_of(engine, step);
    rk_stage *stage = &engine->stages[step->stage];
    if (wait && !rk_wait_until(rank, has_room, step)) return 0;
    void **out = step->kind == RK_SEND_F ? stage->output : stage->dinput;
    int32_t unit = unit_of(engine, step);
    if (channel->remote) {
        rk_wire_send(engine->wire, channel, out[unit], unit);
        return 1;
    }
    rk_push(&channel->full, out[unit], unit);
    rk_ring_bell(engine, channel->spec.consumer);
    return 1;
}

/* Rendezvous: tells the producer that the consumer waits for a message. */
static void come_for(rk_engine *engine, rk_channel *channel) {
    if (channel->remote) {
        rk_wire_credit(engine->wire, channel);
        return;
    }
    atomic_fetch_add(&channel->waiting, 1);
    rk_ring_bell(engine, channel->spec.producer);
}

static int receive(rk_rank *rank, const rk_step *step, int wait) {
    rk_engine *engine = rank->engine;
    rk_channel *channel = channel_of(engine, step);
    rk_stage *stage = &engine->stages[step->stage];
    if (channel->spec.capacity == 0) come_for(engine, channel);
    if (wait && !rk_wait_until(rank, has_message, step)) return 0;
    int32_t unit = -1;
    void *pointer = rk_pop(&channel->full, &unit);
    if (!pointer || unit != unit_of(engine, step)) {
        rk_fail(engine, RK_MISMATCHED, rank);
        return 0;
    }
    if (step->kind == RK_RECV_F)
        stage->input[unit] = pointer;
    else
        stage->doutput[unit] = pointer;
    if (!channel->remote)
        rk_ring_bell(engine, channel->spec.producer);
    else if (channel->spec.capacity > 0)
        rk_wire_credit(engine->wire, channel);
    return 1;
}

static rk_channel *output_of(rk_engine *engine, const rk_step *step) {
    const rk_stage_spec *spec = &engine->stages[step->stage].spec;
    int32_t index = step->kind == RK_F ? spec->channel_out : spec->channel_din;
    return index < 0 ? NULL : &engine->channels[index];
}

static int has_buffer(rk_rank *rank, const rk_step *step) {
    return rk_queued(&output_of(rank->engine, step)->empty) > 0;
}

/* A buffer for the stage's next output, left NULL where it has none. There is always one free
 * (channel.c says why), but MPI may be late to say that it is done with it. 0: the run failed. */
static int take_buffer(rk_rank *rank, const rk_step *step, void **buffer) {
    rk_channel *channel = output_of(rank->engine, step);
    int32_t tag;
    if (!channel) return 1;
    if (channel->remote && !rk_wait_until(rank, has_buffer, step)) return 0;
    *buffer = rk_pop(&channel->empty, &tag);
    return 1;
}

static void give_back(rk_engine *engine, int32_t channel, void *buffer) {
    if (channel >= 0) rk_push(&engine->channels[channel].empty, buffer, 0);
}

/* ---- compute ------------------------------------------------------------------------------- */

/* Of the step's microbatches. What this process finds, others must hear of. */
static double *losses_of(rk_engine *engine, int64_t at) {
    if (engine->wire && engine->program == RK_TRAIN) return rk_wire_losses(engine->wire);
    return engine->losses + (at - engine->first_step) * engine->config.num_microbatches;
}

static void set_place(rk_rank *rank, const rk_step *step, rk_place *place) {
    rk_engine *engine = rank->engine;
    rk_stage *stage = &engine->stages[step->stage];
    const rk_stage_spec *spec = &stage->spec;
    int32_t mb = step->microbatch, unit = unit_of(engine, step);
    int64_t at = atomic_load_explicit(&rank->at_step, memory_order_relaxed);
    place->base[RK_PARAM] = rank->arena + spec->param;
    place->base[RK_GRAD] = rank->arena + spec->grad + step->group * spec->grad_stride;
    place->base[RK_CONSTANT] = rank->arena + spec->constant;
    place->base[RK_SCRATCH] = rank->arena + spec->scratch;
    place->base[RK_SAVED] = rank->arena + spec->saved + step->saved_slot * spec->saved_stride;
    place->base[RK_HELD] = rank->arena + spec->held + step->held_slot * spec->held_stride;
    place->base[RK_INPUT] = stage->input[unit];
    place->base[RK_OUTPUT] = stage->output[unit];
    place->base[RK_DOUTPUT] = stage->doutput[unit];
    place->base[RK_DINPUT] = stage->dinput[unit];
    /* R makes what F did not keep; its output has been sent long ago. */
    if (step->kind == RK_R) place->base[RK_OUTPUT] = rank->arena + spec->spare;
    place->data = engine->data;
    place->step = at;
    place->microbatch = mb;
    place->num_microbatches = engine->config.num_microbatches;
    place->loss = losses_of(engine, at) + mb;
    if (step->kind == RK_R) place->loss = NULL; /* F has told it */
}

static void run_tape(rk_rank *rank, const rk_step *step, int tape, const rk_place *place) {
    const rk_engine *engine = rank->engine;
    int32_t first = engine->stages[step->stage].spec.tapes + step->slice * RK_NUM_TAPES;
    const rk_tape *run = &engine->tapes[first + tape];
    rk_run_tape(rank->team, engine->calls + run->first, run->count, place);
}

/* With both stages on one rank the pointer is simply passed on; no channel queue is involved. */
static int is_local(const rk_engine *engine, int32_t channel) {
    return channel >= 0 &&
           engine->channels[channel].spec.producer == engine->channels[channel].spec.consumer;
}

/* An evaluation keeps nothing: an input goes back as soon as it was read. */
static void after_forward(rk_engine *engine, rk_stage *stage, int32_t unit) {
    if (is_local(engine, stage->spec.channel_out)) (stage + 1)->input[unit] = stage->output[unit];
    if (engine->program == RK_EVALUATE)
        give_back(engine, stage->spec.channel_in, stage->input[unit]);
}

static int compute(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    rk_stage *stage = &engine->stages[step->stage];
    int32_t unit = unit_of(engine, step);
    int kind = step->kind;
    rk_place place;
    if (kind == RK_F && !take_buffer(rank, step, &stage->output[unit])) return 0;
    if ((kind == RK_I || kind == RK_B) && !take_buffer(rank, step, &stage->dinput[unit])) return 0;
    set_place(rank, step, &place);
    if (kind == RK_R) run_tape(rank, step, RK_TAPE_F, &place);
    if (kind == RK_F) {
        run_tape(rank, step, RK_TAPE_F, &place);
        after_forward(engine, stage, unit);
        return 1;
    }
    if (kind == RK_I || kind == RK_B) {
        run_tape(rank, step, RK_TAPE_I, &place);
        if (is_local(engine, stage->spec.channel_din))
            (stage - 1)->doutput[unit] = stage->dinput[unit];
    }
    if (kind == RK_W || kind == RK_B) {
        run_tape(rank, step, RK_TAPE_W, &place);
        give_back(engine, stage->spec.channel_in, stage->input[unit]);
        give_back(engine, stage->spec.channel_dout, stage->doutput[unit]);
    }
    return 1;
}

/* ---- one step of a program ----------------------------------------------------------------- */

int rk_lane_of(int kind) {
    if (kind == RK_REDUCE_GRAD || kind == RK_OPT_STEP) return RK_LANE_OPTIMIZER;
    return kind <= RK_R ? RK_LANE_COMPUTE : RK_LANE_WAIT;
}

/* Training only: an evaluation is not part of what is measured. */
void rk_note(rk_rank *rank, const rk_step *step, int lane, int64_t start, int64_t end) {
    if (rank->engine->program != RK_TRAIN) return;
    int64_t origin = rank->engine->time_origin;
    rk_event event = {.start = start - origin,
                      .end = end - origin,
                      .bytes = step->bytes,
                      .live = step->live,
                      .step = (int32_t)atomic_load_explicit(&rank->at_step,
                                                            memory_order_relaxed),
                      .microbatch = step->microbatch,
                      .stage = step->stage,
                      .rank = (int16_t)rank->index,
                      .slice = (int16_t)step->slice,
                      .kind = (int16_t)step->kind,
                      .lane = (int16_t)lane};
    rk_record(&rank->ring, &event);
}

int rk_perform(rk_rank *rank, const rk_step *step, int wait) {
    switch (step->kind) {
    case RK_SEND_F:
    case RK_SEND_B: return send(rank, step, wait);
    case RK_RECV_F:
    case RK_RECV_B: return receive(rank, step, wait);
    case RK_REDUCE_GRAD: rk_reduce(rank, step); return 1;
    case RK_OPT_STEP: rk_update(rank, step); return 1;
    default: return compute(rank, step);
    }
}

/* A request's first step may follow an aborted one, so it clears what that left behind. */
void rk_begin_step(rk_rank *rank, int64_t at) {
    rk_engine *engine = rank->engine;
    atomic_store(&rank->at_step, at);
    if (engine->program != RK_TRAIN) return;
    if (at == engine->first_step) rk_forget_shares(rank);
    rk_begin_sums(rank);
    if (at != engine->first_step && !engine->config.keep_gradients) return;
    rk_clear_gradients(rank);
}

/* The rank's share of what the copies of its stages add up together, as far as they have come. */
static void share(rk_rank *rank, int64_t *now) {
    const rk_step *step;
    while ((step = rk_share(rank)) != NULL) {
        int64_t start = *now;
        *now = os_now();
        rk_note(rank, step, RK_LANE_OPTIMIZER, start, *now);
    }
}

/* Would the rank stand idle now, if it went on with this step? */
static int would_wait(rk_rank *rank, const rk_step *step) {
    switch (step->kind) {
    case RK_SEND_F:
    case RK_SEND_B: return !has_room(rank, step);
    case RK_RECV_F:
    case RK_RECV_B: return !has_message(rank, step);
    default: return 0;
    }
}

static int wait_for(rk_rank *rank, rk_condition met, const rk_step *step, int64_t *now) {
    int64_t start = *now;
    if (!rk_wait_until(rank, met, step)) return 0;
    *now = os_now();
    rk_note(rank, step, RK_LANE_WAIT, start, *now);
    return 1;
}

/* The wait for all ranks' gradients. */
static int synchronise(rk_rank *rank, const rk_step *step, int64_t *now) {
    while (rank->pending) {
        if (!wait_for(rank, rk_share_ready, step, now)) return 0;
        share(rank, now);
    }
    return wait_for(rank, rk_all_reduced, step, now) && rk_agree(rank);
}

static int run_step(rk_rank *rank, const rk_step *steps, int32_t count) {
    rk_engine *engine = rank->engine;
    int synchronised = 0;
    int64_t now = os_now();
    for (int32_t i = 0; i < count; i++) {
        const rk_step *step = &steps[i];
        atomic_store_explicit(&rank->counter, i, memory_order_relaxed);
        if (atomic_load_explicit(&engine->error, memory_order_relaxed)) return 0;
        if (step->kind == RK_OPT_STEP && !synchronised) {
            if (!synchronise(rank, step, &now)) return 0;
            synchronised = 1;
        }
        if (rank->pending && would_wait(rank, step)) share(rank, &now);
        int64_t start = now;
        if (!rk_perform(rank, step, 1)) return 0;
        now = os_now();
        rk_note(rank, step, rk_lane_of(step->kind), start, now);
    }
    if (!synchronised || !engine->config.zero) return 1;
    return wait_for(rank, rk_all_refreshed, &steps[count - 1], &now);
}

/* A process that turned to other things would leave its last messages half sent. */
static int has_sent_all(rk_rank *rank, const rk_step *step) {
    (void)step;
    return rk_wire_has_sent_all(rank->engine->wire);
}

void rk_run_rank(void *raw) {
    rk_rank *rank = raw;
    rk_engine *engine = rank->engine;
    const rk_step *steps = rank->steps[engine->program];
    int32_t count = rank->num_steps[engine->program];
    for (int64_t at = engine->first_step; at < atomic_load(&engine->last_step); at++) {
        rk_begin_step(rank, at);
        if (!run_step(rank, steps, count)) break;
    }
    if (engine->wire) rk_wait_until(rank, has_sent_all, NULL);
    atomic_fetch_sub(&engine->running, 1);
}
