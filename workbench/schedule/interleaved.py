"""Interleaved 1F1B (Narayanan et al. 2021, arXiv:2104.04473) and Looped BFS (Lamy-
Poirier 2022, arXiv:2211.05953): several stages per rank, placed in a loop."""

from __future__ import annotations

from collections.abc import Sequence

from .actions import Action, Kind, Row
from .ir import Schedule, whole
from .placement import at_least, loop, nearest

#: (microbatch, index of the stage on its rank).
Entry = tuple[int, int]


def _rounds(num_ranks: int, num_microbatches: int) -> list[int] | None:
    """PyTorch's rule: max(1, m // p) rounds of equal size, or None. For m a multiple of
    p these are the paper's groups of p."""
    rounds = max(1, num_microbatches // num_ranks)
    if num_microbatches % rounds:
        return None
    return [num_microbatches // rounds] * rounds


def groups(num_ranks: int, num_microbatches: int, size: int | None) -> list[int]:
    """How many microbatches pass one stage before the rank turns to its next.

    Raises ValueError with the rule and the nearest legal numbers.
    """
    p, m = num_ranks, num_microbatches
    if size is None:
        found = _rounds(p, m)
        if found is None:
            legal = (n for n in range(1, 2 * m + p) if _rounds(p, n))
            raise ValueError(
                f"num_microbatches is {m}, but without a group_size it must be a multiple "
                f"of num_ranks={p}, or of its {m // p} rounds (num_microbatches // "
                f"num_ranks); the nearest are {nearest(m, legal)}"
            )
        return found
    size = whole(size, "group_size", 1)

    def fits(g: int) -> bool:
        return p <= g <= m and (m % g == 0 or m % g >= p)

    if not fits(size):
        near = nearest(size, (g for g in range(1, m + 1) if fits(g)))
        raise ValueError(
            f"group_size is {size}, but it must lie between num_ranks={p} and "
            f"num_microbatches={m} and leave a last group that is empty or at least "
            f"{p}; the nearest are {near}"
        )
    rest = m % size
    return [size] * (m // size) + ([rest] if rest else [])


def table(sizes: Sequence[int], stages_per_rank: int) -> list[Entry]:
    """The order of a rank's forwards: group by group, stage by stage within each."""
    entries: list[Entry] = []
    first = 0
    for size in sizes:
        for local in range(stages_per_rank):
            entries += [(first + k, local) for k in range(size)]
        first += size
    return entries


def interleaved_1f1b(
    num_ranks: int,
    num_microbatches: int,
    stages_per_rank: int = 2,
    group_size: int | None = None,
) -> Schedule:
    """``stages_per_rank`` stages on every rank; microbatches pass in groups.

    ``group_size`` is Megatron's: between p and m, and what is left over is nothing or
    at least p. Without it the groups are the paper's p if m is a multiple of p, and
    otherwise PyTorch's max(1, m // p) equal rounds.

    Bubble: (p - 1)(F + B)/v per rank of a stage split in v, for groups of p. Peak in
    flight on rank 0: (v + 1)p - 1 stages' activations. Raises ValueError for numbers
    that keep none of the rules.
    """
    v = at_least(stages_per_rank, "stages_per_rank", 1, "a rank has at least one stage")
    sizes = groups(num_ranks, num_microbatches, group_size)
    entries = table(sizes, v)
    rows = []
    for rank in range(num_ranks):
        warmup = 2 * (num_ranks - 1 - rank) + (v - 1) * sizes[0]
        rows.append(_row(rank, num_ranks, v, entries, min(warmup, len(entries))))
    return Schedule("interleaved_1f1b", rows, loop(num_ranks, v))


def _row(rank: int, p: int, v: int, entries: Sequence[Entry], warmup: int) -> Row:
    row: list[Action] = []

    def backward(number: int) -> Action:
        microbatch, local = entries[number]
        return Action((v - 1 - local) * p + rank, Kind.B, microbatch)

    for number, (microbatch, local) in enumerate(entries):
        row.append(Action(local * p + rank, Kind.F, microbatch))
        if number >= warmup:
            row.append(backward(number - warmup))
    first = len(entries) - warmup
    row += [backward(number) for number in range(first, len(entries))]
    return tuple(row)


def looped_bfs(
    num_ranks: int, num_microbatches: int, stages_per_rank: int = 2
) -> Schedule:
    """Breadth first: all microbatches pass a rank's stage before its next; then all
    backwards in the same manner.

    Bubble: (p - 1)(F + B)/v per rank for m >= p. Peak in flight: every microbatch in
    every stage.
    """
    v = at_least(stages_per_rank, "stages_per_rank", 1, "a rank has at least one stage")
    microbatches = range(num_microbatches)
    rows = []
    for rank in range(num_ranks):
        stages = [local * num_ranks + rank for local in range(v)]
        row = [Action(s, Kind.F, k) for s in stages for k in microbatches]
        row += [Action(s, Kind.B, k) for s in reversed(stages) for k in microbatches]
        rows.append(tuple(row))
    return Schedule("looped_bfs", rows, loop(num_ranks, v))
