"""One action of a schedule, and its text: kinds, actions, overlapping pairs.

Reading a text is the exact inverse of writing it; anything else is refused. Actions
know no schedule: what they need and where they run is said in ir.py.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


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
