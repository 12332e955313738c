"""The order of a pipeline step, as data: schedules and programs.

A ``Schedule`` is a table of compute actions per rank; it owns no model and runs
nothing. It is checked (check.py), lowered to ``Program``s with communication
(lower.py), and from there both simulated and executed. ``Schedule.dependencies`` is the
only statement of what needs what.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .actions import Action, Kind, Overlap, Row, halves, parse

if TYPE_CHECKING:
    from pathlib import Path


class ScheduleError(ValueError):
    """A schedule that breaks a rule; the message draws the grid with the place marked.

    ``rule`` names it; ``rank``, ``step`` (position in the rank's row) and ``action``
    say where, each None where that makes no sense.
    """

    def __init__(
        self,
        message: str,
        rule: str,
        rank: int | None = None,
        step: int | None = None,
        action: Action | None = None,
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.rank = rank
        self.step = step
        self.action = action

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross processes; by default only the message would be passed on.
        place = (self.rule, self.rank, self.step, self.action)
        return type(self), (str(self), *place)


def whole(value: Any, label: str, least: int | None = None) -> int:
    """``value`` as an int. Raises ValueError unless it is a whole number >= least."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{label} must be a whole number{limit}, got {value!r}")
    return number


def _plain(entry: Action) -> Action:
    """An action of whole numbers and a kind: a kind given as a plain text would be
    equal to the enum's, but not it."""
    try:
        kind = Kind(entry.kind)
    except ValueError:
        raise ValueError(
            f"{tuple(entry)} is no action: its kind is {entry.kind!r}, but must be one "
            f"of {', '.join(Kind)}"
        ) from None
    numbers = (
        whole(getattr(entry, label), f"{label} of the action {tuple(entry)}")
        for label in ("stage", "microbatch", "slice")
    )
    stage, microbatch, part = numbers
    return Action(stage, kind, microbatch, part)


def _item(entry: Any) -> Action | Overlap:
    if isinstance(entry, Action):
        stage, kind, microbatch, part = entry
        if (
            type(kind) is Kind
            and type(stage) is int
            and type(microbatch) is int
            and type(part) is int
        ):
            return entry
        return _plain(entry)
    if isinstance(entry, str):
        return parse(entry)
    if isinstance(entry, Overlap):
        first, second = _item(entry.first), _item(entry.second)
        if isinstance(first, Action) and isinstance(second, Action):
            return Overlap(first, second)
    raise ValueError(f"{entry!r} is neither an action nor its text, such as '2F0'")


def _row(entries: Any, rank: int) -> Row:
    if isinstance(entries, (str, Action, Overlap)) or not isinstance(entries, Iterable):
        raise ValueError(
            f"rank {rank}'s row is {str(entries)!r}; it must be a list of actions or "
            "their texts, such as ['0F0', '0B0'] or '0F0 0B0'.split()"
        )
    return tuple(_item(entry) for entry in entries)


def _numbers(values: Any, label: str, least: int | None = None) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{label} must be a list of whole numbers, got {values!r}")
    return tuple(whole(v, f"{label}[{i}]", least) for i, v in enumerate(values))


@dataclass(frozen=True, init=False)
class Schedule:
    """Which rank does what to which microbatch, in what order.

    ``ranks[r]`` is rank r's row of compute actions (given as actions or texts, stored
    as a tuple); ``stage_to_rank[s]`` says where stage s lives. ``num_stages`` and
    ``num_microbatches`` follow from these when they are not given. In schedules with
    several copies of the parameters, as DualPipe's, the stages of the second copy are
    numbered on from the first's: ``copy_of[s]`` names the stage of the first copy whose
    parameters s shares, and ``route[k]`` which copy microbatch k passes.

    Building a schedule checks its form only (ValueError); ``check`` does the rest.
    """

    name: str
    ranks: tuple[Row, ...] = field(repr=False)
    stage_to_rank: tuple[int, ...]
    num_stages: int
    num_microbatches: int
    num_slices: int
    copy_of: tuple[int, ...] | None
    route: tuple[int, ...] | None

    def __init__(
        self,
        name: str,
        ranks: Iterable[Iterable[Action | Overlap | str]],
        stage_to_rank: Iterable[int],
        num_stages: int = 0,
        num_microbatches: int = 0,
        num_slices: int = 1,
        copy_of: Iterable[int] | None = None,
        route: Iterable[int] | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise ValueError(f"name must be a text, got {name!r}")
        if isinstance(ranks, str) or not isinstance(ranks, Iterable):
            raise ValueError(f"ranks must be a list of rows, got {ranks!r}")
        rows = tuple(_row(row, rank) for rank, row in enumerate(ranks))
        # Whether these ranks exist is a rule of check, which draws the grid.
        placed = _numbers(stage_to_rank, "stage_to_rank")
        stages = whole(num_stages, "num_stages", 0) or len(placed)
        if len(placed) != stages:
            raise ValueError(
                f"stage_to_rank places {len(placed)} stages, but num_stages is {stages}"
            )
        microbatches = whole(num_microbatches, "num_microbatches", 0)
        if not microbatches:
            actions = (
                action for row in rows for item in row for action in halves(item)
            )
            microbatches = 1 + max((a.microbatch for a in actions), default=-1)
        values = {
            "name": name,
            "ranks": rows,
            "stage_to_rank": placed,
            "num_stages": stages,
            "num_microbatches": microbatches,
            "num_slices": whole(num_slices, "num_slices", 1),
            "copy_of": None if copy_of is None else _numbers(copy_of, "copy_of", 0),
            "route": None if route is None else _numbers(route, "route", 0),
        }
        for label, value in values.items():
            object.__setattr__(self, label, value)
        if copy_of is not None or route is not None:
            self._validate_copies(self.copy_of or (), self.route or ())

    def _validate_copies(self, copy_of: Sequence[int], route: Sequence[int]) -> None:
        length = max(copy_of, default=-1) + 1
        copies = self.num_stages // max(1, length)
        if not copy_of or tuple(copy_of) != tuple(range(length)) * copies:
            raise ValueError(
                f"copy_of is {tuple(copy_of)}; for {self.num_stages} stages it must count "
                "the stages of one copy and start anew with every further copy, as "
                "(0, 1, 0, 1) does for two copies of two stages"
            )
        if len(route) != self.num_microbatches or max(route, default=0) >= copies:
            raise ValueError(
                f"route is {tuple(route)}; it must name the copy, 0 to {copies - 1}, that "
                f"each of the {self.num_microbatches} microbatches passes"
            )

    # ---- making one ------------------------------------------------------------------

    @classmethod
    def make(
        cls, name: str, *, num_ranks: int, num_microbatches: int, **options: Any
    ) -> Schedule:
        """A schedule of the catalogue by name (a key of ``SCHEDULES``).

        Raises ValueError for an unknown name (suggesting the nearest), for numbers that
        are not positive, and for options the generator does not take.
        """
        from .catalogue import make

        return make(name, num_ranks, num_microbatches, **options)

    @classmethod
    def from_csv(cls, source: str | Path, *, name: str = "csv") -> Schedule:
        """From PyTorch's CSV, a path or the text, with communications or without.

        Communications are checked, then left out: they follow from the schedule. Every
        message must be sent once and received once, between any two ranks in one order,
        and without deadlock. Raises ValueError, and ScheduleError (which is one) for
        communications that break a rule, or do not belong to a schedule that passes
        ``check``. ``programs_from_csv`` keeps them.
        """
        from .csv import read_csv

        return read_csv(source, name)

    def to_csv(
        self, *, communications: bool = False, unsharded_stages: int | None = None
    ) -> str:
        """PyTorch's CSV: its "compute_only" format, or "compute_comms" with
        ``communications``.

        The latter adds a REDUCE_GRAD per stage, sends, and receives in an order in
        which no rank can block another; with ``unsharded_stages``, also UNSHARD and
        RESHARD, so that the parameters of the next so many stages are whole. Raises
        ValueError for what PyTorch lacks (recompute, slices, copies), and
        ScheduleError, with communications, where ``check`` does.
        """
        from .csv import write_csv

        return write_csv(self, communications, unsharded_stages)

    # ---- what it says ----------------------------------------------------------------

    @property
    def num_ranks(self) -> int:
        return len(self.ranks)

    def walk(self) -> Iterator[tuple[int, int, Action]]:
        """(rank, step, action) over all rows; an overlap's halves share their step."""
        for rank, row in enumerate(self.ranks):
            for step, item in enumerate(row):
                if isinstance(item, Overlap):
                    yield rank, step, item.first
                    yield rank, step, item.second
                else:
                    yield rank, step, item

    @cached_property
    def _places(self) -> dict[Action, tuple[int, int]]:
        """Where each action stands; for a repeated one, the first place."""
        places: dict[Action, tuple[int, int]] = {}
        for rank, step, action in self.walk():
            places.setdefault(action, (rank, step))
        return places

    @cached_property
    def _kinds(self) -> frozenset[Kind]:
        """The kinds that occur: most schedules have no I or no R to look for."""
        return frozenset(action.kind for action in self._places)

    def has(self, action: Action) -> bool:
        return action in self._places

    def place(self, action: Action) -> tuple[int, int]:
        """(rank, step) of an action. Raises KeyError if the schedule lacks it."""
        return self._places[action]

    def backward(self, stage: int, microbatch: int, part: int = 0) -> Action:
        """The action that makes the input gradient: I where the schedule has it, else
        B."""
        if Kind.I in self._kinds:
            split = Action(stage, Kind.I, microbatch, part)
            if split in self._places:
                return split
        return Action(stage, Kind.B, microbatch, part)

    def dependencies(self, action: Action) -> tuple[Action, ...]:
        """What must have ended before ``action`` may start: the data dependences.

        F needs the F of the stage before; I and B need their own F (and its R, if there
        is one) and the input gradient of the stage after; W needs its I; R needs its F.
        With sequence slices a forward also needs the slice before it, a backward the
        slice after.
        """
        stage, kind, microbatch, part = action
        needs: list[Action] = []
        if kind is Kind.F:
            before = self.stage_before(stage)
            if part:
                needs.append(Action(stage, kind, microbatch, part - 1))
            if before >= 0:
                needs.append(Action(before, kind, microbatch, part))
        elif kind is Kind.W:
            needs.append(Action(stage, Kind.I, microbatch, part))
        elif kind in _BACKWARD:
            after = self.stage_after(stage)
            needs.append(Action(stage, Kind.F, microbatch, part))
            if Kind.R in self._kinds and self.has(action._replace(kind=Kind.R)):
                needs.append(action._replace(kind=Kind.R))
            if part + 1 < self.num_slices:
                needs.append(self.backward(stage, microbatch, part + 1))
            if after >= 0:
                needs.append(self.backward(after, microbatch, part))
        elif kind is Kind.R:
            needs.append(Action(stage, Kind.F, microbatch, part))
        return tuple(needs)

    def stage_before(self, stage: int) -> int:
        """The stage whose output is this one's input, or -1 for the first. Every copy
        of the parameters is a chain of its own."""
        return stage - 1 if stage % self.chain_length else -1

    def stage_after(self, stage: int) -> int:
        """The stage that takes this one's output, or -1 for the last."""
        return stage + 1 if (stage + 1) % self.chain_length else -1

    @property
    def num_copies(self) -> int:
        """Copies of the parameters: 1, or as many as ``copy_of`` says."""
        return self.num_stages // self.chain_length

    def chain(self, microbatch: int) -> range:
        """The stages that a microbatch passes, in the order of its forwards."""
        length = self.chain_length
        first = self.route[microbatch] * length if self.route else 0
        return range(first, first + length)

    @cached_property
    def chain_length(self) -> int:
        """Stages of one copy of the parameters: what a model is split into."""
        stages = max(self.copy_of) + 1 if self.copy_of else self.num_stages
        return max(1, stages)

    def in_flight(self, rank: int) -> int:
        """Most (stage, microbatch) pairs whose activations the rank holds at once, from
        F, or from R where there is one, to the end of W or B; with sequence slices,
        (stage, microbatch, slice)."""
        changes = (change for _, change in in_flight_changes(self.ranks[rank]))
        return max(accumulate(changes), default=0)

    # ---- what can be done with it ----------------------------------------------------

    def check(
        self, channel_capacity: int | None = None, memory_limit: int | None = None
    ) -> Schedule:
        """Raises ScheduleError for the first rule broken; returns the schedule itself.

        Rules: placement, uniqueness, overlap (a forward with one of B, I or W),
        completeness, happens-before, matched communication, no deadlock with
        ``channel_capacity`` messages per channel (0: rendezvous; None: any number), and
        at most ``memory_limit`` activations in flight per rank. Raises ValueError for a
        capacity or limit that is no count.
        """
        from .check import check

        check(self, channel_capacity, memory_limit)
        return self

    def minimum_channel_capacity(self) -> int:
        """The fewest messages that channels must hold for the schedule not to
        deadlock. Raises ScheduleError if no number is enough."""
        from .check import minimum_channel_capacity

        return minimum_channel_capacity(self)

    def programs(self, optimizer: bool = True) -> tuple[Program, ...]:
        """One program per rank, communication and optimizer steps included."""
        from .lower import lower

        return lower(self, optimizer)

    def __str__(self) -> str:
        from .draw import grid

        return grid(self)

    def _repr_svg_(self) -> str:
        from .draw import svg

        return svg(self)


_BACKWARD = (Kind.I, Kind.B)


def in_flight_changes(steps: Row) -> Iterator[tuple[int, int]]:
    """(step, change) for every action of one rank: one more activation is held from F
    on, or from R if what F made is made again; one less after W or B."""
    again = {
        a._replace(kind=Kind.F) for s in steps for a in halves(s) if a.kind is Kind.R
    }
    for number, step in enumerate(steps):
        for action in halves(step):
            change = {Kind.F: 1, Kind.R: 1, Kind.W: -1, Kind.B: -1}.get(action.kind, 0)
            yield number, 0 if action in again else change


@dataclass(frozen=True)
class Program:
    """What one rank does in a step, communication included. It knows no model."""

    rank: int
    steps: Row

    def __str__(self) -> str:
        return f"rank {self.rank}: " + " ".join(str(step) for step in self.steps)
