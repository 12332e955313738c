"""The evaluator in C against a slow recurrence in Python; malformed tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_kernels import _timeline


class Table(NamedTuple):
    """A graph as the evaluator takes it."""

    previous: np.ndarray
    dep_start: np.ndarray
    dep: np.ndarray

    @classmethod
    def of(cls, previous: list[int], deps: list[list[int]]) -> Table:
        starts = np.cumsum([0, *map(len, deps)])
        flat = [d for row in deps for d in row]
        return cls(*(np.array(c, np.int32) for c in (previous, starts, flat)))

    def rows(self) -> list[list[int]]:
        """Everything that each node waits for."""
        ends = self.dep_start.tolist()
        deps = self.dep.tolist()
        return [
            deps[ends[i] : ends[i + 1]] + ([before] if before >= 0 else [])
            for i, before in enumerate(self.previous.tolist())
        ]


@st.composite
def tables(draw: st.DrawFn, acyclic: bool) -> Table:
    """Rows of nodes one behind another, with edges between them; numbers are shuffled
    rank by rank, so that an order is not simply 0, 1, 2, ..."""
    sizes = draw(st.lists(st.integers(1, 6), max_size=5))
    n = sum(sizes)
    at, previous = 0, []
    for size in sizes:
        previous += [-1, *range(at, at + size - 1)]
        at += size
    # Where every node stands in a hidden order that keeps the rows' own order.
    ranks = draw(
        st.permutations([r for r, size in enumerate(sizes) for _ in range(size)])
    )
    firsts = np.cumsum([0, *sizes])[:-1].tolist()
    place = [0] * n
    for position, rank in enumerate(ranks):
        place[firsts[rank]] = position
        firsts[rank] += 1
    node = st.integers(0, max(0, n - 1))
    edges = draw(st.lists(st.tuples(node, node), max_size=3 * n)) if n else []
    deps: list[list[int]] = [[] for _ in range(n)]
    for a, b in edges:
        if not acyclic or place[a] > place[b]:
            deps[a].append(b)
    return Table.of(previous, deps)


def behind_cycles(table: Table) -> set[int]:
    """Nodes from which, going along what they wait for, some node comes up twice."""
    rows = table.rows()
    fine: set[int] = set()
    changed = True
    while changed:
        changed = False
        for node, needs in enumerate(rows):
            if node not in fine and all(d in fine for d in needs):
                fine.add(node)
                changed = True
    return set(range(len(rows))) - fine


@settings(deadline=None, max_examples=200)
@given(tables(acyclic=True))
def test_the_order_is_topological_and_whole(table: Table) -> None:
    order = _timeline.topological_order(*table)
    assert order.dtype == np.int32
    assert sorted(order.tolist()) == list(range(len(table.previous)))
    at = {node: i for i, node in enumerate(order.tolist())}
    for node, needs in enumerate(table.rows()):
        assert all(at[d] < at[node] for d in needs)


@settings(deadline=None, max_examples=200)
@given(tables(acyclic=False))
def test_cycles_and_what_waits_for_them_are_left_out(table: Table) -> None:
    order = _timeline.topological_order(*table).tolist()
    assert len(set(order)) == len(order)
    assert set(range(len(table.previous))) - set(order) == behind_cycles(table)


def test_a_cycle_leaves_the_nodes_behind_it_out_too() -> None:
    # 0 -> 1 (rank 0) and 2 -> 3 (rank 1) wait for each other crosswise; 4 waits for 3.
    table = Table.of([-1, 0, -1, 2, -1, -1], [[3], [], [1], [], [3], []])
    assert _timeline.topological_order(*table).tolist() == [5]


def test_a_node_that_waits_for_itself_is_left_out() -> None:
    table = Table.of([-1, -1], [[0], []])
    assert _timeline.topological_order(*table).tolist() == [1]


def slow(
    table: Table, duration: list[int], lag: list[int], origin: list[int]
) -> list[tuple[int, int, int]]:
    """The recurrence, by recursion instead of in an order."""
    known: dict[int, tuple[int, int, int]] = {}

    def times(node: int) -> tuple[int, int, int]:
        if node not in known:
            before = int(table.previous[node])
            begin = times(before)[2] if before >= 0 else origin[node]
            edges = range(int(table.dep_start[node]), int(table.dep_start[node + 1]))
            arrivals = [times(int(table.dep[e]))[2] + lag[e] for e in edges]
            ready = max([begin, *arrivals])
            known[node] = (begin, ready, ready + duration[node])
        return known[node]

    return [times(node) for node in range(len(table.previous))]


@settings(deadline=None, max_examples=200)
@given(st.data(), tables(acyclic=True))
def test_evaluation_is_the_recurrence(data: st.DataObject, table: Table) -> None:
    n, edges = len(table.previous), len(table.dep)
    numbers = st.one_of(st.integers(0, 9), st.integers(0, 2**50))

    def drawn(size: int) -> list[int]:
        return data.draw(st.lists(numbers, min_size=size, max_size=size))

    duration = drawn(n)
    lag = drawn(edges) if data.draw(st.booleans()) else None
    origin = drawn(n) if data.draw(st.booleans()) else None
    order = _timeline.topological_order(*table)
    found = _timeline.evaluate(
        order,
        *table,
        np.array(duration, np.int64),
        None if lag is None else np.array(lag, np.int64),
        None if origin is None else np.array(origin, np.int64),
    )
    wanted = slow(table, duration, lag or [0] * edges, origin or [0] * n)
    assert list(zip(*(c.tolist() for c in found), strict=True)) == wanted


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


BAD_TABLES = {
    "previous on another rank": (ints(-1, -1, 0), ints(0, 0, 0, 0), ints()),
    "previous of the first": (ints(0), ints(0, 0), ints()),
    "previous below -1": (ints(-2), ints(0, 0), ints()),
    "previous too far": (ints(-1, 7), ints(0, 0, 0), ints()),
    "too few starts": (ints(-1, 0), ints(0, 0), ints()),
    "too many starts": (ints(-1), ints(0, 0, 0), ints()),
    "no starts": (ints(), ints(), ints()),
    "starts not at 0": (ints(-1), ints(1, 1), ints(0)),
    "starts end early": (ints(-1, -1), ints(0, 0, 1), ints(0, 0)),
    "starts end late": (ints(-1), ints(0, 5), ints(0)),
    "starts fall": (ints(-1, -1, -1), ints(0, 2, 1, 2), ints(0, 0)),
    "negative dep": (ints(-1, -1), ints(0, 1, 1), ints(-1)),
    "dep too large": (ints(-1, -1), ints(0, 1, 1), ints(2)),
    "dep of no nodes": (ints(), ints(0), ints(0)),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_malformed_table_is_refused(name: str) -> None:
    table = BAD_TABLES[name]
    with pytest.raises(ValueError):
        _timeline.topological_order(*table)
    n = len(table[0])
    with pytest.raises(ValueError):
        _timeline.evaluate(np.arange(n, dtype=np.int32), *table, np.zeros(n, np.int64))


@settings(deadline=None, max_examples=200)
@given(*(st.lists(st.integers(-2, 5), max_size=5) for _ in range(4)))
def test_any_integers_are_evaluated_or_refused(
    order: list[int], previous: list[int], starts: list[int], dep: list[int]
) -> None:
    table = [np.array(c, np.int32) for c in (previous, starts, dep)]
    durations = np.ones(len(previous), np.int64)
    try:
        found = _timeline.topological_order(*table)
    except ValueError:
        with pytest.raises(ValueError):
            _timeline.evaluate(np.array(order, np.int32), *table, durations)
        return
    assert len(found) <= len(previous)
    try:
        _timeline.evaluate(np.array(order, np.int32), *table, durations)
    except ValueError:
        return
    assert sorted(order) == list(range(len(previous)))


TWO = (ints(-1, 0), ints(0, 0, 0), ints())


@pytest.mark.parametrize(
    ("order", "duration", "extra"),
    [
        (ints(0), [1, 1], {}),
        (ints(0, 1, 1), [1, 1], {}),
        (ints(0, 2), [1, 1], {}),
        (ints(0, -1), [1, 1], {}),
        (ints(0, 0), [1, 1], {}),
        (ints(0, 1), [1], {}),
        (ints(0, 1), [1, 1], {"lag": np.zeros(1, np.int64)}),
        (ints(0, 1), [1, 1], {"origin": np.zeros(1, np.int64)}),
        (ints(0, 1), [1, 1], {"origin": np.zeros(3, np.int64)}),
        (ints(0, 1), [1, 1], {"lag": np.zeros(0, np.int32)}),
    ],
)
def test_lengths_and_orders_that_do_not_fit_are_refused(
    order: np.ndarray, duration: list[int], extra: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        _timeline.evaluate(order, *TWO, np.array(duration, np.int64), **extra)


def test_an_empty_graph_is_evaluated_to_nothing() -> None:
    table = Table.of([], [])
    order = _timeline.topological_order(*table)
    assert len(order) == 0
    found = _timeline.evaluate(order, *table, np.zeros(0, np.int64))
    assert [len(c) for c in found] == [0, 0, 0]
