/* timeline.h - the evaluator: when does every action of a set of programs start and end?
 *
 * A node is one step of one rank's program. It starts when its rank's previous step has ended,
 * becomes ready when all its dependences have ended (plus their lag), and ends `duration` after
 * that. This is a max-plus recurrence, evaluated once in a topological order that is computed
 * once. Times are int64 ticks, so sums and comparisons are exact.
 */
#ifndef TL_TIMELINE_H
#define TL_TIMELINE_H

#include <stdint.h>

typedef struct tl_graph {
    int64_t num_nodes;
    const int32_t *order;     /* topological order, num_nodes entries */
    const int32_t *previous;  /* the same rank's previous node: the node just before, or -1 */
    const int32_t *dep_start; /* CSR row starts, num_nodes + 1 entries */
    const int32_t *dep;       /* nodes this one waits for */
} tl_graph;

/* Fills order; returns how many nodes were ordered: fewer than num_nodes means a cycle
 * (the unordered nodes are then exactly those on or behind it). scratch: 2*num_nodes +
 * num_edges + 1 entries. g->order is not read. */
int64_t tl_order(const tl_graph *g, int32_t *order, int32_t *scratch);

/* start = end[previous], or origin[i] for a node with no previous one (origin or NULL: zeros);
 * ready = max(start, end[dep] + lag[edge]) (lag or NULL: zeros); end = ready + duration. */
void tl_evaluate(const tl_graph *g, const int64_t *duration, const int64_t *lag,
                 const int64_t *origin, int64_t *start, int64_t *ready, int64_t *end);

#endif
