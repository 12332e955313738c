/* program.h - a graph laid out for evaluating it under many costs.
 *
 * What timeline.h evaluates node by node is turned, once, into records in evaluation order. Steps
 * that take no time of their own are folded into their neighbours; every record has exactly one
 * step before it and one thing it waits for (more are a chain of records); ends live in slots
 * that are used again as soon as nobody needs them, so that the whole working set stays in the
 * first-level cache. A duration or lag is a key into a table of costs; key 0 is no time, slot 0
 * is time 0. Nothing branches on data, and the lanes of a batch are independent:
 *
 *     end[out] = max(end[before], end[dep] + cost[lag]) + cost[key]
 */
#ifndef TL_PROGRAM_H
#define TL_PROGRAM_H

#include <stdint.h>

#include "timeline.h"

/* Cost vectors that are evaluated together: their values lie side by side. */
#define TL_LANES 8

typedef struct tl_record {
    int32_t before, dep, out; /* slots */
    int32_t lag, key;         /* keys */
} tl_record;

typedef struct tl_program {
    int64_t num_records;
    const tl_record *records;
} tl_program;

/* What tl_compile reads beside the graph, whose order must be filled and whole. */
typedef struct tl_source {
    tl_graph graph;
    const int32_t *key;       /* by node: its duration, 0: none */
    const int32_t *lag;       /* by edge: 0: none */
    const uint8_t *kept;      /* by node: its end is asked for; it has a slot of its own */
} tl_source;

/* Fills records (at most num_nodes + num_edges), slot (by node: where its end is found, for
 * nodes that are kept, or run last on their rank) and num_slots; returns the number of records.
 * scratch: 8 * num_nodes + 1 entries. */
int64_t tl_compile(const tl_source *s, tl_record *records, int32_t *slot, int32_t *num_slots,
                   int32_t *scratch);

/* Evaluates; slots: one entry per slot, read where a node was kept. */
void tl_run(const tl_program *p, const int64_t *cost, int64_t *slots);

/* The same for TL_LANES cost vectors: cost and slots have TL_LANES entries per key and slot.
 * Times must be whole numbers whose sum is at most 2^53: lanes are then exact, too. */
void tl_run_lanes(const tl_program *p, const double *cost, double *slots);

/* How the costs of a plain model become the vector that a program reads: cost number k is the sum
 * of two prices, and the last num_pairs sums are of two costs once these are whole. */
typedef struct tl_prices {
    int64_t num_keys, num_pairs;
    const int32_t *first, *second; /* by key: prices, -1 for nothing */
    const int32_t *pair;           /* by pair: its key, and the keys of both, side by side */
    const double *count;           /* by key: how often a program reads it */
} tl_prices;

/* Fills cost with whole ticks and returns the tick: 1e-9, or ten, a hundred, ... times that where
 * all costs together were more than 2^53 ticks. Returns 0 where they add up to no number. */
double tl_price(const tl_prices *p, const double *price, double *cost);

#endif
