"""Thousands of damaged schedules: check accepts exactly those that can be executed.

The executor below knows no graph and no lowering: it runs the rows with bounded FIFO
queues and looks, before every action, whether the tensors it reads are on its rank.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from workbench.schedule import (
    SCHEDULES,
    Action,
    Kind,
    Overlap,
    Schedule,
    ScheduleError,
)

Tensor = tuple[str, int, int, int]  # "x" or "g", stage it belongs to, microbatch, slice
PER_BASE = 330


class ExecutionError(Exception):
    """Why the rows cannot be run."""


def parts(item: Action | Overlap) -> list[Action]:
    return list(item) if isinstance(item, Overlap) else [item]


@dataclass
class Executor:
    """Runs a schedule's rows; a ``capacity`` of None is no limit, 0 a rendezvous."""

    schedule: Schedule
    capacity: int | None
    ops: list[deque[tuple[str, object]]] = field(default_factory=list)
    queues: dict[tuple[str, int], deque[Tensor]] = field(default_factory=dict)
    tensors: list[set[Tensor]] = field(default_factory=list)
    done: Counter[Action] = field(default_factory=Counter)

    def length(self) -> int:
        stages = len(self.schedule.stage_to_rank)
        return stages // 2 if self.schedule.copy_of else stages

    def is_first(self, stage: int) -> bool:
        return stage % self.length() == 0

    def is_last(self, stage: int) -> bool:
        return (stage + 1) % self.length() == 0

    def home(self, stage: int) -> int:
        return self.schedule.stage_to_rank[stage]

    def prepare(self) -> None:
        schedule = self.schedule
        self.tensors = [set() for _ in schedule.ranks]
        for rank, row in enumerate(schedule.ranks):
            ops: deque[tuple[str, object]] = deque()
            for item in row:
                actions = parts(item)
                for action in actions:
                    if not 0 <= action.stage < len(schedule.stage_to_rank):
                        raise ExecutionError(f"{action}: no such stage")
                    if self.home(action.stage) != rank:
                        raise ExecutionError(f"{action} is not at home on rank {rank}")
                ops.extend(("receive", t) for a in actions for t in self.arriving(a))
                ops.append(("run", item))
                ops.extend(("send", t) for a in actions for t in self.leaving(a))
            self.ops.append(ops)

    def arriving(self, action: Action) -> list[Tensor]:
        """The tensors of an action that another rank makes: "x" is a stage's input, "g"
        the gradient of its output."""
        stage, kind, k, part = action
        if kind is Kind.F and not self.is_first(stage):
            return self.if_apart(stage, stage - 1, ("x", stage, k, part))
        if kind in (Kind.B, Kind.I) and not self.is_last(stage):
            return self.if_apart(stage, stage + 1, ("g", stage, k, part))
        return []

    def leaving(self, action: Action) -> list[Tensor]:
        stage, kind, k, part = action
        if kind is Kind.F and not self.is_last(stage):
            return self.if_apart(stage, stage + 1, ("x", stage + 1, k, part))
        if kind in (Kind.B, Kind.I) and not self.is_first(stage):
            return self.if_apart(stage, stage - 1, ("g", stage - 1, k, part))
        return []

    def if_apart(self, stage: int, other: int, tensor: Tensor) -> list[Tensor]:
        return [tensor] if self.home(stage) != self.home(other) else []

    def queue(self, tensor: Tensor) -> deque[Tensor]:
        return self.queues.setdefault(tensor[:2], deque())

    def compute(self, rank: int, item: Action | Overlap) -> None:
        before = set(self.tensors[rank]), Counter(self.done)
        made: list[Tensor] = []
        for action in parts(item):
            made += self.compute_one(action, *before)
            self.done[action] += 1
        self.tensors[rank].update(made)

    def compute_one(
        self, action: Action, here: set[Tensor], done: Counter[Action]
    ) -> list[Tensor]:
        """Checks what the action reads and gives what it leaves on its own rank."""
        stage, kind, k, part = action

        def needs(letter: Kind, slice_: int = part) -> None:
            if not done[Action(stage, letter, k, slice_)]:
                raise ExecutionError(f"{action} before {letter} of slice {slice_}")

        def reads(tensor: Tensor) -> None:
            if tensor not in here:
                raise ExecutionError(f"{action} without {tensor}")

        if kind is Kind.F:
            if part:
                needs(Kind.F, part - 1)
            if not self.is_first(stage):
                reads(("x", stage, k, part))
            if not self.is_last(stage) and self.home(stage) == self.home(stage + 1):
                return [("x", stage + 1, k, part)]
        elif kind in (Kind.B, Kind.I):
            needs(Kind.F)
            recompute = Action(stage, Kind.R, k, part)
            if any(recompute in parts(i) for row in self.schedule.ranks for i in row):
                needs(Kind.R)
            if not self.is_last(stage):
                reads(("g", stage, k, part))
            if part + 1 < self.schedule.num_slices:
                later = part + 1
                if not done[Action(stage, Kind.I, k, later)]:
                    needs(Kind.B, later)
            if not self.is_first(stage) and self.home(stage) == self.home(stage - 1):
                return [("g", stage - 1, k, part)]
        elif kind is Kind.W:
            needs(Kind.I)
        elif kind is Kind.R:
            needs(Kind.F)
        else:
            raise ExecutionError(f"{action} is not computed")
        return []

    def advance(self, rank: int) -> bool:
        """Runs the rank's next operation if it can be run now."""
        what, subject = self.ops[rank][0]
        if what == "run":
            assert isinstance(subject, Action | Overlap)
            self.compute(rank, subject)
        elif what == "send":
            assert isinstance(subject, tuple)
            queue = self.queue(subject)
            if self.capacity == 0:
                peer = self.ops[self.home(subject[1])]
                ready = bool(peer) and peer[0][0] == "receive"
                wanted = peer[0][1] if ready else None
                if not isinstance(wanted, tuple) or wanted[:2] != subject[:2] or queue:
                    return False
            elif self.capacity is not None and len(queue) >= self.capacity:
                return False
            queue.append(subject)
        else:
            assert isinstance(subject, tuple)
            queue = self.queue(subject)
            if not queue:
                return False
            if queue[0] != subject:
                raise ExecutionError(f"received {queue[0]} in place of {subject}")
            self.tensors[rank].add(queue.popleft())
        self.ops[rank].popleft()
        return True

    def run(self) -> None:
        """Raises ExecutionError unless all is done exactly once and queues empty."""
        self.prepare()
        moved = True
        while moved:
            moved = False
            for rank in range(len(self.ops)):
                while self.ops[rank] and self.advance(rank):
                    moved = True
        if any(self.ops):
            raise ExecutionError("stuck")
        if any(self.queues.values()):
            raise ExecutionError("messages nobody takes")
        self.everything_once()

    def everything_once(self) -> None:
        schedule = self.schedule
        for k in range(schedule.num_microbatches):
            way = schedule.route[k] if schedule.route else 0
            for stage in range(way * self.length(), (way + 1) * self.length()):
                for part in range(schedule.num_slices):
                    self.once(stage, k, part)
        if self.done:
            raise ExecutionError(f"{self.done} besides what is needed")

    def once(self, stage: int, k: int, part: int) -> None:
        f, b, i, w, r = (
            self.done.pop(Action(stage, Kind(x), k, part), 0) for x in "FBIWR"
        )
        if f != 1 or (b, i, w) not in ((1, 0, 0), (0, 1, 1)) or r > 1:
            raise ExecutionError(f"stage {stage}, microbatch {k}: {f} {b} {i} {w} {r}")


def failure(schedule: Schedule, capacity: int | None) -> ExecutionError | None:
    try:
        Executor(schedule, capacity).run()
    except ExecutionError as found:
        return found
    return None


# ---- schedules to damage -------------------------------------------------------------


def one_f_one_b(p: int, m: int) -> Schedule:
    return Schedule.make("1f1b", num_ranks=p, num_microbatches=m)


def with_rows(
    schedule: Schedule, rows: Iterable[Sequence[Action | Overlap]]
) -> Schedule:
    return replace(schedule, ranks=tuple(tuple(row) for row in rows))


def each_full_backward(
    schedule: Schedule, becomes: Callable[[Action], list[Action]]
) -> Schedule:
    def changed(item: Action | Overlap) -> Sequence[Action | Overlap]:
        full = isinstance(item, Action) and item.kind is Kind.B
        return becomes(item) if full and isinstance(item, Action) else [item]

    rows = [[x for item in row for x in changed(item)] for row in schedule.ranks]
    return with_rows(schedule, rows)


def split(schedule: Schedule) -> Schedule:
    """Every B as an I and a W behind it."""
    return each_full_backward(
        schedule, lambda a: [a._replace(kind=Kind.I), a._replace(kind=Kind.W)]
    )


def recomputed(schedule: Schedule) -> Schedule:
    """An R before every B."""
    return each_full_backward(schedule, lambda a: [a._replace(kind=Kind.R), a])


def breadth_first(placed: tuple[int, ...], m: int, slices: int = 1) -> Schedule:
    """All forwards stage by stage, all backwards in reverse."""
    rows: list[list[Action]] = [[] for _ in range(max(placed) + 1)]
    units = [(k, s) for k in range(m) for s in range(slices)]
    for stage, rank in enumerate(placed):
        rows[rank] += [Action(stage, Kind.F, k, s) for k, s in units]
    for stage, rank in reversed(list(enumerate(placed))):
        rows[rank] += [Action(stage, Kind.B, k, s) for k, s in reversed(units)]
    return Schedule("breadth", rows, placed, num_slices=slices)


def both_ways() -> Schedule:
    rows = [["0F0", "3F1", "3B1", "0B0"], ["2F1", "1F0", "1B0", "2B1"]]
    return Schedule("both", rows, (0, 1, 1, 0), copy_of=(0, 1, 0, 1), route=(0, 1))


def overlapped() -> Schedule:
    rows = [
        ["0F0", "0F1", "(0F2;0B0)OVERLAP_F_B", "0B1", "0B2"],
        ["1F0", "(1F1;1B0)OVERLAP_F_B", "(1F2;1B1)OVERLAP_F_B", "1B2"],
    ]
    return Schedule("overlapped", rows, (0, 1))


BASES: dict[str, Callable[[], Schedule]] = {
    "gpipe": lambda: Schedule.make("gpipe", num_ranks=3, num_microbatches=3),
    "1f1b": lambda: one_f_one_b(3, 4),
    "1f1b, wide": lambda: one_f_one_b(4, 3),
    "single": lambda: Schedule.make(
        "single", num_ranks=1, num_microbatches=2, num_stages=3
    ),
    "split": lambda: split(one_f_one_b(3, 3)),
    "recomputed": lambda: recomputed(one_f_one_b(2, 3)),
    "loop": lambda: breadth_first((0, 1, 0, 1), 2),
    "V": lambda: breadth_first((0, 1, 2, 2, 1, 0), 2),
    "slices": lambda: breadth_first((0, 1), 2, slices=3),
    "slices, one rank": lambda: breadth_first((0, 0), 1, slices=4),
    "both ways": both_ways,
    "overlapped": overlapped,
}
#: One small shape of every generator.
SMALL: dict[str, tuple[int, int, dict[str, Any]]] = {
    "eager_1f1b": (3, 4, {}),
    "interleaved_1f1b": (2, 4, {}),
    "looped_bfs": (2, 3, {}),
    "zb_h1": (3, 4, {}),
    "zb_h2": (3, 5, {}),
    "zb_auto": (3, 4, {"memory_limit": 2}),
    "interleaved_zb": (2, 4, {}),
    "zb_v": (2, 3, {}),
    "zb_v_greedy": (2, 3, {"memory_limit": 1}),
    "v_half": (2, 3, {}),
    "v_min": (3, 3, {}),
    "1f1b_v": (2, 3, {}),
    "dualpipe": (2, 4, {}),
    "dualpipe_v": (2, 4, {}),
    "chimera": (4, 4, {}),
    "hanayo": (2, 3, {}),
    "bitpipe": (2, 2, {}),
    "seq_1f1b": (2, 2, {"num_slices": 3}),
    "1f1b_recompute": (3, 3, {}),
}


def small(name: str) -> Schedule:
    p, m, options = SMALL[name]
    return Schedule.make(name, num_ranks=p, num_microbatches=m, **options)


BASES |= {name: partial(small, name) for name in SMALL}


# ---- damage --------------------------------------------------------------------------

Rows = list[list[Action | Overlap]]


def drop(rows: Rows, rank: int, step: int, rng: random.Random) -> None:
    del rows[rank][step]


def swap(rows: Rows, rank: int, step: int, rng: random.Random) -> None:
    other = rng.choice([step + 1, rng.randrange(len(rows[rank]))]) % len(rows[rank])
    row = rows[rank]
    row[step], row[other] = row[other], row[step]


def move(rows: Rows, rank: int, step: int, rng: random.Random) -> None:
    item = rows[rank].pop(step)
    rows[rank].insert(rng.randint(max(0, step - 2), step + 2), item)


def duplicate(rows: Rows, rank: int, step: int, rng: random.Random) -> None:
    target = rows[rng.randrange(len(rows))]
    target.insert(rng.randint(0, len(target)), rows[rank][step])


def retarget(rows: Rows, rank: int, step: int, rng: random.Random) -> None:
    item = rows[rank][step]
    if isinstance(item, Overlap):
        rows[rank][step : step + 1] = list(item)
        return
    change = rng.choice(["stage", "microbatch", "kind", "slice"])
    if change == "kind":
        rows[rank][step] = item._replace(kind=Kind(rng.choice("FBIWR")))
    else:
        value = max(0, getattr(item, change) + rng.choice([-1, 1]))
        rows[rank][step] = item._replace(**{change: value})


DAMAGE = (drop, swap, swap, move, move, duplicate, retarget)


def mutant(base: Schedule, rng: random.Random) -> Schedule:
    rows: Rows = [list(row) for row in base.ranks]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rank = rng.randrange(len(rows))
        if rows[rank]:
            rng.choice(DAMAGE)(rows, rank, rng.randrange(len(rows[rank])), rng)
    return with_rows(base, rows)


def accepts(schedule: Schedule, capacity: int | None) -> ScheduleError | None:
    try:
        schedule.check(channel_capacity=capacity)
    except ScheduleError as error:
        return error
    return None


@pytest.mark.parametrize("name", BASES)
def test_the_executor_finishes_what_is_undamaged(name: str) -> None:
    base = BASES[name]()
    least = base.minimum_channel_capacity()
    for capacity in (least, least + 1, None):
        assert failure(base, capacity) is None
    for capacity in range(least):
        assert failure(base, capacity) is not None


@pytest.mark.parametrize("name", BASES)
def test_check_accepts_exactly_what_the_executor_finishes(name: str) -> None:
    base, rng = BASES[name](), random.Random(name)
    accepted = 0
    for number in range(PER_BASE):
        damaged = mutant(base, rng)
        capacity = (0, 1, 2, None)[number % 4]
        error, failed = accepts(damaged, capacity), failure(damaged, capacity)
        told = "\n".join(" ".join(map(str, row)) for row in damaged.ranks)
        assert (error is None) == (failed is None), (
            f"capacity {capacity}: check says {error}, executor says {failed}\n{told}"
        )
        accepted += error is None
    assert 0 < accepted < PER_BASE  # both verdicts were put to the test


def test_there_are_ten_thousand_mutants_of_every_schedule() -> None:
    assert PER_BASE * len(BASES) >= 10_000
    assert set(SCHEDULES) <= set(BASES)


# ---- every order ---------------------------------------------------------------------


def every_order(kinds: str) -> Iterator[Schedule]:
    """All orders of two microbatches on two ranks, right and wrong."""
    rows = [[Action(r, Kind(x), k) for x in kinds for k in (0, 1)] for r in (0, 1)]
    base = Schedule("two by two", rows, (0, 1))
    for first in itertools.permutations(rows[0]):
        for second in itertools.permutations(rows[1]):
            yield with_rows(base, (first, second))


def test_check_is_right_about_every_order_of_two_by_two() -> None:
    verdicts: Counter[int | None] = Counter()
    for schedule in every_order("FB"):
        for capacity in (0, 1, 2, None):
            error, failed = accepts(schedule, capacity), failure(schedule, capacity)
            told = [" ".join(map(str, row)) for row in schedule.ranks]
            assert (error is None) == (failed is None), (told, capacity)
            verdicts[capacity] += error is None
    # More room never hurts; with two microbatches room for two is room for all.
    assert 0 < verdicts[0] < verdicts[1] <= verdicts[2] == verdicts[None]
