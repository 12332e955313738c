/* virtual.c - the virtual clock: one thread runs all ranks' steps in an order in which nothing
 * ever has to wait, times each alone, and lets the evaluator say when it would have run had
 * every rank had a core of its own. */
#include "runtime.h"

static void emit(rk_engine *engine, const tl_graph *graph, const int64_t *times) {
    int64_t n = graph->num_nodes;
    const int64_t *start = times + 2 * n, *ready = times + 3 * n, *end = times + 4 * n;
    int32_t *node_rank = engine->node_rank[engine->program];
    int32_t *node_step = engine->node_step[engine->program];
    for (int64_t node = 0; node < n; node++) {
        if (node_rank[node] < 0) continue;
        rk_rank *rank = &engine->ranks[node_rank[node]];
        const rk_step *step = &rank->steps[engine->program][node_step[node]];
        int lane = rk_lane_of(step->kind);
        if (lane == RK_LANE_OPTIMIZER && ready[node] > start[node])
            rk_note(rank, step, RK_LANE_WAIT, start[node], ready[node]);
        rk_note(rank, step, lane, lane == RK_LANE_WAIT ? start[node] : ready[node], end[node]);
        if (end[node] > engine->rank_end[rank->index]) engine->rank_end[rank->index] = end[node];
    }
}

/* The clock that times an action alone: of the thread that does all, so that what else the
 * machine runs meanwhile does not count; the wall's where a team shares the work. */
static int64_t own_now(const rk_engine *engine) {
    return engine->config.threads_per_rank == 1 ? os_thread_now() : os_now();
}

/* What REDUCE_GRADs have left for when all copies have come: each rank does its share, and it
 * counts as part of them. */
static int share_all(rk_engine *engine, int64_t *times) {
    for (int r = 0; r < engine->config.num_ranks; r++) {
        rk_rank *rank = &engine->ranks[r];
        while (rank->pending) {
            int64_t start = own_now(engine);
            const rk_step *step = rk_share(rank);
            if (!step) {
                rk_fail(engine, RK_MISMATCHED, rank);
                return 0;
            }
            times[engine->stages[step->stage].node] += own_now(engine) - start;
        }
    }
    return 1;
}

/* Where the owners of pieces hand weights out, a rank goes on when all of its stages' have.
 * `ends`: room for a number per rank. */
static void level_ends(rk_engine *engine, int64_t *ends) {
    const rk_config *config = &engine->config;
    int32_t each = config->num_params / config->copies;
    if (!config->zero) return;
    for (int32_t r = 0; r < config->num_ranks; r++) ends[r] = engine->rank_end[r];
    for (int32_t param = 0; param < config->num_params; param++) {
        int64_t *end = &engine->rank_end[engine->stages[engine->params[param].stage].spec.rank];
        int32_t use = engine->params[param % each].first_use;
        for (; use >= 0; use = engine->params[use].next_use)
            for (int32_t other = use; other < config->num_params; other += each) {
                int32_t rank = engine->stages[engine->params[other].stage].spec.rank;
                if (ends[rank] > *end) *end = ends[rank];
            }
    }
}

/* All ranks' steps, one after another in topological order; each is timed alone. */
static int run_alone(rk_engine *engine, const tl_graph *graph, int64_t *times, int64_t at) {
    int64_t n = graph->num_nodes;
    int agreed = 0;
    for (int r = 0; r < engine->config.num_ranks; r++) rk_begin_step(&engine->ranks[r], at);
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
            if (!share_all(engine, times)) return 0;
            for (int other = 0; other < engine->config.num_ranks; other++)
                if (!rk_agree(&engine->ranks[other])) return 0;
        }
        /* Handing a pointer over counts as nothing, as in the simulator. */
        if (step->kind == RK_REDUCE_GRAD) engine->stages[step->stage].node = node;
        int timed = rk_lane_of(step->kind) != RK_LANE_WAIT;
        int64_t start = timed ? own_now(engine) : 0;
        if (!rk_perform(rank, step, 0)) return 0;
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
        level_ends(engine, times);
    }
    atomic_store(&engine->running, 0);
}
