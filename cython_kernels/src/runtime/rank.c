/* rank.c - what a rank does: walk its program, step after step.
 *
 * Two loops share everything but waiting: under the wall clock each rank is a thread that waits
 * for its channels; under the virtual clock one thread runs all ranks' steps in an order in
 * which nothing ever has to wait, times each alone, and lets the evaluator say when it would
 * have run had every rank had a core of its own. */
#include "runtime.h"

#include <math.h>
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

typedef int (*condition)(rk_rank *rank, const rk_step *step);

enum { SPINS = 4000, YIELDS = 50 };

/* Spins while that is cheap, then gives the core away, then sleeps until its bell is rung.
 * Returns 0 when the run has failed meanwhile. */
static int wait_until(rk_rank *rank, condition met, const rk_step *step) {
    rk_engine *engine = rank->engine;
    int spins = engine->config.spin ? SPINS : 0;
    int64_t begun = 0;
    for (int turn = 0;; turn++) {
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
        uint32_t rung = atomic_load(&rank->bell.rung);
        atomic_store(&rank->bell.sleeping, 1);
        if (!met(rank, step)) os_wait(&rank->bell.rung, rung, 50000000);
        atomic_store(&rank->bell.sleeping, 0);
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
    if (wait && !wait_until(rank, has_room, step)) return 0;
    void **out = step->kind == RK_SEND_F ? stage->output : stage->dinput;
    int32_t unit = unit_of(engine, step);
    rk_push(&channel->full, out[unit], unit);
    rk_ring_bell(engine, channel->spec.consumer);
    return 1;
}

static int receive(rk_rank *rank, const rk_step *step, int wait) {
    rk_engine *engine = rank->engine;
    rk_channel *channel = channel_of(engine, step);
    rk_stage *stage = &engine->stages[step->stage];
    if (channel->spec.capacity == 0) {
        atomic_fetch_add(&channel->waiting, 1);
        rk_ring_bell(engine, channel->spec.producer);
    }
    if (wait && !wait_until(rank, has_message, step)) return 0;
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
    rk_ring_bell(engine, channel->spec.producer);
    return 1;
}

/* A buffer for the stage's next output. There is always one (channel.c says why). */
static void *take_buffer(rk_engine *engine, int32_t channel) {
    int32_t tag;
    return channel < 0 ? NULL : rk_pop(&engine->channels[channel].empty, &tag);
}

static void give_back(rk_engine *engine, int32_t channel, void *buffer) {
    if (channel >= 0) rk_push(&engine->channels[channel].empty, buffer, 0);
}

/* ---- compute ------------------------------------------------------------------------------- */

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
    place->loss =
        engine->losses + (at - engine->first_step) * engine->config.num_microbatches + mb;
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

static void compute(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    rk_stage *stage = &engine->stages[step->stage];
    int32_t unit = unit_of(engine, step);
    int kind = step->kind;
    rk_place place;
    if (kind == RK_F) stage->output[unit] = take_buffer(engine, stage->spec.channel_out);
    if (kind == RK_I || kind == RK_B)
        stage->dinput[unit] = take_buffer(engine, stage->spec.channel_din);
    set_place(rank, step, &place);
    if (kind == RK_R) run_tape(rank, step, RK_TAPE_F, &place);
    if (kind == RK_F) {
        run_tape(rank, step, RK_TAPE_F, &place);
        after_forward(engine, stage, unit);
        return;
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
}

/* ---- optimizer ----------------------------------------------------------------------------- */

static float *gradient(rk_rank *rank, const rk_stage_spec *spec, const rk_param_spec *param) {
    return (float *)(rank->arena + spec->grad + param->offset);
}

/* Where gradient group `group` of a stage's parameter lies: with the copy that made it. */
static float *group_gradient(rk_engine *engine, int32_t stage, const rk_param_spec *param,
                             int group) {
    const rk_config *config = &engine->config;
    int own = config->gradient_groups / config->copies;
    int32_t copy = stage + group / own * (config->num_stages / config->copies);
    const rk_stage_spec *spec = &engine->stages[copy].spec;
    int64_t offset = spec->grad + group % own * spec->grad_stride + param->offset;
    return (float *)(engine->ranks[spec->rank].arena + offset);
}

/* Adds the gradient groups of all copies in a fixed binary tree, gives every copy the sum, and
 * takes each parameter's sum of squares in canonical order. Parameters are indexed in layer
 * order, so nothing here depends on the split. `stage` is one of the first copy. */
static void combine(rk_engine *engine, int32_t stage, int64_t parity) {
    const rk_stage_spec *spec = &engine->stages[stage].spec;
    int groups = engine->config.gradient_groups, own = groups / engine->config.copies;
    double *sums = engine->square_sums + parity * engine->config.num_params;
    for (int32_t i = 0; i < spec->param_count; i++) {
        const rk_param_spec *param = &engine->params[spec->param_first + i];
        float *total = group_gradient(engine, stage, param, 0);
        for (int distance = 1; distance < groups; distance *= 2)
            for (int g = 0; g + distance < groups; g += 2 * distance) {
                float *left = group_gradient(engine, stage, param, g);
                float *right = group_gradient(engine, stage, param, g + distance);
                engine->kernels->add(left, left, right, param->count, 0, 1);
            }
        for (int g = own; g < groups; g += own)
            memcpy(group_gradient(engine, stage, param, g), total,
                   (size_t)param->count * sizeof *total);
        sums[spec->param_first + i] = engine->kernels->sum_squares(total, param->count);
    }
}

/* The last of a stage's copies to come adds up for all of them: the others have ended their
 * last W, and wait for every stage before they read or clear a gradient. */
static void reduce(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    int copies = engine->config.copies;
    int32_t stage = step->stage % (engine->config.num_stages / copies);
    if ((atomic_fetch_add(&engine->gathered[stage], 1) + 1) % copies == 0)
        combine(engine, stage, atomic_load(&rank->at_step) & 1);
    /* The last stage to come decides, before anyone is let on, whether this is the run's last
     * step; so all ranks stop after the same one. */
    int64_t arrived = atomic_fetch_add(&engine->arrived, 1) + 1;
    if (arrived % engine->config.num_stages != 0) return;
    if (atomic_load(&engine->stop_requested))
        atomic_store(&engine->last_step, atomic_load(&rank->at_step) + 1);
    atomic_store(&engine->reduced, arrived);
    rk_ring_all(engine);
}

static int all_reduced(rk_rank *rank, const rk_step *step) {
    (void)step;
    rk_engine *engine = rank->engine;
    int64_t steps = atomic_load(&rank->at_step) - engine->first_step + 1;
    return atomic_load(&engine->reduced) >= steps * engine->config.num_stages;
}

/* The global gradient norm, from the per-parameter sums in layer order. Every rank computes it
 * for itself and finds the same bits. */
static double gradient_norm(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    int64_t parity = atomic_load(&rank->at_step) & 1;
    const double *sums = engine->square_sums + parity * engine->config.num_params;
    int32_t count = engine->config.num_params / engine->config.copies;
    double total = 0;
    for (int32_t i = 0; i < count; i++) total += sums[i];
    return sqrt(total);
}

/* Called once per rank and step, when all gradients are ready. 0: the step must not be applied. */
static int agree(rk_rank *rank) {
    rk_engine *engine = rank->engine;
    int64_t at = atomic_load(&rank->at_step), row = at - engine->first_step;
    double norm = gradient_norm(rank);
    if (rank->index == 0) engine->norms[row] = norm;
    const double *losses = engine->losses + row * engine->config.num_microbatches;
    int finite = isfinite(norm);
    for (int32_t i = 0; i < engine->config.num_microbatches; i++) finite &= isfinite(losses[i]);
    if (!finite) {
        rk_fail(engine, RK_NONFINITE, rank);
        return 0;
    }
    double clip = engine->config.clip;
    rank->scale = clip > 0 && norm > clip ? clip / norm : 1.0;
    return 1;
}

/* Every W of a step only adds to the gradients, so each step starts from zero. */
static void clear_gradients(rk_rank *rank, const rk_stage_spec *spec) {
    const rk_config *config = &rank->engine->config;
    memset(rank->arena + spec->grad, 0,
           (size_t)(spec->grad_stride * (config->gradient_groups / config->copies)));
}

static void update(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    const rk_config *config = &engine->config;
    const rk_stage_spec *spec = &engine->stages[step->stage].spec;
    int64_t at = atomic_load(&rank->at_step);
    float lr = engine->learning_rate[at], scale = (float)rank->scale;
    float correction1 = (float)(1 - pow(config->beta1, (double)(at + 1)));
    float correction2 = (float)(1 - pow(config->beta2, (double)(at + 1)));
    for (int32_t i = 0; i < spec->param_count; i++) {
        const rk_param_spec *param = &engine->params[spec->param_first + i];
        float *value = (float *)(rank->arena + spec->param + param->offset);
        float *grad = gradient(rank, spec, param);
        float *first = (float *)(rank->arena + param->first_moment);
        float *second = (float *)(rank->arena + param->second_moment);
        if (config->optimizer == RK_ADAMW)
            engine->kernels->adamw(value, first, second, grad, param->count, lr,
                                   (float)config->beta1, (float)config->beta2,
                                   (float)config->epsilon, param->weight_decay, correction1,
                                   correction2, scale, 0, 1);
        else
            engine->kernels->sgd(value, first, grad, param->count, lr, (float)config->beta1,
                                 param->weight_decay, scale, 0, 1);
    }
    if (!config->keep_gradients) clear_gradients(rank, spec);
    int64_t updated = atomic_fetch_add(&engine->updated, 1) + 1;
    if (updated % config->num_stages == 0)
        atomic_store(&engine->done_steps, updated / config->num_stages);
}

/* ---- one step of a program ----------------------------------------------------------------- */

static int lane_of(int kind) {
    if (kind == RK_REDUCE_GRAD || kind == RK_OPT_STEP) return RK_LANE_OPTIMIZER;
    return kind <= RK_R ? RK_LANE_COMPUTE : RK_LANE_WAIT;
}

/* Training only: an evaluation is not part of what is measured. */
static void record(rk_rank *rank, const rk_step *step, int lane, int64_t start, int64_t end) {
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

/* Runs one step of a program; `wait` is 0 under the virtual clock. 0: the run has failed. */
static int perform(rk_rank *rank, const rk_step *step, int wait) {
    switch (step->kind) {
    case RK_SEND_F:
    case RK_SEND_B: return send(rank, step, wait);
    case RK_RECV_F:
    case RK_RECV_B: return receive(rank, step, wait);
    case RK_REDUCE_GRAD: reduce(rank, step); return 1;
    case RK_OPT_STEP: update(rank, step); return 1;
    default: compute(rank, step); return 1;
    }
}

/* A request's first step may follow an aborted one, so it clears what that left behind. */
static void begin_step(rk_rank *rank, int64_t at) {
    rk_engine *engine = rank->engine;
    atomic_store(&rank->at_step, at);
    if (engine->program != RK_TRAIN) return;
    if (at != engine->first_step && !engine->config.keep_gradients) return;
    for (int32_t s = 0; s < engine->config.num_stages; s++)
        if (engine->stages[s].spec.rank == rank->index)
            clear_gradients(rank, &engine->stages[s].spec);
}

/* The wait for all ranks' gradients. */
static int synchronise(rk_rank *rank, const rk_step *step, int64_t *now) {
    int64_t start = *now;
    if (!wait_until(rank, all_reduced, step)) return 0;
    *now = os_now();
    record(rank, step, RK_LANE_WAIT, start, *now);
    return agree(rank);
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
        int64_t start = now;
        if (!perform(rank, step, 1)) return 0;
        now = os_now();
        record(rank, step, lane_of(step->kind), start, now);
    }
    return 1;
}

void rk_run_rank(void *raw) {
    rk_rank *rank = raw;
    rk_engine *engine = rank->engine;
    const rk_step *steps = rank->steps[engine->program];
    int32_t count = rank->num_steps[engine->program];
    for (int64_t at = engine->first_step; at < atomic_load(&engine->last_step); at++) {
        begin_step(rank, at);
        if (!run_step(rank, steps, count)) break;
    }
    atomic_fetch_sub(&engine->running, 1);
}

/* ---- virtual clock ------------------------------------------------------------------------- */

static void emit(rk_engine *engine, const tl_graph *graph, const int64_t *times) {
    int64_t n = graph->num_nodes;
    const int64_t *start = times + 2 * n, *ready = times + 3 * n, *end = times + 4 * n;
    int32_t *node_rank = engine->node_rank[engine->program];
    int32_t *node_step = engine->node_step[engine->program];
    for (int64_t node = 0; node < n; node++) {
        if (node_rank[node] < 0) continue;
        rk_rank *rank = &engine->ranks[node_rank[node]];
        const rk_step *step = &rank->steps[engine->program][node_step[node]];
        int lane = lane_of(step->kind);
        if (lane == RK_LANE_OPTIMIZER && ready[node] > start[node])
            record(rank, step, RK_LANE_WAIT, start[node], ready[node]);
        record(rank, step, lane, lane == RK_LANE_WAIT ? start[node] : ready[node], end[node]);
        if (end[node] > engine->rank_end[rank->index]) engine->rank_end[rank->index] = end[node];
    }
}

/* The clock that times an action alone: of the thread that does all, so that what else the
 * machine runs meanwhile does not count; the wall's where a team shares the work. */
static int64_t own_now(const rk_engine *engine) {
    return engine->config.threads_per_rank == 1 ? os_thread_now() : os_now();
}

/* All ranks' steps, one after another in topological order; each is timed alone. */
static int run_alone(rk_engine *engine, const tl_graph *graph, int64_t *times, int64_t at) {
    int64_t n = graph->num_nodes;
    int agreed = 0;
    for (int r = 0; r < engine->config.num_ranks; r++) begin_step(&engine->ranks[r], at);
    for (int64_t i = 0; i < n; i++) {
        int32_t node = graph->order[i], r = engine->node_rank[engine->program][node];
        times[node] = 0;
        times[n + node] = r < 0 ? 0 : engine->rank_end[r];
        if (r < 0) continue;
        rk_rank *rank = &engine->ranks[r];
        int32_t index = engine->node_step[engine->program][node];
        const rk_step *step = &rank->steps[engine->program][index];
        atomic_store_explicit(&rank->counter, index, memory_order_relaxed);
        if (atomic_load_explicit(&engine->error, memory_order_relaxed)) return 0;
        if (step->kind == RK_OPT_STEP && !agreed) {
            agreed = 1;
            for (int other = 0; other < engine->config.num_ranks; other++)
                if (!agree(&engine->ranks[other])) return 0;
        }
        /* Handing a pointer over counts as nothing, as in the simulator. */
        int timed = lane_of(step->kind) != RK_LANE_WAIT;
        int64_t start = timed ? own_now(engine) : 0;
        if (!perform(rank, step, 0)) return 0;
        if (timed) times[node] = own_now(engine) - start;
    }
    return 1;
}

void rk_run_virtual(void *raw) {
    rk_engine *engine = raw;
    const tl_graph *graph = &engine->graph[engine->program];
    int64_t n = graph->num_nodes, *times = engine->virtual_times;
    for (int64_t at = engine->first_step; at < atomic_load(&engine->last_step); at++) {
        if (!run_alone(engine, graph, times, at)) break;
        tl_evaluate(graph, times, NULL, times + n, times + 2 * n, times + 3 * n, times + 4 * n);
        emit(engine, graph, times);
    }
    atomic_store(&engine->running, 0);
}
