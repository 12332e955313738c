/* optimizer.c - the end of a step: gradients are added up, all ranks agree on their norm, and
 * every rank updates the stages it holds.
 *
 * A parameter has one holder per copy of the parameters and, if it is tied, per use. The gradient
 * groups of all copies are added in one binary tree. Every holder adds the subtrees that are its
 * own whole, at its REDUCE_GRAD; what is left is cut into pieces, each added by one holder, its
 * owner, once all holders have come. Who adds does not change a bit: an element's tree is the
 * same. In runtime.h's tables all of this is known beforehand, to every rank alike. */
#include "runtime.h"

#include <math.h>
#include <string.h>

static int32_t params_per_copy(const rk_engine *engine) {
    return engine->config.num_params / engine->config.copies;
}

static int32_t stages_per_copy(const rk_engine *engine) {
    return engine->config.num_stages / engine->config.copies;
}

static int own_groups(const rk_engine *engine) {
    return engine->config.gradient_groups / engine->config.copies;
}

/* Steps of this request, up to and with the one that the rank is in. */
static int64_t steps_begun(const rk_rank *rank) {
    return atomic_load(&rank->at_step) - rank->engine->first_step + 1;
}

static float *weights(rk_engine *engine, int32_t param) {
    const rk_stage_spec *spec = &engine->stages[engine->params[param].stage].spec;
    return (float *)(engine->ranks[spec->rank].arena + spec->param +
                     engine->params[param].offset);
}

/* The gradient of a holder's group number `own`. */
static float *gradient(rk_engine *engine, int32_t param, int own) {
    const rk_stage_spec *spec = &engine->stages[engine->params[param].stage].spec;
    return (float *)(engine->ranks[spec->rank].arena + spec->grad + own * spec->grad_stride +
                     engine->params[param].offset);
}

static int holds_here(const rk_engine *engine, int32_t param) {
    return rk_is_here(engine, engine->stages[engine->params[param].stage].spec.rank);
}

/* Where gradient group `group` of all, of a parameter of the first copy, has element `at`: with
 * the copy that made it or, if that is in another process, where it has come to for `piece`. */
static float *group_gradient(rk_engine *engine, int32_t param, int group, int32_t piece,
                             int64_t at) {
    int own = own_groups(engine);
    int32_t holder = param + group / own * params_per_copy(engine);
    if (holds_here(engine, holder)) return gradient(engine, holder, group % own) + at;
    return rk_exchange_root(engine->exchange, piece, holder, group) + at -
           engine->pieces[piece].begin;
}

/* Adds some elements of a parameter's groups in a fixed binary tree, of which the sums over groups
 * of one copy alone are left to that copy: `copy` says whose are added, -1 all others. */
static void add_groups(rk_engine *engine, int32_t param, int32_t piece, int64_t begin,
                       int64_t count, int copy) {
    int groups = engine->config.gradient_groups, own = own_groups(engine);
    for (int distance = 1; distance < groups; distance *= 2)
        for (int g = 0; g + distance < groups; g += 2 * distance) {
            int last = g + 2 * distance < groups ? g + 2 * distance - 1 : groups - 1;
            if ((g / own == last / own ? g / own : -1) != copy) continue;
            float *left = group_gradient(engine, param, g, piece, begin);
            float *right = group_gradient(engine, param, g + distance, piece, begin);
            engine->kernels->add(left, left, right, count, 0, 1);
        }
}

/* The total of some elements of a piece, from their groups; tied uses are added in layer order.
 * It lies where the first copy's first use has its group 0. */
static float *total_of(rk_engine *engine, int32_t first_use, int32_t piece, int64_t begin,
                       int64_t count) {
    float *total = group_gradient(engine, first_use, 0, piece, begin);
    for (int32_t use = first_use; use >= 0; use = engine->params[use].next_use) {
        add_groups(engine, use, piece, begin, count, -1);
        if (use == first_use) continue;
        float *more = group_gradient(engine, use, 0, piece, begin);
        engine->kernels->add(total, total, more, count, 0, 1);
    }
    return total;
}

/* Adds up a piece for all holders, and takes the sums of squares of its blocks. Who updates the
 * piece needs the total: its owner alone, or every holder. */
static void reduce_piece(rk_engine *engine, int32_t number, double *square_sums) {
    const rk_config *config = &engine->config;
    const rk_piece *piece = &engine->pieces[number];
    int32_t each = params_per_copy(engine), use = engine->params[piece->param % each].first_use;
    double *sums = square_sums + engine->first_block[use];
    int for_all = !config->zero || config->keep_gradients;
    int64_t end = piece->begin + piece->count;
    for (int64_t i = piece->begin; i < end; i += RK_BLOCK) {
        int64_t n = end - i < RK_BLOCK ? end - i : RK_BLOCK;
        float *total = total_of(engine, use, number, i, n);
        sums[i / RK_BLOCK] = engine->kernels->sum_squares(total, n);
        for (int32_t u = use; u >= 0; u = engine->params[u].next_use)
            for (int32_t param = u; param < config->num_params; param += each) {
                if (!holds_here(engine, param) || !(for_all || param == piece->param)) continue;
                float *here = gradient(engine, param, 0) + i;
                if (here != total) memcpy(here, total, (size_t)n * sizeof *total);
            }
    }
    if (!config->zero) rk_exchange_send_piece(engine->exchange, number);
}

/* Every block's, of the step that the rank is at. */
static double *square_sums_of(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    int64_t parity = atomic_load(&rank->at_step) & 1;
    return engine->square_sums + parity * engine->first_block[params_per_copy(engine)];
}

void rk_begin_sums(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    if (!engine->wire) return;
    memset(square_sums_of(rank), 0,
           (size_t)engine->first_block[params_per_copy(engine)] * sizeof(double));
    rk_wire_begin_step(engine->wire);
    rk_exchange_begin_step(engine->exchange);
}

/* Has this step's count of all holders of the parameter here been reached? */
static int all_counted(rk_rank *rank, const _Atomic int64_t *count, int32_t param) {
    rk_engine *engine = rank->engine;
    int32_t each = params_per_copy(engine), use = engine->params[param % each].first_use;
    for (; use >= 0; use = engine->params[use].next_use)
        for (int32_t holder = use; holder < engine->config.num_params; holder += each)
            if (holds_here(engine, holder) &&
                atomic_load(&count[engine->params[holder].stage]) < steps_begun(rank))
                return 0;
    return 1;
}

static int can_share(rk_rank *rank, const rk_stage *stage) {
    if (stage->spec.rank != rank->index || !stage->due) return 0;
    if (stage->next_piece == stage->spec.reduce_count) return 1;
    int32_t next = stage->spec.reduce_first + stage->next_piece;
    rk_engine *engine = rank->engine;
    return all_counted(rank, engine->gathered, engine->pieces[next].param) &&
           rk_exchange_has_roots(engine->exchange, next);
}

/* A stage's gradients are ready. The last stage to come decides, before anyone is let on, whether
 * this is the run's last step; so all ranks stop after the same one. */
static void arrive(rk_rank *rank) {
    rk_engine *engine = rank->engine;
    int64_t arrived = atomic_fetch_add(&engine->arrived, 1) + 1;
    if (arrived % engine->stages_here != 0) return;
    if (engine->wire) { /* all processes decide together, when they know all gradients */
        rk_wire_give_sums(engine->wire, square_sums_of(rank), atomic_load(&engine->stop_requested));
        return;
    }
    if (atomic_load(&engine->stop_requested))
        atomic_store(&engine->last_step, atomic_load(&rank->at_step) + 1);
    atomic_store(&engine->reduced, arrived);
    rk_ring_all(engine);
}

/* Pieces of tied parameters come last: their other uses may be late. */
static const rk_step *share(rk_rank *rank, rk_stage *stage) {
    const rk_step *step = stage->due;
    while (can_share(rank, stage) && stage->next_piece < stage->spec.reduce_count) {
        int32_t next = stage->spec.reduce_first + stage->next_piece++;
        reduce_piece(rank->engine, next, square_sums_of(rank));
    }
    if (stage->next_piece == stage->spec.reduce_count) {
        stage->due = NULL;
        rank->pending--;
        arrive(rank);
    }
    return step;
}

void rk_reduce(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    rk_stage *stage = &engine->stages[step->stage];
    int32_t each = stages_per_copy(engine), copy = step->stage / each;
    for (int32_t i = 0; i < stage->spec.param_count; i++) {
        int32_t param = stage->spec.param_first + i;
        add_groups(engine, param % params_per_copy(engine), -1, 0, engine->params[param].count,
                   copy);
    }
    stage->due = step;
    stage->next_piece = 0;
    rank->pending++;
    atomic_fetch_add(&engine->gathered[step->stage], 1);
    rk_exchange_send_roots(engine->exchange, step->stage);
    rk_ring_all(engine);
    if (can_share(rank, stage)) share(rank, stage);
}

const rk_step *rk_share(rk_rank *rank) {
    rk_engine *engine = rank->engine;
    for (int32_t s = 0; rank->pending && s < engine->config.num_stages; s++)
        if (can_share(rank, &engine->stages[s])) return share(rank, &engine->stages[s]);
    return NULL;
}

int rk_share_ready(rk_rank *rank, const rk_step *step) {
    (void)step;
    for (int32_t s = 0; s < rank->engine->config.num_stages; s++)
        if (can_share(rank, &rank->engine->stages[s])) return 1;
    return 0;
}

void rk_forget_shares(rk_rank *rank) {
    for (int32_t s = 0; s < rank->engine->config.num_stages; s++)
        if (rank->engine->stages[s].spec.rank == rank->index) rank->engine->stages[s].due = NULL;
    rank->pending = 0;
}

int rk_all_reduced(rk_rank *rank, const rk_step *step) {
    (void)step;
    rk_engine *engine = rank->engine;
    int64_t steps = steps_begun(rank);
    if (engine->wire) {
        double *losses = engine->losses + (steps - 1) * engine->config.num_microbatches;
        int stop = 0;
        if (!rk_exchange_is_done(engine->exchange, RK_ROOT) ||
            !rk_exchange_is_done(engine->exchange, RK_TOTAL))
            return 0;
        if (!rk_wire_sums_are_here(engine->wire, square_sums_of(rank), losses, &stop)) return 0;
        if (stop) atomic_store(&engine->last_step, engine->first_step + steps);
        return 1;
    }
    return atomic_load(&engine->reduced) >= steps * engine->config.num_stages;
}

/* The global gradient norm, from the blocks' sums: parameters in layer order, each one's blocks
 * ascending, a tied one once. Every rank computes it for itself and finds the same bits. */
static double gradient_norm(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    const double *sums = square_sums_of(rank);
    int32_t count = params_per_copy(engine);
    double total = 0;
    for (int32_t i = 0; i < count; i++) {
        double squares = 0;
        for (int64_t b = engine->first_block[i]; b < engine->first_block[i + 1]; b++)
            squares += sums[b];
        if (engine->params[i].first_use == i) total += squares;
    }
    return sqrt(total);
}

int rk_agree(rk_rank *rank) {
    rk_engine *engine = rank->engine;
    int64_t at = atomic_load(&rank->at_step), row = at - engine->first_step;
    double norm = gradient_norm(rank);
    if (rank->index == 0 || engine->wire) engine->norms[row] = norm;
    const double *losses = engine->losses + row * engine->config.num_microbatches;
    int finite = isfinite(norm);
    for (int32_t i = 0; i < engine->config.num_microbatches; i++) finite &= isfinite(losses[i]);
    if (!finite) {
        rk_fail(engine, RK_NONFINITE, rank);
        return 0;
    }
    double clip = engine->config.clip;
    rank->scale = clip > 0 && norm > clip ? clip / norm : 1.0;
    rk_exchange_receive(engine->exchange, RK_WEIGHTS);
    return 1;
}

/* Every W of a step only adds to the gradients, so each step starts from zero. */
static void clear_gradients(rk_rank *rank, const rk_stage_spec *spec) {
    const rk_config *config = &rank->engine->config;
    memset(rank->arena + spec->grad, 0,
           (size_t)(spec->grad_stride * (config->gradient_groups / config->copies)));
}

void rk_clear_gradients(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    for (int32_t s = 0; s < engine->config.num_stages; s++)
        if (engine->stages[s].spec.rank == rank->index)
            clear_gradients(rank, &engine->stages[s].spec);
}

/* Gives the other holders of a piece the weights that its owner has made. */
static void hand_out(rk_engine *engine, int32_t number) {
    const rk_piece *piece = &engine->pieces[number];
    int32_t each = params_per_copy(engine);
    const float *from = weights(engine, piece->param) + piece->begin;
    int32_t use = engine->params[piece->param % each].first_use;
    for (; use >= 0; use = engine->params[use].next_use)
        for (int32_t param = use; param < engine->config.num_params; param += each)
            if (param != piece->param && holds_here(engine, param))
                memcpy(weights(engine, param) + piece->begin, from,
                       (size_t)piece->count * sizeof *from);
    rk_exchange_send_piece(engine->exchange, number);
}

static void update_piece(rk_rank *rank, int32_t number) {
    rk_engine *engine = rank->engine;
    const rk_piece *piece = &engine->pieces[number];
    const rk_config *config = &engine->config;
    int64_t at = atomic_load(&rank->at_step);
    float lr = engine->learning_rate[at], scale = (float)rank->scale;
    float decay = engine->params[piece->param].weight_decay;
    float *value = weights(engine, piece->param) + piece->begin;
    const float *grad = gradient(engine, piece->param, 0) + piece->begin;
    float *first = (float *)(rank->arena + piece->first_moment);
    float *second = (float *)(rank->arena + piece->second_moment);
    if (config->optimizer == RK_ADAMW)
        engine->kernels->adamw(value, first, second, grad, piece->count, lr,
                               (float)config->beta1, (float)config->beta2,
                               (float)config->epsilon, decay,
                               (float)(1 - pow(config->beta1, (double)(at + 1))),
                               (float)(1 - pow(config->beta2, (double)(at + 1))), scale, 0, 1);
    else
        engine->kernels->sgd(value, first, grad, piece->count, lr, (float)config->beta1, decay,
                             scale, 0, 1);
    if (config->zero) hand_out(engine, number);
}

void rk_update(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    const rk_config *config = &engine->config;
    const rk_stage_spec *spec = &engine->stages[step->stage].spec;
    for (int32_t i = 0; i < spec->update_count; i++)
        update_piece(rank, spec->update_first + i);
    if (!config->keep_gradients) clear_gradients(rank, spec);
    if (config->zero) {
        atomic_fetch_add(&engine->refreshed[step->stage], 1);
        rk_ring_all(engine);
    }
    int64_t updated = atomic_fetch_add(&engine->updated, 1) + 1;
    if (updated % engine->stages_here == 0)
        atomic_store(&engine->done_steps, updated / engine->stages_here);
}

/* A stage's weights come from its copies and, where they are tied, from the other uses' stages. */
int rk_all_refreshed(rk_rank *rank, const rk_step *step) {
    (void)step;
    rk_engine *engine = rank->engine;
    for (int32_t param = 0; param < engine->config.num_params; param++) {
        if (engine->stages[engine->params[param].stage].spec.rank != rank->index) continue;
        if (!all_counted(rank, engine->refreshed, param)) return 0;
    }
    return rk_exchange_is_done(engine->exchange, RK_WEIGHTS);
}
