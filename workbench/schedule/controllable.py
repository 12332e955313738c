"""Schedules of a chosen memory (Qi et al. 2024, arXiv:2405.15362): V-Half, V-Min and
1F1B-V. Two stages per rank in a V; a long-lived and a short-lived activation share each
rank, so all ranks need the same memory.

Each is a building block, the slots of one microbatch's actions, repeated every six
slots. Weight gradients fill the free slots. In its warm-up and cool-down the repeated
block leaves holes: list scheduling within the same memory closes them, and the better
of the two orders is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import greedy
from .actions import Action, Kind, Row
from .automatic import FILLS
from .greedy import Problem, Rule, Uniform
from .ir import Schedule
from .placement import waves

_PERIOD = 6

#: Slots of F and I of a rank's first and second stage, as (F0, F1, I1, I0).
Block = Callable[[int, int], tuple[int, int, int, int]]


def _half(p: int, rank: int) -> tuple[int, int, int, int]:
    shift = 0 if p % 2 else 3
    return (
        2 * rank,
        3 * p - 2 - rank,
        3 * p - 1 + shift + 2 * rank,
        6 * p + shift - 2 - rank,
    )


def _min(p: int, rank: int) -> tuple[int, int, int, int]:
    shift = 0 if p % 3 else 2
    return (
        rank,
        2 * p - 1 - rank,
        2 * p + shift + rank,
        4 * p + shift - 1 - rank,
    )


def _repeated(block: Block, p: int, m: int) -> Iterator[Row]:
    """The rows of the repeated block, weight gradients first in, first out."""
    for rank in range(p):
        down, up = rank, 2 * p - 1 - rank
        parts = ((down, Kind.F), (up, Kind.F), (up, Kind.I), (down, Kind.I))
        taken = {
            slot + _PERIOD * k: Action(stage, kind, k)
            for slot, (stage, kind) in zip(block(p, rank), parts, strict=True)
            for k in range(m)
        }
        row: list[Action] = []
        pending: list[Action] = []
        for slot in range(max(taken) + 1):
            action = taken.get(slot)
            if action is not None:
                row.append(action)
                if action.kind is Kind.I:
                    pending.append(action._replace(kind=Kind.W))
            elif pending:
                row.append(pending.pop(0))
        yield tuple(row + pending)


def _best(name: str, p: int, m: int, block: Block | None, slots: int) -> Schedule:
    """The repeated block, if there is one, and what list scheduling finds in ``slots``
    activations of a stage; the best by the span."""
    placed = waves(p, 2)
    costs = Uniform()
    split = block is not None
    problem = Problem(placed, p, ((range(2 * p), range(m)),), [slots] * p, costs, split)

    def candidates() -> Iterator[Schedule]:
        if block is not None:
            yield Schedule(name, tuple(_repeated(block, p, m)), placed)
        for fill in FILLS if split else FILLS[:1]:
            for late_first in (True, False):
                for alternate in (False, True):
                    rows = greedy.rows(problem, Rule(fill, late_first, alternate))
                    if rows is not None:
                        yield Schedule(name, rows, placed)

    return greedy.best(candidates(), costs)


def v_half(num_ranks: int, num_microbatches: int) -> Schedule:
    """Half of 1F1B's memory: in flight at most about p + 2 stages' activations, where
    ZB-V has 2p.

    Bubble by the span: about half of 1F1B's for F = I = W.
    """
    slots = 2 * ((num_ranks + 2) // 2)
    return _best("v_half", num_ranks, num_microbatches, _half, slots)


def v_min(num_ranks: int, num_microbatches: int) -> Schedule:
    """The least memory of the V: in flight at most about 2 (p + 4)/3 stages'
    activations.

    Bubble by the span: about two thirds of 1F1B's for F = I = W; it grows with m where
    they differ much.
    """
    slots = 2 * ((num_ranks + 4) // 3)
    return _best("v_min", num_ranks, num_microbatches, _min, slots)


def one_f_one_b_v(num_ranks: int, num_microbatches: int) -> Schedule:
    """The V with whole backwards, in two thirds of 1F1B's memory: at most 2 ceil(2p/3)
    stages' activations in flight.

    Worked out by list scheduling within that memory; the authors' building block is not
    known exactly. For F = I = W the bubble is below 1F1B's.
    """
    slots = 2 * max(1, -(-2 * num_ranks // 3))
    return _best("1f1b_v", num_ranks, num_microbatches, None, slots)
