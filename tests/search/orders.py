"""Every order of a tiny step, timed and weighed by nothing but the definitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import workbench as wb
from workbench.schedule import Action, Kind


class Order(NamedTuple):
    makespan: float
    span: float
    memory: float


def _interleavings(chains: tuple[tuple[Action, ...], ...]) -> Iterator[tuple]:
    """All orders of the actions that keep each chain's own order."""
    if not any(chains):
        yield ()
    for i, chain in enumerate(chains):
        if chain:
            rest = (*chains[:i], chain[1:], *chains[i + 1 :])
            for tail in _interleavings(rest):
                yield (chain[0], *tail)


def _chains(
    rank: int, placement: Sequence[int], num_microbatches: int, split: bool
) -> tuple[tuple[Action, ...], ...]:
    """What rank does for each microbatch, in the one order that data allow; weight
    gradients right after their I come as chains of their own where splitting lets
    them move."""
    stages = [s for s, home in enumerate(placement) if home == rank]
    back = Kind.I if split else Kind.B
    return tuple(
        tuple(
            [Action(s, Kind.F, k) for s in stages]
            + [Action(s, back, k) for s in reversed(stages)]
        )
        for k in range(num_microbatches)
    )


def _with_weights(row: tuple) -> Iterator[tuple]:
    """All ways to put the W of every I somewhere behind it."""
    late = [i for i, a in enumerate(row) if a.kind is Kind.I]
    if not late:
        yield row
        return

    def place(row: tuple, left: list[Action]) -> Iterator[tuple]:
        if not left:
            yield row
            return
        weight = left[0]
        after = row.index(weight._replace(kind=Kind.I)) + 1
        for at in range(after, len(row) + 1):
            yield from place((*row[:at], weight, *row[at:]), left[1:])

    weights = [row[i]._replace(kind=Kind.W) for i in late]
    yield from dict.fromkeys(place(row, weights))


def timed(
    rows: Sequence[Sequence[Action]], placement: Sequence[int], costs: wb.CostModel
) -> tuple[float, float] | None:
    """(makespan, span), by asking every action when it can start; None if some action
    waits for itself."""
    schedule = wb.Schedule("order", rows, placement)
    before = {b: a for row in rows for a, b in pairwise(row)}
    known: dict[Action, float] = {}

    def end(action: Action, asking: frozenset[Action]) -> float | None:
        if action in known:
            return known[action]
        if action in asking:
            return None
        start = 0.0
        waits = [(need, True) for need in schedule.dependencies(action)]
        if action in before:
            waits.append((before[action], False))
        for need, data in waits:
            ready = end(need, asking | {action})
            if ready is None:
                return None
            if data and placement[need.stage] != placement[action.stage]:
                ready += costs.hop
            start = max(start, ready)
        known[action] = start + costs.seconds(action)
        return known[action]

    firsts, lasts = [], []
    for row in rows:
        ends = [end(action, frozenset()) for action in row]
        if None in ends:
            return None
        firsts.append(known[row[0]] - costs.seconds(row[0]))
        lasts.append(known[row[-1]])
    spans = [last - first for first, last in zip(firsts, lasts, strict=True)]
    return max(lasts) - min(firsts), max(spans)


def every_order(
    placement: Sequence[int],
    num_microbatches: int,
    costs: wb.CostModel,
    split: bool,
    memory_limit: float | None = None,
) -> Iterator[Order]:
    """Every order of the step, microbatches in any order, that keeps the limit."""
    num_ranks = max(placement) + 1
    parts = len(placement) // num_ranks
    choices = []
    for rank in range(num_ranks):
        rows = []
        for order in _interleavings(_chains(rank, placement, num_microbatches, split)):
            for row in _with_weights(order):
                peak = peak_of(row) / parts
                if memory_limit is None or peak <= memory_limit:
                    rows.append((peak, row))
        choices.append(rows)
    for picked in product(*choices):
        found = timed([row for _, row in picked], placement, costs)
        if found is not None:
            yield Order(*found, max(peak for peak, _ in picked))


def peak_of(row: Sequence[Action]) -> int:
    held = peak = 0
    for action in row:
        held += (action.kind is Kind.F) - (action.kind in (Kind.W, Kind.B))
        peak = max(peak, held)
    return peak
