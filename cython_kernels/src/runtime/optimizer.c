/* optimizer.c - the end of a step: gradients are added up, all ranks agree on their norm, and
 * every rank updates the stages it holds. */
#include "runtime.h"

#include <math.h>
#include <string.h>

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

/* Every parameter's, of the step that the rank is at. */
static double *square_sums_of(rk_rank *rank) {
    int64_t parity = atomic_load(&rank->at_step) & 1;
    return rank->engine->square_sums + parity * rank->engine->config.num_params;
}

void rk_begin_sums(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    if (!engine->wire) return;
    memset(square_sums_of(rank), 0, (size_t)engine->config.num_params * sizeof(double));
    rk_wire_begin_step(engine->wire);
}

/* The last of a stage's copies to come adds up for all of them: the others have ended their
 * last W, and wait for every stage before they read or clear a gradient. */
void rk_reduce(rk_rank *rank, const rk_step *step) {
    rk_engine *engine = rank->engine;
    int copies = engine->config.copies;
    int32_t stage = step->stage % (engine->config.num_stages / copies);
    if ((atomic_fetch_add(&engine->gathered[stage], 1) + 1) % copies == 0)
        combine(engine, stage, atomic_load(&rank->at_step) & 1);
    /* The last stage to come decides, before anyone is let on, whether this is the run's last
     * step; so all ranks stop after the same one. */
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

int rk_all_reduced(rk_rank *rank, const rk_step *step) {
    (void)step;
    rk_engine *engine = rank->engine;
    int64_t row = atomic_load(&rank->at_step) - engine->first_step, steps = row + 1;
    if (engine->wire) {
        double *losses = engine->losses + row * engine->config.num_microbatches;
        int stop = 0;
        if (!rk_wire_sums_are_here(engine->wire, square_sums_of(rank), losses, &stop)) return 0;
        if (stop) atomic_store(&engine->last_step, engine->first_step + steps);
        return 1;
    }
    return atomic_load(&engine->reduced) >= steps * engine->config.num_stages;
}

/* The global gradient norm, from the per-parameter sums in layer order. Every rank computes it
 * for itself and finds the same bits. */
static double gradient_norm(rk_rank *rank) {
    const rk_engine *engine = rank->engine;
    const double *sums = square_sums_of(rank);
    int32_t count = engine->config.num_params / engine->config.copies;
    double total = 0;
    for (int32_t i = 0; i < count; i++) total += sums[i];
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

void rk_update(rk_rank *rank, const rk_step *step) {
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
    if (updated % engine->stages_here == 0)
        atomic_store(&engine->done_steps, updated / engine->stages_here);
}
