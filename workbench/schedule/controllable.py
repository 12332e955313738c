"""Schedules of a chosen memory (Qi et al. 2024, arXiv:2405.15362): V-Half, V-Min and
1F1B-V. Two stages per rank in a V; a long-lived and a short-lived activation share each
rank, so all ranks need the same memory.

Each is a building block, the slots of one microbatch's actions, repeated every six
slots; a weight gradient takes a slot that is free. At both ends of the step the repeated
block leaves holes. They are closed in two ways, and the order that is best by the span
is kept: actions move to earlier free slots where the memory of the block allows it, and
weight gradients are put off to where a rank would wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from . import greedy
from .actions import Action, Kind
from .greedy import Uniform
from .ir import Schedule
from .placement import waves

PERIOD = 6
_WIDTH = {Kind.B: 2}

#: Per rank, the slots in which one microbatch's F, F, backward, backward begin: down
#: the ranks, up, down and up again.
Block = Sequence[tuple[int, int, int, int]]


def half_block(p: int) -> Block:
    """V-Half: two slots from rank to rank on the way down, one on the way up."""
    shift = 0 if p % 2 else 3
    return [
        (2 * r, 3 * p - 2 - r, 3 * p - 1 + shift + 2 * r, 6 * p + shift - 2 - r)
        for r in range(p)
    ]


def min_block(p: int) -> Block:
    """V-Min: one slot from rank to rank on every way."""
    shift = 0 if p % 3 else 2
    return [
        (r, 2 * p - 1 - r, 2 * p + shift + r, 4 * p + shift - 1 - r) for r in range(p)
    ]


def full_block(p: int) -> Block:
    """1F1B-V: forwards one slot from rank to rank, backwards, two slots long, 2, 2 and
    5 in turn. Shorter steps would let the slots of some rank meet, six slots on: F, F
    and two backwards just fill the period."""
    down, up = (2, 2, 5), (2, 5, 2)
    turn, top, bottom = {1: (0, 0, 0), 2: (4, 0, 2), 0: (2, 0, 1)}[p % 3]
    first_up = p + turn  # the second F of the last rank
    begin = first_up + p + top  # the first backward of rank 0
    descent = [begin]
    for r in range(p - 1):
        descent.append(descent[-1] + down[r % 3])
    ascent = [descent[-1] + 2 + bottom]
    for r in reversed(range(p - 1)):
        ascent.append(ascent[-1] + up[r % 3])
    return [(r, first_up + p - 1 - r, descent[r], ascent[p - 1 - r]) for r in range(p)]


class _Slots:
    """The actions of all ranks on a grid of slots."""

    def __init__(self, block: Block, m: int, split: bool) -> None:
        self.p = len(block)
        self.home = waves(self.p, 2)
        backward = Kind.I if split else Kind.B
        self.freed_by = Kind.W if split else Kind.B
        self.where: dict[Action, int] = {}
        for r, slots in enumerate(block):
            stages = (r, 2 * self.p - 1 - r)
            kinds = (Kind.F, Kind.F, backward, backward)
            for slot, stage, kind in zip(
                slots, stages + stages[::-1], kinds, strict=True
            ):
                for k in range(m):
                    self.where[Action(stage, kind, k)] = slot + PERIOD * k
        self._occupy()
        if split:
            self._add_weights()

    def _occupy(self) -> None:
        end = max(self.where.values()) + 3 + len(self.where)
        self.taken = [bytearray(end) for _ in range(self.p)]
        for action, slot in self.where.items():
            self._mark(action, slot, 1)

    def _mark(self, action: Action, slot: int, value: int) -> None:
        taken = self.taken[self.home[action.stage]]
        for cell in range(slot, slot + _WIDTH.get(action.kind, 1)):
            taken[cell] = value

    def _fits(self, action: Action, slot: int) -> bool:
        width = _WIDTH.get(action.kind, 1)
        return not any(self.taken[self.home[action.stage]][slot : slot + width])

    def _add_weights(self) -> None:
        """First in, first out, every weight gradient into the next free slot."""
        free = [0] * self.p
        for slot, action in sorted((s, a) for a, s in self.where.items()):
            if action.kind is Kind.I:
                rank = self.home[action.stage]
                at = max(free[rank], slot + 1)
                while self.taken[rank][at]:
                    at += 1
                weight = action._replace(kind=Kind.W)
                self.where[weight] = at
                self._mark(weight, at, 1)
                free[rank] = at + 1

    def rows(self) -> list[list[Action]]:
        rows: list[list[Action]] = [[] for _ in range(self.p)]
        for _, action in sorted((s, a) for a, s in self.where.items()):
            rows[self.home[action.stage]].append(action)
        return rows

    def _held(self) -> list[list[int]]:
        """Activations held, per rank and slot."""
        change = [[0] * (len(taken) + 1) for taken in self.taken]
        for action, slot in self.where.items():
            mine = change[self.home[action.stage]]
            if action.kind is Kind.F:
                mine[slot] += 1
            elif action.kind is self.freed_by:
                mine[slot + _WIDTH.get(action.kind, 1)] -= 1
        return [list(accumulate(values)) for values in change]

    def _earliest(self, action: Action) -> int:
        """The first slot in which everything an action needs has ended."""
        stage, kind, k, _ = action
        needs = [action._replace(microbatch=k - 1)] if k else []
        if kind is Kind.F and stage:
            needs.append(Action(stage - 1, Kind.F, k))
        elif kind is Kind.W:
            needs.append(Action(stage, Kind.I, k))
        elif kind in (Kind.I, Kind.B):
            needs.append(Action(stage, Kind.F, k))
            if stage + 1 < 2 * self.p:
                needs.append(Action(stage + 1, kind, k))
        return max((self.where[n] + _WIDTH.get(n.kind, 1) for n in needs), default=0)

    def close(self) -> bool:
        """Moves every action to an earlier free slot, if that keeps the peak memory.
        Returns whether anything moved."""
        held = self._held()
        peak = [max(h) for h in held]
        moved = False
        for slot, action in sorted((s, a) for a, s in self.where.items()):
            rank = self.home[action.stage]
            low = self._earliest(action)
            self._mark(action, slot, 0)
            if action.kind is Kind.F:
                # Held from its new slot on: nowhere on the way may that be too much.
                while low < slot and max(held[rank][low:slot]) >= peak[rank]:
                    low += 1
            to = next((s for s in range(low, slot) if self._fits(action, s)), slot)
            self._mark(action, to, 1)
            if to == slot:
                continue
            moved = True
            self.where[action] = to
            if action.kind in (Kind.F, self.freed_by):
                more, width = (1, 0) if action.kind is Kind.F else (-1, 2)
                shift = _WIDTH.get(action.kind, 1) if width else 0
                for cell in range(to + shift, slot + shift):
                    held[rank][cell] += more
        return moved


def _with_late_weights(rows: Sequence[Sequence[Action]], limit: int) -> Schedule | None:
    """The rows with their weight gradients moved to where the rank would wait, or where
    another forward would not fit; None where even that leaves no room."""
    p = len(rows)
    placed = waves(p, 2)
    problem = greedy.Problem(
        placed,
        p,
        ((range(2 * p), range(1 + max(a.microbatch for a in rows[0]))),),
        [limit] * p,
        Uniform(),
    )
    order = greedy.without_weights(rows)
    found = greedy.rows(problem, greedy.Rule(order=order))
    return None if found is None else Schedule("", found, placed)


def _best(name: str, block: Block, m: int, split: bool) -> Schedule:
    """The best by the span of the repeated block and what closes its holes."""
    p = len(block)
    placed = waves(p, 2)

    def candidates() -> Iterator[Schedule]:
        slots = _Slots(block, m, split)
        repeated = Schedule(name, slots.rows(), placed)
        limit = max(repeated.in_flight(rank) for rank in range(p))
        while slots.close():
            pass
        closed = Schedule(name, slots.rows(), placed)
        yield closed
        yield repeated
        for made in (closed, repeated) if split else ():
            late = _with_late_weights(made.ranks, limit)  # type: ignore[arg-type]
            if late is not None:
                yield Schedule(name, late.ranks, placed)

    return greedy.best(candidates(), Uniform())


def v_half(num_ranks: int, num_microbatches: int) -> Schedule:
    """Half of 1F1B's memory: in flight at most 2 floor((p + 2)/2) stages' activations,
    where ZB-V has 2p.

    Bubble by the span: 0.4 to 0.5 of 1F1B's for F = I = W.
    """
    return _best("v_half", half_block(num_ranks), num_microbatches, split=True)


def v_min(num_ranks: int, num_microbatches: int) -> Schedule:
    """The least memory of the V: in flight at most 2 floor((p + 4)/3) stages'
    activations.

    Bubble by the span: about two thirds of 1F1B's for F = I = W; it grows with m where
    they differ much.
    """
    return _best("v_min", min_block(num_ranks), num_microbatches, split=True)


def one_f_one_b_v(num_ranks: int, num_microbatches: int) -> Schedule:
    """The V with whole backwards, in two thirds of 1F1B's memory.

    The authors' building block is not known exactly; this one has their memory (6, 12
    and 22 stages' activations for 4, 8 and 16 ranks) and a bubble below 1F1B's.
    """
    return _best("1f1b_v", full_block(num_ranks), num_microbatches, split=False)
