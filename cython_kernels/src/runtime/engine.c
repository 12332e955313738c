/* engine.c - builds an engine from its tables and starts, stops and ends its runs. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

static void *copy_of(const void *from, int64_t count, size_t size) {
    void *copy = calloc((size_t)(count > 0 ? count : 1), size);
    if (copy && count > 0) memcpy(copy, from, (size_t)count * size);
    return copy;
}

int rk_is_here(const rk_engine *engine, int rank) {
    return engine->here < 0 || engine->here == rank;
}

int rk_is_remote(const rk_engine *engine, const rk_channel_spec *spec) {
    return rk_is_here(engine, spec->producer) != rk_is_here(engine, spec->consumer);
}

static int create_rank(rk_engine *engine, int index, int64_t arena_bytes) {
    rk_rank *rank = &engine->ranks[index];
    rank->engine = engine;
    rank->index = index;
    rank->arena_bytes = arena_bytes;
    rank->arena = os_pages(arena_bytes);
    int64_t events = engine->config.ring_events;
    rank->ring.events = calloc((size_t)events, sizeof *rank->ring.events);
    rank->ring.mask = events - 1;
    int shares = engine->config.virtual_clock && index > 0;
    rank->team = shares ? &engine->ranks[0].own_team : &rank->own_team;
    int size = shares ? 1 : engine->config.threads_per_rank;
    return rank->arena && rank->ring.events && rk_team_create(&rank->own_team, engine, size);
}

static int create_stage(rk_engine *engine, int index, const rk_stage_spec *spec) {
    rk_stage *stage = &engine->stages[index];
    int64_t m = (int64_t)engine->config.num_microbatches * engine->config.num_slices;
    stage->spec = *spec;
    void ***tables[4] = {&stage->input, &stage->output, &stage->doutput, &stage->dinput};
    for (int i = 0; i < 4; i++) {
        *tables[i] = calloc((size_t)m, sizeof **tables[i]);
        if (!*tables[i]) return 0;
    }
    return 1;
}

static int create_parts(rk_engine *engine, const rk_stage_spec *stages,
                        const rk_channel_spec *channels, const int64_t *arena_bytes) {
    const rk_config *config = &engine->config;
    for (int r = 0; r < config->num_ranks; r++)
        if (rk_is_here(engine, r) && !create_rank(engine, r, arena_bytes[r])) return 0;
    for (int s = 0; s < config->num_stages; s++) {
        if (!create_stage(engine, s, &stages[s])) return 0;
        engine->stages_here += rk_is_here(engine, stages[s].rank);
    }
    for (int c = 0; c < config->num_channels; c++) {
        const rk_channel_spec *spec = &channels[c];
        int is_source = rk_is_remote(engine, spec) && rk_is_here(engine, spec->producer);
        int end = is_source ? spec->producer : spec->consumer;
        engine->channels[c].spec = *spec;
        if (!rk_is_here(engine, end)) continue;
        char *arena = engine->ranks[end].arena;
        if (!rk_channel_create(&engine->channels[c], spec, arena, engine->here)) return 0;
    }
    return 1;
}

/* Where every parameter's blocks begin, and room for their sums of squares. */
static int create_sums(rk_engine *engine) {
    int32_t count = engine->config.num_params / engine->config.copies;
    engine->first_block = calloc((size_t)count + 1, sizeof *engine->first_block);
    if (!engine->first_block || !engine->params) return 0;
    for (int32_t i = 0; i < count; i++) {
        int64_t blocks = (engine->params[i].count + RK_BLOCK - 1) / RK_BLOCK;
        engine->first_block[i + 1] = engine->first_block[i] + blocks;
    }
    engine->square_sums = calloc((size_t)engine->first_block[count] * 2 + 1, sizeof(double));
    return engine->square_sums != NULL;
}

rk_engine *rk_create(const rk_config *config, const ck_kernels *kernels,
                     const rk_stage_spec *stages, const rk_channel_spec *channels,
                     const rk_param_spec *params, const rk_piece *pieces,
                     const rk_transfer *transfers, int64_t num_transfers,
                     const rk_tape *tapes, int64_t num_tapes,
                     const rk_call *calls, int64_t num_calls, const int64_t *arena_bytes) {
    /* rk_rank holds members aligned to cache lines. */
    rk_engine *engine = calloc(1, sizeof *engine);
    if (!engine) return NULL;
    engine->config = *config;
    engine->kernels = kernels;
    engine->here = config->here;
    size_t ranks_bytes = (size_t)config->num_ranks * sizeof(rk_rank);
    size_t channels_bytes = (size_t)(config->num_channels + 1) * sizeof(rk_channel);
    engine->ranks = aligned_alloc(64, ranks_bytes);
    engine->channels = aligned_alloc(64, channels_bytes);
    engine->stages = calloc((size_t)config->num_stages, sizeof *engine->stages);
    engine->params = copy_of(params, config->num_params, sizeof *params);
    engine->pieces = copy_of(pieces, config->num_pieces, sizeof *pieces);
    engine->tapes = copy_of(tapes, num_tapes, sizeof *tapes);
    engine->calls = copy_of(calls, num_calls, sizeof *calls);
    engine->num_calls = (int32_t)num_calls;
    engine->gathered = calloc((size_t)config->num_stages, sizeof *engine->gathered);
    engine->refreshed = calloc((size_t)config->num_stages, sizeof *engine->refreshed);
    engine->rank_end = calloc((size_t)config->num_ranks, sizeof(int64_t));
    if (engine->ranks) memset(engine->ranks, 0, ranks_bytes);
    if (engine->channels) memset(engine->channels, 0, channels_bytes);
    int whole = engine->ranks && engine->channels && engine->stages && engine->params &&
                engine->pieces && engine->tapes && engine->calls && engine->gathered &&
                engine->refreshed && engine->rank_end;
    if (whole && num_transfers)
        whole = (engine->exchange = rk_exchange_create(engine, transfers, num_transfers)) != NULL;
    if (!whole || !create_sums(engine) ||
        !create_parts(engine, stages, channels, arena_bytes)) {
        rk_destroy(engine);
        return NULL;
    }
    return engine;
}

int rk_set_program(rk_engine *engine, int program, int rank, const rk_step *steps,
                   int64_t count) {
    rk_rank *target = &engine->ranks[rank];
    free(target->steps[program]);
    target->steps[program] = copy_of(steps, count, sizeof *steps);
    target->num_steps[program] = (int32_t)count;
    return target->steps[program] != NULL;
}

int rk_set_graph(rk_engine *engine, int program, int64_t num_nodes, int64_t num_edges,
                 const int32_t *order, const int32_t *previous, const int32_t *dep_start,
                 const int32_t *dep, const int32_t *node_rank, const int32_t *node_step) {
    tl_graph *graph = &engine->graph[program];
    graph->num_nodes = num_nodes;
    graph->order = copy_of(order, num_nodes, sizeof *order);
    graph->previous = copy_of(previous, num_nodes, sizeof *previous);
    graph->dep_start = copy_of(dep_start, num_nodes + 1, sizeof *dep_start);
    graph->dep = copy_of(dep, num_edges, sizeof *dep);
    engine->node_rank[program] = copy_of(node_rank, num_nodes, sizeof *node_rank);
    engine->node_step[program] = copy_of(node_step, num_nodes, sizeof *node_step);
    int64_t most = 0;
    for (int p = 0; p < RK_NUM_PROGRAMS; p++)
        if (engine->graph[p].num_nodes > most) most = engine->graph[p].num_nodes;
    free(engine->virtual_times);
    engine->virtual_times = calloc((size_t)(5 * most), sizeof(int64_t));
    return graph->order && graph->previous && graph->dep_start && graph->dep &&
           engine->node_rank[program] && engine->node_step[program] && engine->virtual_times;
}

static void destroy_rank(rk_rank *rank) {
    rk_team_destroy(&rank->own_team);
    for (int p = 0; p < RK_NUM_PROGRAMS; p++) free(rank->steps[p]);
    free(rank->ring.events);
    os_free_pages(rank->arena, rank->arena_bytes);
}

static void destroy_graph(rk_engine *engine, int program) {
    tl_graph *graph = &engine->graph[program];
    free((void *)graph->order);
    free((void *)graph->previous);
    free((void *)graph->dep_start);
    free((void *)graph->dep);
    free(engine->node_rank[program]);
    free(engine->node_step[program]);
}

int rk_connect(rk_engine *engine, const rk_mpi *mpi) {
    engine->wire = rk_wire_create(engine, mpi);
    return engine->wire != NULL;
}

void rk_disconnect(rk_engine *engine) {
    rk_wire_destroy(engine->wire);
    engine->wire = NULL;
}

void rk_destroy(rk_engine *engine) {
    if (!engine) return;
    rk_disconnect(engine);
    if (engine->ranks && engine->channels && engine->stages) {
        for (int r = 0; r < engine->config.num_ranks; r++) destroy_rank(&engine->ranks[r]);
        for (int c = 0; c < engine->config.num_channels; c++)
            rk_channel_destroy(&engine->channels[c]);
        for (int s = 0; s < engine->config.num_stages; s++) {
            rk_stage *stage = &engine->stages[s];
            free(stage->input);
            free(stage->output);
            free(stage->doutput);
            free(stage->dinput);
        }
    }
    for (int p = 0; p < RK_NUM_PROGRAMS; p++) destroy_graph(engine, p);
    free(engine->virtual_times);
    free(engine->rank_end);
    rk_exchange_destroy(engine->exchange);
    free(engine->refreshed);
    free(engine->gathered);
    free(engine->square_sums);
    free(engine->first_block);
    free(engine->calls);
    free(engine->tapes);
    free(engine->pieces);
    free(engine->params);
    free(engine->stages);
    free(engine->channels);
    free(engine->ranks);
    free(engine);
}

int rk_start(rk_engine *engine, int program, int64_t first, int64_t last, const rk_data *data,
             const float *learning_rate, double *losses, double *norms, int64_t time_origin) {
    engine->program = program;
    engine->first_step = first;
    engine->data = data;
    engine->learning_rate = learning_rate;
    engine->losses = losses;
    engine->norms = norms;
    engine->time_origin = time_origin;
    engine->error_rank = -1;
    atomic_store(&engine->last_step, last);
    atomic_store(&engine->done_steps, 0);
    atomic_store(&engine->arrived, 0);
    atomic_store(&engine->reduced, 0);
    atomic_store(&engine->updated, 0);
    for (int s = 0; s < engine->config.num_stages; s++) {
        atomic_store(&engine->gathered[s], 0);
        atomic_store(&engine->refreshed[s], 0);
    }
    atomic_store(&engine->stop_requested, 0);
    atomic_store(&engine->error, RK_OK);
    for (int c = 0; c < engine->config.num_channels; c++) {
        rk_channel *channel = &engine->channels[c];
        /* Between processes a request ends with nothing on its way, and the next one may have
         * begun at the other end. */
        if (channel->buffers && !channel->remote) rk_channel_reset(channel);
    }
    int64_t now = os_now();
    int num_ranks = engine->config.num_ranks;
    for (int r = 0; r < num_ranks; r++) engine->rank_end[r] = now;
    int first_rank = engine->here < 0 ? 0 : engine->here;
    int threads = engine->config.virtual_clock || engine->here >= 0 ? 1 : num_ranks;
    atomic_store(&engine->running, threads);
    for (int t = 0; t < threads; t++) {
        rk_rank *rank = &engine->ranks[first_rank + t];
        rank->thread = engine->config.virtual_clock ? os_start(rk_run_virtual, engine)
                                                    : os_start(rk_run_rank, rank);
        if (rank->thread) continue;
        rk_fail(engine, RK_NO_THREAD, rank);
        atomic_fetch_sub(&engine->running, threads - t);
        rk_finish(engine);
        return RK_NO_THREAD;
    }
    return RK_OK;
}

void rk_stop(rk_engine *engine) { atomic_store(&engine->stop_requested, 1); }

void rk_abort(rk_engine *engine) { rk_fail(engine, RK_ABORTED, NULL); }

void rk_finish(rk_engine *engine) {
    for (int r = 0; r < engine->config.num_ranks; r++) {
        os_join(engine->ranks[r].thread);
        engine->ranks[r].thread = NULL;
    }
}
