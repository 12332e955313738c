"""The order of a pipeline step, as data: kinds, actions, schedules, programs.

A ``Schedule`` is a table of compute actions per rank; it owns no model and runs
nothing. It is checked (check.py), lowered to ``Program``s with communication
(lower.py), and from there both simulated and executed. ``Schedule.dependencies`` is the
only statement of what needs what.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Kind(StrEnum):
    """What an action does. The order gives the integers in ``kinds.h``."""

    F = "F"
    I = "I"
    W = "W"
    B = "B"
    R = "R"
    SEND_F = "SEND_F"
    RECV_F = "RECV_F"
    SEND_B = "SEND_B"
    RECV_B = "RECV_B"
    REDUCE_GRAD = "REDUCE_GRAD"
    OPT_STEP = "OPT_STEP"
    UNSHARD = "UNSHARD"
    RESHARD = "RESHARD"
    OFFLOAD = "OFFLOAD"
    RELOAD = "RELOAD"


KINDS: tuple[Kind, ...] = tuple(Kind)
KIND_CODE: dict[Kind, int] = {kind: code for code, kind in enumerate(KINDS)}

#: What a schedule is made of; the other kinds come with lowering.
COMPUTE = frozenset({Kind.F, Kind.I, Kind.W, Kind.B, Kind.R})
#: Kinds of a whole stage: written without a microbatch, which is then -1.
WHOLE_STAGE = frozenset({Kind.REDUCE_GRAD, Kind.OPT_STEP, Kind.UNSHARD, Kind.RESHARD})

_ACTION = re.compile(
    r"(\d+)(" + "|".join(sorted(KINDS, key=len, reverse=True)) + r")(\d+)?(?:\.(\d+))?",
    re.ASCII,
)
_OVERLAP = re.compile(r"\(([^;()]+);([^;()]+)\)OVERLAP_F_B", re.ASCII)


class Action(NamedTuple):
    """One action on one microbatch of one stage, written as in PyTorch: ``2F0``.

    A sequence slice follows a dot (``2F0.1``; slice 0 is not written).
    """

    stage: int
    kind: Kind
    microbatch: int
    slice: int = 0

    def __str__(self) -> str:
        if self.kind in WHOLE_STAGE:
            return f"{self.stage}{self.kind}"
        part = f".{self.slice}" if self.slice else ""
        return f"{self.stage}{self.kind}{self.microbatch}{part}"

    @classmethod
    def parse(cls, text: str) -> Action:
        """The exact inverse of ``str``. Raises ValueError for anything else."""
        match = _ACTION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no action: write stage, kind and microbatch, as in 2F0 "
                f"(kinds: {', '.join(KINDS)})"
            )
        stage, kind, microbatch, part = match.groups()
        number = -1 if microbatch is None else int(microbatch)
        action = cls(int(stage), Kind(kind), number, int(part or 0))
        if str(action) != text:
            wants = "no microbatch" if action.kind in WHOLE_STAGE else "a microbatch"
            raise ValueError(
                f"{text!r} is no action: {kind} takes {wants}, and numbers have no "
                "leading zeros"
            )
        return action


class Overlap(NamedTuple):
    """A forward and a backward that run together, as DualPipe pairs them."""

    first: Action
    second: Action

    def __str__(self) -> str:
        return f"({self.first};{self.second})OVERLAP_F_B"

    @classmethod
    def parse(cls, text: str) -> Overlap:
        """The exact inverse of ``str``. Raises ValueError for anything else."""
        match = _OVERLAP.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no overlap: write it as (0F1;1B0)OVERLAP_F_B"
            )
        return cls(Action.parse(match[1]), Action.parse(match[2]))


Row = tuple["Action | Overlap", ...]


def parse(text: str) -> Action | Overlap:
    """An action or an overlap from its text. Raises ValueError."""
    return Overlap.parse(text) if text.startswith("(") else Action.parse(text)


def halves(item: Action | Overlap) -> tuple[Action, ...]:
    """The actions of one entry of a row: one, or an overlap's two."""
    return (item.first, item.second) if isinstance(item, Overlap) else (item,)


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


def _item(entry: Any) -> Action | Overlap:
    if isinstance(entry, (Action, Overlap)):
        return entry
    if isinstance(entry, str):
        return parse(entry)
    raise ValueError(f"{entry!r} is neither an action nor its text, such as '2F0'")


@dataclass(frozen=True)
class Schedule:
    """Which rank does what to which microbatch, in what order.

    ``ranks[r]`` is rank r's row of compute actions (given as actions or texts, stored
    as a tuple); ``stage_to_rank[s]`` says where stage s lives. In schedules with two
    copies of the parameters ``copy_of[s]`` names the stage whose parameters s shares,
    and ``route[k]`` which way microbatch k takes. Building a schedule checks its form
    only; ``check`` does the rest.
    """

    name: str
    ranks: tuple[Row, ...] = field(repr=False)
    stage_to_rank: tuple[int, ...]
    num_stages: int = 0
    num_microbatches: int = 0
    num_slices: int = 1
    copy_of: tuple[int, ...] | None = None
    route: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        rows = tuple(tuple(_item(entry) for entry in row) for row in self.ranks)
        placed = tuple(int(rank) for rank in self.stage_to_rank)
        object.__setattr__(self, "ranks", rows)
        object.__setattr__(self, "stage_to_rank", placed)
        if not self.num_stages:
            object.__setattr__(self, "num_stages", len(placed))
        if not self.num_microbatches:
            highest = max((a.microbatch for _, _, a in self.walk()), default=-1)
            object.__setattr__(self, "num_microbatches", highest + 1)
        for name in ("copy_of", "route"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(placed) != self.num_stages:
            raise ValueError(
                f"stage_to_rank places {len(placed)} stages, but num_stages is "
                f"{self.num_stages}"
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
        """From PyTorch's compute-only CSV, a path or the text. Raises ValueError."""
        from .csv import read_csv

        return read_csv(source, name)

    def to_csv(self) -> str:
        """PyTorch's compute-only CSV. Raises ValueError for what PyTorch lacks."""
        from .csv import write_csv

        return write_csv(self)

    # ---- what it says ----------------------------------------------------------------

    @property
    def num_ranks(self) -> int:
        return len(self.ranks)

    def walk(self) -> Iterator[tuple[int, int, Action]]:
        """(rank, step, action) over all rows; an overlap's halves share their step."""
        for rank, row in enumerate(self.ranks):
            for step, item in enumerate(row):
                for action in halves(item):
                    yield rank, step, action

    @cached_property
    def _places(self) -> dict[Action, tuple[int, int]]:
        """Where each action stands; for a repeated one, the first place."""
        places: dict[Action, tuple[int, int]] = {}
        for rank, step, action in self.walk():
            places.setdefault(action, (rank, step))
        return places

    def has(self, action: Action) -> bool:
        return action in self._places

    def place(self, action: Action) -> tuple[int, int]:
        """(rank, step) of an action. Raises KeyError if the schedule lacks it."""
        return self._places[action]

    def backward(self, stage: int, microbatch: int, part: int = 0) -> Action:
        """The action that makes the input gradient: I where the schedule has it, else
        B."""
        split = Action(stage, Kind.I, microbatch, part)
        return split if self.has(split) else split._replace(kind=Kind.B)

    def dependencies(self, action: Action) -> tuple[Action, ...]:
        """What must have ended before ``action`` may start: the data dependences.

        F needs the F of the stage before; I and B need their own F (and its R, if there
        is one) and the input gradient of the stage after; W needs its I; R needs its F.
        With sequence slices a forward also needs the slice before it, a backward the
        slice after.
        """
        stage, kind, microbatch, part = action
        own = Action(stage, Kind.F, microbatch, part)
        if kind is Kind.F:
            needs = [own._replace(slice=part - 1)] if part else []
            before = self.stage_before(stage)
            return (*needs, own._replace(stage=before)) if before >= 0 else tuple(needs)
        if kind is Kind.R:
            return (own,)
        if kind is Kind.W:
            return (action._replace(kind=Kind.I),)
        if kind not in (Kind.I, Kind.B):
            return ()
        again = action._replace(kind=Kind.R)
        needs = [own, again] if self.has(again) else [own]
        if part + 1 < self.num_slices:
            needs.append(self.backward(stage, microbatch, part + 1))
        after = self.stage_after(stage)
        if after >= 0:
            needs.append(self.backward(after, microbatch, part))
        return tuple(needs)

    def stage_before(self, stage: int) -> int:
        """The stage whose output is this one's input, or -1. A copy's stages form a
        chain of their own, half as long as the table of stages."""
        chain = self._chain_length
        return stage - 1 if stage % chain else -1

    def stage_after(self, stage: int) -> int:
        """The stage that takes this one's output, or -1 for the last."""
        chain = self._chain_length
        return stage + 1 if (stage + 1) % chain else -1

    @property
    def _chain_length(self) -> int:
        return max(1, self.num_stages // 2 if self.copy_of else self.num_stages)

    def in_flight(self, rank: int) -> int:
        """Most (stage, microbatch) pairs the rank holds at once, from F to the end of W
        or B."""
        held = peak = 0
        for item in self.ranks[rank]:
            for action in halves(item):
                if action.kind is Kind.F:
                    held += 1
                    peak = max(peak, held)
                elif action.kind in (Kind.W, Kind.B):
                    held -= 1
        return peak

    # ---- what can be done with it ----------------------------------------------------

    def check(
        self, channel_capacity: int | None = None, memory_limit: int | None = None
    ) -> Schedule:
        """Raises ScheduleError for the first rule broken; returns the schedule itself.

        Rules: placement, uniqueness, completeness, happens-before, matched
        communication, no deadlock with ``channel_capacity`` messages per channel (0:
        rendezvous; None: any number), and at most ``memory_limit`` activations in
        flight per rank.
        """
        from .check import check

        check(self, channel_capacity, memory_limit)
        return self

    def minimum_channel_capacity(self) -> int:
        """The fewest messages that channels must hold for the schedule not to
        deadlock."""
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


@dataclass(frozen=True)
class Program:
    """What one rank does in a step, communication included. It knows no model."""

    rank: int
    steps: Row

    def __str__(self) -> str:
        return f"rank {self.rank}: " + " ".join(str(step) for step in self.steps)


def flatten(rows: Sequence[Row]) -> list[list[Action]]:
    """Rows without overlaps: their halves in sequence, as the engine runs them."""
    return [[a for item in row for a in halves(item)] for row in rows]
