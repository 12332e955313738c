"""Where stages live, and what several families have in common in laying out rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .actions import Action, Kind, Overlap, Row, halves
from .ir import whole


def loop(num_ranks: int, stages_per_rank: int) -> tuple[int, ...]:
    """Stage k p + r on rank r: every pass over the ranks begins at rank 0."""
    return tuple(s % num_ranks for s in range(num_ranks * stages_per_rank))


def waves(num_ranks: int, stages_per_rank: int) -> tuple[int, ...]:
    """Down the ranks, back up, down again: neighbours at a turn share a rank."""
    down = tuple(range(num_ranks))
    return tuple(
        rank for k in range(stages_per_rank) for rank in (down[::-1] if k % 2 else down)
    )


def mirrored(stage_to_rank: Sequence[int]) -> tuple[int, ...]:
    """The same placement with the ranks counted from the other end."""
    last = max(stage_to_rank)
    return tuple(last - rank for rank in stage_to_rank)


def without_microbatches(rows: Iterable[Row], count: int) -> tuple[Row, ...]:
    """The rows without microbatches ``count`` and up."""
    return tuple(
        tuple(item for item in row if all(a.microbatch < count for a in halves(item)))
        for row in rows
    )


def at_least(value: int, label: str, least: int, rule: str) -> int:
    """``value``, a count. Raises ValueError, with the rule, below ``least``."""
    value = whole(value, label, 1)
    if value < least:
        raise ValueError(f"{label} is {value}, but {rule}; the least is {least}")
    return value


def nearest(value: int, legal: Iterable[int]) -> str:
    """The legal values next to ``value``, as words."""
    known = sorted(set(legal))
    below = [n for n in known if n < value][-1:]
    above = [n for n in known if n > value][:1]
    return " or ".join(str(n) for n in below + above) or "none"


def even(value: int, label: str, rule: str) -> int:
    """``value``, even. Raises ValueError, with the rule and the nearest, otherwise."""
    if value % 2:
        near = nearest(value, range(2, value + 2, 2))
        raise ValueError(f"{label} is {value}, but {rule}; the nearest are {near}")
    return value


class RowBuilder:
    """One rank's row while it is written: microbatches are numbered by themselves.

    ``first`` gives the microbatch each stage begins with. Weight gradients that were
    put off are taken first in, first out.
    """

    def __init__(self, first: dict[int, int] | None = None) -> None:
        self.items: list[Action | Overlap] = []
        self.forwards: dict[int, int] = dict(first or {})
        self.backwards: dict[int, int] = dict(first or {})
        self.pending: list[Action] = []

    def next_forward(self, stage: int) -> Action:
        microbatch = self.forwards.get(stage, 0)
        self.forwards[stage] = microbatch + 1
        return Action(stage, Kind.F, microbatch)

    def next_backward(self, stage: int, split: bool) -> Action:
        microbatch = self.backwards.get(stage, 0)
        self.backwards[stage] = microbatch + 1
        if split:
            self.pending.append(Action(stage, Kind.W, microbatch))
        return Action(stage, Kind.I if split else Kind.B, microbatch)

    def forward(self, stage: int) -> None:
        self.items.append(self.next_forward(stage))

    def backward(self, stage: int, *, split: bool = False) -> None:
        self.items.append(self.next_backward(stage, split))

    def both(self, forward: int, backward: int) -> None:
        """A forward and a full backward that overlap."""
        first = self.next_forward(forward)
        self.items.append(Overlap(first, self.next_backward(backward, split=False)))

    def weight(self) -> None:
        """The oldest weight gradient that was put off, if there is one."""
        if self.pending:
            self.items.append(self.pending.pop(0))

    def drain(self) -> None:
        self.items += self.pending
        self.pending = []

    @property
    def row(self) -> Row:
        return tuple(self.items)
