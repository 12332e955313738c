/* timeline.c - see timeline.h. A pass over plain arrays; nothing is allocated. */
#include "timeline.h"

#include <string.h>

/* Kahn's algorithm. `users` is the reverse of (previous, dep): who waits for a node. */
int64_t tl_order(const tl_graph *g, int32_t *order, int32_t *scratch) {
    int64_t n = g->num_nodes;
    int32_t *missing = scratch, *start = scratch + n, *users = scratch + 2 * n + 1;
    memset(start, 0, (size_t)(n + 1) * sizeof *start);
    for (int64_t e = 0; e < g->dep_start[n]; e++) start[g->dep[e]]++;
    for (int64_t i = 1; i <= n; i++) start[i] += start[i - 1];
    /* start[d] is now where d's users end; filling from the back leaves where they begin. */
    for (int64_t i = n - 1; i >= 0; i--)
        for (int32_t e = g->dep_start[i]; e < g->dep_start[i + 1]; e++)
            users[--start[g->dep[e]]] = (int32_t)i;
    int64_t done = 0, ready = 0;
    for (int64_t i = 0; i < n; i++) {
        missing[i] = g->dep_start[i + 1] - g->dep_start[i] + (g->previous[i] >= 0);
        if (missing[i] == 0) order[ready++] = (int32_t)i;
    }
    while (done < ready) {
        int32_t node = order[done++];
        /* Nodes of a rank lie behind one another, so the successor is found without a table. */
        int64_t after = (int64_t)node + 1;
        if (after < n && g->previous[after] == node && --missing[after] == 0)
            order[ready++] = (int32_t)after;
        for (int32_t e = start[node]; e < start[node + 1]; e++)
            if (--missing[users[e]] == 0) order[ready++] = users[e];
    }
    return done;
}

void tl_evaluate(const tl_graph *g, const int64_t *duration, const int64_t *lag,
                 const int64_t *origin, int64_t *start, int64_t *ready, int64_t *end) {
    for (int64_t i = 0; i < g->num_nodes; i++) {
        int32_t node = g->order[i], before = g->previous[node];
        int64_t begin = before >= 0 ? end[before] : origin ? origin[node] : 0;
        int64_t latest = begin;
        for (int32_t e = g->dep_start[node]; e < g->dep_start[node + 1]; e++) {
            int64_t arrival = end[g->dep[e]] + (lag ? lag[e] : 0);
            if (arrival > latest) latest = arrival;
        }
        start[node] = begin;
        ready[node] = latest;
        end[node] = latest + duration[node];
    }
}
