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


cdef extern from "program.h" nogil:
    int TL_LANES
    ctypedef struct tl_record:
        int32_t before, dep, out, lag, key
    ctypedef struct tl_program:
        int64_t num_records
        const tl_record *records
    ctypedef struct tl_source:
        tl_graph graph
        const int32_t *key
        const int32_t *lag
        const uint8_t *kept
    int64_t tl_compile(const tl_source *s, tl_record *records, int32_t *slot,
                       int32_t *num_slots, int32_t *scratch)
    void tl_run(const tl_program *p, const int64_t *cost, int64_t *slots)
    void tl_run_lanes(const tl_program *p, const double *cost, double *slots)
    ctypedef struct tl_prices:
        int64_t num_keys, num_pairs
        const int32_t *first
        const int32_t *second
        const int32_t *pair
        const double *count
    double tl_price(const tl_prices *p, const double *price, double *cost)


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


cdef _check_order(const int32_t[::1] order, const int32_t[::1] previous,
                  const int32_t[::1] dep_start, const int32_t[::1] dep):
    """As _check; and the order must have every node once."""
    _check(previous, dep_start, dep)
    cdef int64_t n = previous.shape[0], i
    if order.shape[0] != n:
        raise ValueError(f"{n} nodes, but {order.shape[0]} in order (a cycle?)")
    cdef unsigned char[::1] seen = np.zeros(n, np.uint8)
    for i in range(n):
        if not 0 <= order[i] < n:
            raise ValueError(f"order[{i}] is {order[i]}, but there are {n} nodes")
        if seen[order[i]]:
            raise ValueError(f"order has node {order[i]} twice")
        seen[order[i]] = 1


cdef _check_topological(const int32_t[::1] order, const int32_t[::1] previous,
                        const int32_t[::1] dep_start, const int32_t[::1] dep):
    cdef int64_t n = previous.shape[0], i, e
    cdef unsigned char[::1] done = np.zeros(n, np.uint8)
    cdef int32_t node
    for i in range(n):
        node = order[i]
        if previous[node] >= 0 and not done[previous[node]]:
            raise ValueError(f"order has node {node} before the one before it, {node - 1}")
        for e in range(dep_start[node], dep_start[node + 1]):
            if not done[dep[e]]:
                raise ValueError(f"order has node {node} before {dep[e]}, which it waits for")
        done[node] = 1


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
    _check_order(order, previous, dep_start, dep)
    cdef int64_t n = previous.shape[0]
    if duration.shape[0] != n:
        raise ValueError(f"{n} nodes, but {duration.shape[0]} durations")
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


def evaluate_again(const int32_t[::1] order, const int32_t[::1] previous,
                   const int32_t[::1] dep_start, const int32_t[::1] dep,
                   const int64_t[::1] duration, const int64_t[::1] lag):
    """As evaluate, for a table and an order that it has taken before: only the lengths of
    `duration` and `lag` are looked at."""
    cdef int64_t n = previous.shape[0]
    if duration.shape[0] != n or lag.shape[0] != dep.shape[0]:
        raise ValueError(f"{n} nodes and {dep.shape[0]} edges, but {duration.shape[0]} "
                         f"durations and {lag.shape[0]} lags")
    times = np.empty((3, n), np.int64)
    if n == 0:
        return times[0], times[1], times[2]
    cdef int64_t[:, ::1] t = times
    cdef const int32_t *deps = NULL
    cdef const int64_t *lags = NULL
    if dep.shape[0]:
        deps, lags = &dep[0], &lag[0]
    cdef tl_graph g = tl_graph(n, &order[0], &previous[0], &dep_start[0], deps)
    with nogil:
        tl_evaluate(&g, &duration[0], lags, NULL, &t[0, 0], &t[1, 0], &t[2, 0])
    return times[0], times[1], times[2]


cdef class Program:
    """A graph laid out once and evaluated under many costs (program.h).

    `order` is topological_order's; `key` (per node) and `lag` (per edge) point into the
    vectors of `num_keys` costs, whose entry 0 must be 0. `asked`: nodes whose ends are
    wanted. Raises ValueError for a malformed table, an order that is not one of all nodes,
    and keys that there are not. One object serves one thread at a time.
    """

    cdef tl_program program
    cdef object kept
    cdef int64_t keys
    cdef int32_t[::1] slots_asked
    cdef int64_t[::1] slots, costs
    cdef double[::1] lane_slots, lane_costs
    cdef readonly int64_t num_records, num_slots

    def __init__(self, const int32_t[::1] order, const int32_t[::1] previous,
                 const int32_t[::1] dep_start, const int32_t[::1] dep,
                 const int32_t[::1] key, const int32_t[::1] lag, num_keys, asked):
        cdef int64_t n = previous.shape[0], edges = dep.shape[0]
        _check_order(order, previous, dep_start, dep)
        if key.shape[0] != n or lag.shape[0] != edges:
            raise ValueError(f"{n} nodes and {edges} edges, but {key.shape[0]} keys and "
                             f"{lag.shape[0]} lags")
        _within(np.asarray(key), 0, num_keys, "key")
        _within(np.asarray(lag), 0, num_keys, "lag")
        asked = np.asarray(asked, np.int64).reshape(-1)
        _within(asked, 0, n, "asked")
        kept, slot = np.zeros(n + 1, np.uint8), np.zeros(n + 1, np.int32)
        kept[asked] = 1
        # A record is five int32 (program.h).
        records = np.zeros((n + edges + 1, 5), np.int32)
        scratch = np.zeros(8 * n + 1, np.int32)
        cdef uint8_t[::1] kept_ = kept
        cdef int32_t[::1] slot_ = slot, scratch_ = scratch
        cdef int32_t[:, ::1] records_ = records
        cdef int32_t num_slots = 1
        cdef const int32_t *deps = NULL
        cdef const int32_t *lags = NULL
        cdef tl_source s
        if edges:
            deps, lags = &dep[0], &lag[0]
        self.num_records = 0
        if n:
            _check_topological(order, previous, dep_start, dep)
            s.graph = tl_graph(n, &order[0], &previous[0], &dep_start[0], deps)
            s.key, s.lag, s.kept = &key[0], lags, &kept_[0]
            with nogil:
                self.num_records = tl_compile(&s, <tl_record *>&records_[0, 0], &slot_[0],
                                              &num_slots, &scratch_[0])
        self.kept = records[:max(1, self.num_records)].copy()
        records_ = self.kept
        self.program.num_records = self.num_records
        self.program.records = <const tl_record *>&records_[0, 0]
        self.keys, self.num_slots = num_keys, num_slots
        self.slots_asked = slot[asked]
        self.slots = np.zeros(num_slots, np.int64)
        self.costs = np.zeros(num_keys, np.int64)
        self.lane_slots = np.zeros(num_slots * TL_LANES)
        self.lane_costs = np.zeros(num_keys * TL_LANES)

    cdef int _run(self, const double[::1] cost) except -1:
        cdef int64_t i
        if cost.shape[0] != self.keys or self.keys == 0:
            raise ValueError(f"{self.keys} keys, but {cost.shape[0]} costs")
        for i in range(self.keys):
            self.costs[i] = <int64_t>cost[i]
        tl_run(&self.program, &self.costs[0], &self.slots[0])
        return 0

    def run(self, const double[::1] cost not None):
        """The ends of the nodes asked for, (asked,) int64, under one vector of costs, whole
        numbers of which the sum must stay below 2^53."""
        cdef int64_t i
        self._run(cost)
        found = np.empty(self.slots_asked.shape[0], np.int64)
        cdef int64_t[::1] found_ = found
        for i in range(found_.shape[0]):
            found_[i] = self.slots[self.slots_asked[i]]
        return found

    def run_latest(self, const double[::1] cost not None):
        """The latest end of those that are asked for, an int; 0 for none."""
        cdef int64_t i, latest = 0
        self._run(cost)
        for i in range(self.slots_asked.shape[0]):
            latest = max(latest, self.slots[self.slots_asked[i]])
        return latest

    def run_many(self, const double[:, ::1] costs not None):
        """As run, for every row of (k, keys): (k, asked) doubles, evaluated eight at a
        time."""
        cdef int64_t k = costs.shape[0], n = self.slots_asked.shape[0], first, i, j, lane
        cdef int64_t lanes = TL_LANES, keys = self.keys
        if costs.shape[1] != self.keys or self.keys == 0:
            raise ValueError(f"{self.keys} keys, but {costs.shape[1]} costs")
        found = np.empty((k, n))
        cdef double[:, ::1] found_ = found
        cdef double *table = &self.lane_costs[0]
        cdef double *slots = &self.lane_slots[0]
        for first in range(0, k, lanes):
            for lane in range(lanes):
                j = min(first + lane, k - 1)
                for i in range(keys):
                    table[i * lanes + lane] = costs[j, i]
            tl_run_lanes(&self.program, table, slots)
            for lane in range(min(lanes, k - first)):
                for i in range(n):
                    found_[first + lane, i] = slots[self.slots_asked[i] * lanes + lane]
        return found


cdef class Prices:
    """How prices become the vector of costs that a Program reads (program.h).

    Cost k is the sum of two prices out of `num_prices`, numbers `first[k]` and `second[k]`
    (-1: nothing). `pairs`, (n, 3): a key and the two whose costs it is the sum of, once these
    are whole. `count`: (keys,), how often a program reads each.
    Raises ValueError for numbers that there are not.
    """

    cdef tl_prices prices
    cdef list kept
    cdef int64_t num_prices

    def __init__(self, num_prices, first, second, pairs, count):
        keys = len(first)
        self.num_prices, self.kept = num_prices, []
        first = _room(first, np.int32, (keys,), "first")
        second = _room(second, np.int32, (keys,), "second")
        pairs = _room(pairs, np.int32, (len(pairs), 3), "pairs")
        count = _room(count, np.float64, (keys,), "count")
        for array, high, name in ((first, num_prices, "first"), (second, num_prices, "second")):
            _within(array, -1, high, name)
        _within(pairs, 0, keys, "pairs")
        cdef int32_t[::1] first_ = first, second_ = second, pairs_ = pairs.reshape(-1)
        cdef double[::1] count_ = count
        self.kept += [first, second, pairs, count]
        self.prices.num_keys, self.prices.num_pairs = keys, len(pairs)
        if keys:
            self.prices.first, self.prices.second = &first_[0], &second_[0]
            self.prices.count = &count_[0]
        if len(pairs):
            self.prices.pair = &pairs_[0]

    def fill(self, const double[::1] price not None, double[::1] cost not None):
        """Fills `cost`, (keys,), with whole ticks and returns the tick: 1e-9, or so many times
        ten of it that all costs of the program together are at most 2^53 ticks. Raises
        ValueError where they add up to no number."""
        if price.shape[0] != self.num_prices or cost.shape[0] != self.prices.num_keys:
            raise ValueError(f"{self.num_prices} prices and {self.prices.num_keys} costs, but "
                             f"{price.shape[0]} and {cost.shape[0]} given")
        if cost.shape[0] == 0:
            return 1e-9
        cdef const double *prices = NULL
        if price.shape[0]:
            prices = &price[0]
        return self._fill(prices, &cost[0])

    def fill_many(self, const double[:, ::1] price not None, double[:, ::1] cost not None):
        """As fill, for every row of `price`, (k, prices), and `cost`, (k, keys): the ticks,
        (k,)."""
        cdef int64_t i, k = price.shape[0]
        if (cost.shape[0] != k or price.shape[1] != self.num_prices
                or cost.shape[1] != self.prices.num_keys):
            raise ValueError(f"{self.num_prices} prices and {self.prices.num_keys} costs a row, "
                             f"but {price.shape[1]} and {cost.shape[1]} given, in {k} and "
                             f"{cost.shape[0]} rows")
        ticks = np.full(k, 1e-9)
        cdef double[::1] ticks_ = ticks
        if self.num_prices and self.prices.num_keys:
            for i in range(k):
                ticks_[i] = self._fill(&price[i, 0], &cost[i, 0])
        return ticks

    cdef double _fill(self, const double *price, double *cost) except 0:
        cdef double tick = tl_price(&self.prices, price, cost)
        if tick == 0:
            raise ValueError("the costs add up to more than a float can hold")
        return tick


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
