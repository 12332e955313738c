# cython: language_level=3, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""The timeline evaluator: when every node of a graph of steps starts and ends."""

from libc.stdint cimport int32_t, int64_t

import numpy as np


cdef extern from "timeline.h" nogil:
    ctypedef struct tl_graph:
        int64_t num_nodes
        const int32_t *order
        const int32_t *previous
        const int32_t *dep_start
        const int32_t *dep
    int64_t tl_order(const tl_graph *g, int32_t *order, int32_t *scratch)
    void tl_evaluate(const tl_graph *g, const int64_t *duration, const int64_t *lag,
                     const int64_t *origin, int64_t *start, int64_t *ready, int64_t *end)


cdef _check(const int32_t[::1] previous, const int32_t[::1] dep_start, const int32_t[::1] dep):
    """What would read outside the arrays is refused here, so that C need not look."""
    cdef int64_t n = previous.shape[0], i
    if dep_start.shape[0] != n + 1 or dep_start[0] != 0 or dep_start[n] != dep.shape[0]:
        raise ValueError(
            f"dep_start has {dep_start.shape[0]} entries for {n} nodes and {dep.shape[0]} deps; "
            "it must run from 0 to the number of deps, with one entry more than nodes")
    for i in range(n):
        if previous[i] != -1 and (previous[i] != i - 1 or i == 0):
            raise ValueError(f"previous[{i}] is {previous[i]}; it must be {i - 1} or -1")
        if dep_start[i + 1] < dep_start[i]:
            raise ValueError(f"dep_start falls from {dep_start[i]} to {dep_start[i + 1]}")
    for i in range(dep.shape[0]):
        if not 0 <= dep[i] < n:
            raise ValueError(f"dep[{i}] is {dep[i]}, but there are {n} nodes")


def topological_order(const int32_t[::1] previous, const int32_t[::1] dep_start,
                      const int32_t[::1] dep):
    """An order (int32) in which every node comes after what it waits for.

    A node waits for the node before it on its rank (`previous`: i - 1 or -1) and for its row
    of the CSR table (`dep_start`, `dep`). Where there is a cycle, the nodes on it and those
    that wait for them are missing from the result. Raises ValueError for a malformed table.
    """
    _check(previous, dep_start, dep)
    cdef int64_t n = previous.shape[0], done
    if n == 0:
        return np.empty(0, np.int32)
    order = np.empty(n, np.int32)
    scratch = np.empty(2 * n + 1 + dep.shape[0], np.int32)
    cdef int32_t[::1] order_ = order, scratch_ = scratch
    cdef const int32_t *deps = NULL
    if dep.shape[0]:
        deps = &dep[0]
    cdef tl_graph g = tl_graph(n, NULL, &previous[0], &dep_start[0], deps)
    with nogil:
        done = tl_order(&g, &order_[0], &scratch_[0])
    return order[:done]


def evaluate(const int32_t[::1] order, const int32_t[::1] previous,
             const int32_t[::1] dep_start, const int32_t[::1] dep,
             const int64_t[::1] duration, lag=None, origin=None):
    """(start, ready, end) of every node, int64 ticks.

    `duration`: per node; `lag`: per edge, added to the end of what is waited for; `origin`:
    per node, when a rank's first node may start. `order` is topological_order's.
    Raises ValueError when lengths disagree or the order is not one of all nodes.
    """
    _check(previous, dep_start, dep)
    cdef int64_t n = previous.shape[0], i
    if order.shape[0] != n or duration.shape[0] != n:
        raise ValueError(f"{n} nodes, but {order.shape[0]} in order (a cycle?) "
                         f"and {duration.shape[0]} durations")
    cdef unsigned char[::1] seen = np.zeros(n, np.uint8)
    for i in range(n):
        if not 0 <= order[i] < n:
            raise ValueError(f"order[{i}] is {order[i]}, but there are {n} nodes")
        if seen[order[i]]:
            raise ValueError(f"order has node {order[i]} twice")
        seen[order[i]] = 1
    cdef const int64_t[::1] lag_ = lag, origin_ = origin
    if lag is not None and lag_.shape[0] != dep.shape[0]:
        raise ValueError(f"{dep.shape[0]} edges, but {lag_.shape[0]} lags")
    if origin is not None and origin_.shape[0] != n:
        raise ValueError(f"{n} nodes, but {origin_.shape[0]} origins")
    times = np.zeros((3, n), np.int64)
    if n == 0:
        return times[0], times[1], times[2]
    cdef int64_t[:, ::1] t = times
    cdef const int32_t *deps = NULL
    cdef const int64_t *lags = NULL
    cdef const int64_t *origins = NULL
    if dep.shape[0]:
        deps = &dep[0]
        if lag is not None:
            lags = &lag_[0]
    if origin is not None:
        origins = &origin_[0]
    cdef tl_graph g = tl_graph(n, &order[0], &previous[0], &dep_start[0], deps)
    with nogil:
        tl_evaluate(&g, &duration[0], lags, origins, &t[0, 0], &t[1, 0], &t[2, 0])
    return times[0], times[1], times[2]
