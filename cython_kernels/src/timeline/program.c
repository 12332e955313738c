/* program.c - see program.h. Passes over plain arrays; nothing is allocated. */
#include "program.h"

#include <math.h>
#include <string.h>

#define ORIGIN (-1) /* in place of a node: time 0 */

/* ---- laying out ---------------------------------------------------------------------------- */

typedef struct layout {
    int32_t *users;  /* by node: how many wait for it over an edge */
    int32_t *alias;  /* by node: the node whose end is its end */
    int32_t *before; /* by node that stays: the one before it on its rank that stays */
    int32_t *first;  /* by node: the first edge it waits for, folded ones included, ... */
    int32_t *count;  /* ... and how many; 0 records for a node that is folded away: -1 */
    int32_t *last;   /* by node: the last record that reads its end */
    int32_t *slot;   /* by node: where its end lies */
    int32_t *free;   /* slots to be used again */
} layout;

/* Folds steps without a duration into the step before (when they wait for nothing) or behind
 * (when nobody waits for them). A rank's edges lie behind one another, so the edges of folded
 * steps and of the step they are folded into are one range. */
static void fold(const tl_source *s, layout *l) {
    const tl_graph *g = &s->graph;
    int64_t n = g->num_nodes;
    memset(l->users, 0, (size_t)n * sizeof *l->users);
    for (int32_t e = 0; e < g->dep_start[n]; e++) l->users[g->dep[e]]++;
    int32_t current = ORIGIN, from = 0;
    for (int32_t i = 0; i < n; i++) {
        if (g->previous[i] < 0) current = ORIGIN, from = g->dep_start[i];
        int32_t waits = g->dep_start[i + 1] - from;
        int has_next = i + 1 < n && g->previous[i + 1] == i;
        l->count[i] = -1;
        l->alias[i] = current;
        if (s->key[i] == 0 && !s->kept[i]) {
            if (waits == 0) continue;
            if (l->users[i] == 0 && has_next) continue;
        }
        l->before[i] = current;
        l->first[i] = from;
        l->count[i] = waits;
        l->alias[i] = current = i;
        from = g->dep_start[i + 1];
    }
}

static void read_at(layout *l, int32_t node, int32_t record) {
    if (node != ORIGIN) l->last[node] = record;
}

/* Which record is the last to read every end; the kept ones are read after all. */
static void lives(const tl_source *s, layout *l) {
    const tl_graph *g = &s->graph;
    int32_t record = 0;
    for (int64_t i = 0; i < g->num_nodes; i++) l->last[i] = -1;
    for (int64_t at = 0; at < g->num_nodes; at++) {
        int32_t i = g->order[at];
        if (l->count[i] < 0) continue;
        read_at(l, l->before[i], record);
        for (int32_t k = 0; k < l->count[i]; k++) {
            read_at(l, l->alias[g->dep[l->first[i] + k]], record);
            if (k + 1 < l->count[i]) record++;
        }
        record++;
    }
    for (int32_t i = 0; i < g->num_nodes; i++) {
        int has_next = i + 1 < g->num_nodes && g->previous[i + 1] == i;
        if ((s->kept[i] || !has_next) && l->alias[i] != ORIGIN) l->last[l->alias[i]] = INT32_MAX;
    }
}

static int32_t slot_of(const layout *l, int32_t node) { return node == ORIGIN ? 0 : l->slot[node]; }

static void release(layout *l, int32_t node, int32_t record, int32_t *num_free) {
    if (node != ORIGIN && l->last[node] == record) {
        l->free[(*num_free)++] = l->slot[node];
        l->last[node] = -1; /* once, though a record may read it twice */
    }
}

static int64_t emit(const tl_source *s, layout *l, tl_record *records, int32_t *num_slots) {
    const tl_graph *g = &s->graph;
    int32_t record = 0, num_free = 0, slots = 1;
    for (int64_t at = 0; at < g->num_nodes; at++) {
        int32_t i = g->order[at], count = l->count[i];
        if (count < 0) continue;
        int32_t before = slot_of(l, l->before[i]);
        for (int32_t k = 0; k < (count ? count : 1); k++, record++) {
            int32_t edge = l->first[i] + k, dep = count ? l->alias[g->dep[edge]] : ORIGIN;
            int last = k + 1 >= count;
            records[record].before = before;
            records[record].dep = slot_of(l, dep);
            records[record].lag = count ? s->lag[edge] : 0;
            records[record].key = last ? s->key[i] : 0;
            release(l, dep, record, &num_free);
            if (k == 0) {
                release(l, l->before[i], record, &num_free);
                l->slot[i] = num_free ? l->free[--num_free] : slots++;
            }
            before = records[record].out = l->slot[i];
        }
        if (l->last[i] == -1) l->free[num_free++] = l->slot[i]; /* nobody reads it */
    }
    *num_slots = slots;
    return record;
}

int64_t tl_compile(const tl_source *s, tl_record *records, int32_t *slot, int32_t *num_slots,
                   int32_t *scratch) {
    int64_t n = s->graph.num_nodes;
    layout l = {scratch,         scratch + n,     scratch + 2 * n, scratch + 3 * n,
                scratch + 4 * n, scratch + 5 * n, scratch + 6 * n, scratch + 7 * n};
    fold(s, &l);
    lives(s, &l);
    int64_t count = emit(s, &l, records, num_slots);
    for (int64_t i = 0; i < n; i++) slot[i] = slot_of(&l, l.alias[i]);
    return count;
}

/* ---- evaluating ---------------------------------------------------------------------------- */

void tl_run(const tl_program *p, const int64_t *cost, int64_t *slots) {
    slots[0] = 0;
    for (int64_t i = 0; i < p->num_records; i++) {
        const tl_record r = p->records[i];
        int64_t begin = slots[r.before], arrival = slots[r.dep] + cost[r.lag];
        slots[r.out] = (arrival > begin ? arrival : begin) + cost[r.key];
    }
}

static inline __attribute__((always_inline)) void lanes(const tl_program *p, const double *cost,
                                                        double *slots) {
    for (int k = 0; k < TL_LANES; k++) slots[k] = 0;
    for (int64_t i = 0; i < p->num_records; i++) {
        const tl_record r = p->records[i];
        const double *before = slots + (int64_t)r.before * TL_LANES;
        const double *dep = slots + (int64_t)r.dep * TL_LANES;
        const double *lag = cost + (int64_t)r.lag * TL_LANES;
        const double *key = cost + (int64_t)r.key * TL_LANES;
        double *out = slots + (int64_t)r.out * TL_LANES, end[TL_LANES];
        for (int k = 0; k < TL_LANES; k++) {
            double arrival = dep[k] + lag[k];
            end[k] = (arrival > before[k] ? arrival : before[k]) + key[k];
        }
        for (int k = 0; k < TL_LANES; k++) out[k] = end[k];
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx512f,prefer-vector-width=512"))) static void
lanes_avx512(const tl_program *p, const double *cost, double *slots) {
    lanes(p, cost, slots);
}
__attribute__((target("avx2"))) static void lanes_avx2(const tl_program *p, const double *cost,
                                                       double *slots) {
    lanes(p, cost, slots);
}
#endif

void tl_run_lanes(const tl_program *p, const double *cost, double *slots) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f")) return lanes_avx512(p, cost, slots);
    if (__builtin_cpu_supports("avx2")) return lanes_avx2(p, cost, slots);
#endif
    lanes(p, cost, slots);
}

/* ---- costs --------------------------------------------------------------------------------- */

double tl_price(const tl_prices *p, const double *price, double *cost) {
    double total = 0, tick = 1e-9;
    for (int64_t i = 0; i < p->num_keys; i++) {
        cost[i] = (p->first[i] < 0 ? 0 : price[p->first[i]]) +
                  (p->second[i] < 0 ? 0 : price[p->second[i]]);
    }
    for (int64_t i = 0; i < p->num_pairs; i++) {
        const int32_t *pair = p->pair + 3 * i;
        cost[pair[0]] = cost[pair[1]] + cost[pair[2]];
    }
    for (int64_t i = 0; i < p->num_keys; i++) total += cost[i] * p->count[i];
    if (!(total < INFINITY)) return 0;
    while (total / tick > 9007199254740992.0) tick *= 10;
    for (int64_t i = 0; i < p->num_keys; i++) cost[i] = rint(cost[i] / tick);
    for (int64_t i = 0; i < p->num_pairs; i++) {
        const int32_t *pair = p->pair + 3 * i;
        cost[pair[0]] = cost[pair[1]] + cost[pair[2]];
    }
    return tick;
}
