# cython: language_level=3, boundscheck=False, wraparound=False
# cython: freethreading_compatible=True
"""The timeline evaluator: when every node of a graph of steps starts and ends."""

from libc.stdint cimport int32_t, int64_t, uint8_t

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


cdef extern from "orders.h" nogil:
    int TL_MALFORMED
    ctypedef struct tl_orders:
        int32_t num_ranks, num_actions, num_stages
        const int32_t *row_start
        const int32_t *rank
        const int32_t *stage
        const int32_t *channel
        const int32_t *need_start
        const int32_t *need
        const int64_t *duration
        const int64_t *post
        const int64_t *flight
        const double *delta
        const int64_t *overlap
        const uint8_t *forward
        const int32_t *gradients
        const uint8_t *gradient
        const int64_t *reduce
        const int64_t *optimizer
    ctypedef struct tl_walk:
        int64_t *arrival
        int32_t *number
        int32_t *state
        int32_t *sent
        int32_t *taken
        int32_t *left
        int32_t *at
        int32_t *next
        int32_t *awake
        int64_t *clock
        double *held
        double *peak
        int64_t *start
        int64_t *end
    int64_t tl_walk_order(const tl_orders *o, const int32_t *rows, tl_walk *w)


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


cdef _room(array, dtype, tuple shape, str name):
    """A copy of its own with this type and shape; C then need not look."""
    found = np.array(array, dtype=dtype, order="C")
    if found.shape != shape:
        raise ValueError(f"{name} must be {shape}, got {found.shape}")
    return found


cdef _within(array, low, high, str name):
    if array.size and (array.min() < low or array.max() >= high):
        raise ValueError(f"{name} must lie in {low} to {high - 1}, got {array.min()} to "
                         f"{array.max()}")


cdef class Orders:
    """A set of actions whose orders are walked (orders.h); it owns its tables and room.

    Arrays by action, of length n: `rank` (ascending, since a row is laid behind the row
    before), `stage`, `channel` (-1: no message), `duration`, `post`, `flight` (ticks),
    `delta`, `forward`, `gradient`; `need_start`, `need` in CSR form with ~action for an action
    of another rank. `overlap`: (stages, stages) ticks or None; `reduce`: (stages,) and
    `optimizer`: (ranks,) ticks (-1: no optimizer step), or None for a step without.
    One object serves one thread at a time. Raises ValueError for tables that do not fit.
    """

    cdef tl_orders orders
    cdef tl_walk room
    cdef list kept
    cdef readonly object peak, start, end

    def __init__(self, num_ranks, num_stages, rank, stage, channel, need_start, need, duration,
                 post, flight, delta, forward, gradient, overlap=None, reduce=None,
                 optimizer=None):
        cdef tl_orders *o = &self.orders
        ranks, stages, n = int(num_ranks), int(num_stages), len(rank)
        self.kept = []
        o.num_ranks, o.num_stages, o.num_actions = ranks, stages, n
        tables = {
            "rank": _room(rank, np.int32, (n,), "rank"),
            "stage": _room(stage, np.int32, (n,), "stage"),
            "channel": _room(channel, np.int32, (n,), "channel"),
            "need_start": _room(need_start, np.int32, (n + 1,), "need_start"),
            "need": _room(need, np.int32, (len(need),), "need"),
        }
        _within(tables["rank"], 0, ranks, "rank")
        _within(tables["stage"], 0, stages, "stage")
        _within(tables["channel"], -1, 2 * stages, "channel")
        needs, starts = tables["need"], tables["need_start"]
        actual = np.where(needs < 0, ~needs, needs)
        _within(actual, 0, n, "need")
        if starts[0] != 0 or starts[n] != len(needs) or (np.diff(starts) < 0).any():
            raise ValueError("need_start must rise from 0 to the number of needs")
        if (tables["channel"][actual[needs < 0]] < 0).any():
            raise ValueError("an action that another rank needs must have a channel")
        if (np.diff(tables["rank"]) < 0).any():
            raise ValueError("rank must be ascending: a rank's actions lie behind one another")
        row_start = np.searchsorted(tables["rank"], np.arange(ranks + 1)).astype(np.int32)
        o.row_start = self._ints(row_start)
        o.rank = self._ints(tables["rank"])
        o.stage = self._ints(tables["stage"])
        o.channel = self._ints(tables["channel"])
        o.need_start = self._ints(starts)
        o.need = self._ints(needs)
        o.duration = self._longs(_room(duration, np.int64, (n,), "duration"))
        o.post = self._longs(_room(post, np.int64, (n,), "post"))
        o.flight = self._longs(_room(flight, np.int64, (n,), "flight"))
        o.delta = self._doubles(_room(delta, np.float64, (n,), "delta"))
        o.forward = self._bytes(_room(forward, np.uint8, (n,), "forward"))
        ends = _room(gradient, np.uint8, (n,), "gradient")
        o.gradient = self._bytes(ends)
        o.overlap = NULL
        if overlap is not None:
            o.overlap = self._longs(_room(overlap, np.int64, (stages, stages), "overlap"))
        o.gradients = NULL
        if reduce is not None:
            count = np.bincount(tables["stage"][ends != 0], minlength=stages)
            o.gradients = self._ints(count.astype(np.int32))
            o.reduce = self._longs(_room(reduce, np.int64, (stages,), "reduce"))
            o.optimizer = self._longs(_room(optimizer, np.int64, (ranks,), "optimizer"))
        self._make_room(n, ranks, stages)

    def _make_room(self, n, ranks, stages):
        cdef tl_walk *w = &self.room
        self.peak = np.zeros(ranks)
        self.start, self.end = np.zeros(n, np.int64), np.zeros(n, np.int64)
        w.arrival = self._longs(np.zeros(n, np.int64))
        w.number = self._ints(np.zeros(n, np.int32))
        w.state = self._ints(np.zeros(n, np.int32))
        w.sent = self._ints(np.zeros(2 * stages, np.int32))
        w.taken = self._ints(np.zeros(2 * stages, np.int32))
        w.left = self._ints(np.zeros(stages, np.int32))
        w.at = self._ints(np.zeros(ranks, np.int32))
        w.next = self._ints(np.zeros(ranks, np.int32))
        w.awake = self._ints(np.zeros(ranks, np.int32))
        w.clock = self._longs(np.zeros(ranks, np.int64))
        w.held = self._doubles(np.zeros(ranks))
        w.peak = self._doubles(self.peak)
        w.start = w.end = NULL

    cdef int32_t *_ints(self, array):
        cdef int32_t[::1] view = array
        self.kept.append(array)
        return &view[0] if view.shape[0] else NULL

    cdef int64_t *_longs(self, array):
        cdef int64_t[::1] view = array.reshape(-1)
        self.kept.append(array)
        return &view[0] if view.shape[0] else NULL

    cdef double *_doubles(self, array):
        cdef double[::1] view = array
        self.kept.append(array)
        return &view[0] if view.shape[0] else NULL

    cdef uint8_t *_bytes(self, array):
        cdef uint8_t[::1] view = array
        self.kept.append(array)
        return &view[0] if view.shape[0] else NULL

    cdef int64_t _walk(self, const int32_t *rows) except? -3:
        cdef int64_t found = tl_walk_order(&self.orders, rows, &self.room)
        if found == TL_MALFORMED:
            raise ValueError("a row is not an order of its rank's actions: every action of the "
                             "rank once, and ~action only behind the one it runs with")
        return found

    def walk(self, const int32_t[::1] rows not None):
        """The makespan in ticks; -1: deadlock, -2: a channel's messages are taken in another
        order than they are sent. `peak` then has the most memory every rank held; both are
        meaningless after a negative result. Raises ValueError for anything but an order."""
        if rows.shape[0] != self.orders.num_actions:
            raise ValueError(f"{self.orders.num_actions} actions, but {rows.shape[0]} in rows")
        return self._walk(&rows[0]) if rows.shape[0] else 0

    def walk_times(self, const int32_t[::1] rows not None):
        """As walk; fills `start` and `end` (ticks, by action) too."""
        cdef int64_t[::1] start = self.start, end = self.end
        if start.shape[0] == 0:
            return self.walk(rows)
        self.room.start, self.room.end = &start[0], &end[0]
        try:
            return self.walk(rows)
        finally:
            self.room.start = self.room.end = NULL

    def walk_many(self, const int32_t[:, ::1] rows not None, double[:, ::1] peaks=None):
        """As walk, for every row of a (k, n) array: k int64. `peaks`: (k, ranks) to fill."""
        cdef int64_t i, k = rows.shape[0]
        cdef int32_t r, ranks = self.orders.num_ranks
        if rows.shape[1] != self.orders.num_actions:
            raise ValueError(f"{self.orders.num_actions} actions, but {rows.shape[1]} in rows")
        if peaks is not None and (peaks.shape[0] != k or peaks.shape[1] != ranks):
            raise ValueError(f"peaks must be ({k}, {ranks}), got ({peaks.shape[0]}, "
                             f"{peaks.shape[1]})")
        found = np.zeros(k, np.int64)
        cdef int64_t[::1] found_ = found
        if rows.shape[1] == 0:
            return found
        for i in range(k):
            found_[i] = self._walk(&rows[i, 0])
            if peaks is not None:
                for r in range(ranks):
                    peaks[i, r] = self.room.peak[r]
        return found
