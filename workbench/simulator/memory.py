"""Memory over time: what a rank holds of its microbatches' activations, and when.

Papers count in three ways, and their figures differ by as much as half; which one holds
must be said with every number:

- ``"backward"``: as if the backward were fused. A microbatch's activations of a stage go
  at the end of its B or, where it is split, of its I.
- ``"weight"``: they go at the end of B or W, since W needs them; the zero-bubble
  schedulers count like this (arXiv 2401.10241), and so does ``Schedule.in_flight``.
- ``"split"``: a ``fraction`` goes at the end of I, the rest at the end of W, all at the
  end of B. The controllable-memory schedules use one half (arXiv 2405.15362).

Where no backward is split the three agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schedule import KIND_CODE, KINDS, Action, Kind, Schedule
from ..trace import WAIT_LANE, Trace
from .costs import CostModel
from .simulate import simulate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CONVENTIONS = ("backward", "weight", "split")


@dataclass(frozen=True, eq=False)
class MemoryOverTime:
    """What every rank holds: ``held[r][i]`` from ``times[r][i]`` on, up to the next.

    Times are in ``unit``; held in that of the sizes: by default activations of one
    microbatch of one stage. ``peak``: (ranks,), the most each rank holds.
    """

    times: tuple[Floats, ...]
    held: tuple[Floats, ...]
    convention: str
    unit: str
    source: str

    @property
    def peak(self) -> Floats:
        return np.array([h.max(initial=0.0) for h in self.held])

    def at(self, time: float) -> Floats:
        """(ranks,): what is held at a time, in ``unit``; where it changes at that very
        time, after the change."""
        found = np.zeros(len(self.times))
        for rank, (times, held) in enumerate(zip(self.times, self.held, strict=True)):
            place = int(np.searchsorted(times, time, side="right")) - 1
            found[rank] = held[place] if place >= 0 else 0.0
        return found

    def __repr__(self) -> str:
        peaks = ", ".join(f"{p:g}" for p in self.peak)
        return f"MemoryOverTime({self.source}, {self.convention!r}, peak [{peaks}])"


def memory_over_time(
    what: Trace | Schedule,
    *,
    convention: str = "weight",
    fraction: float = 0.5,
    sizes: npt.ArrayLike | None = None,
    checkpoint: float = 0.0,
    costs: CostModel | None = None,
) -> MemoryOverTime:
    """What every rank of a trace, simulated or measured, holds over time.

    A schedule is simulated first, under ``costs`` or at one unit for all of F, I and W.
    Activations are taken when an F begins and given back when what frees them ends; the
    halves of an overlap hold theirs together.

    convention, fraction: see this module. sizes: (stages,) what one microbatch's
    activations of each stage take, in any unit; by default 1. A sequence slice takes its
    even share. checkpoint: the part that the F of a recomputed microbatch keeps; its R
    takes the rest.

    Raises ValueError for an unknown convention, for fractions outside 0 to 1 and for
    sizes of another number of stages.
    """
    if isinstance(what, Schedule):
        trace = simulate(what, costs or CostModel.uniform())
    else:
        trace = what
        if costs is not None:
            raise ValueError("costs are for a schedule; a trace has its own times")
    trace = trace.select(trace.lane != WAIT_LANE)
    columns = (trace.stage, trace.kind, trace.microbatch, trace.slice)
    slices = int(trace.slice.max(initial=0)) + 1
    delta = _deltas(columns, convention, fraction, sizes, checkpoint, slices)
    times: list[Floats] = []
    held: list[Floats] = []
    for rank in range(trace.num_ranks):
        mask = trace.rank == rank
        when, level = _walk(trace.start[mask], trace.end[mask], delta[mask])
        times.append(np.asarray(when * np.float64(trace.tick)))
        held.append(level)
    return MemoryOverTime(
        tuple(times), tuple(held), convention, trace.unit, trace.source
    )


def deltas(
    actions: Sequence[Action],
    *,
    convention: str = "weight",
    fraction: float = 0.5,
    sizes: npt.ArrayLike | None = None,
    checkpoint: float = 0.0,
) -> Floats:
    """(actions,): what each of a step's actions takes when it begins or, negative, gives
    back when it ends: ``Evaluator``'s ``memory``. Parameters and errors as for
    memory_over_time."""
    rows = [(a.stage, KIND_CODE[a.kind], a.microbatch, a.slice) for a in actions]
    stage, kind, microbatch, part = np.array(rows, np.int64).reshape(-1, 4).T
    slices = int(part.max(initial=0)) + 1
    columns = (stage, kind, microbatch, part)
    return _deltas(columns, convention, fraction, sizes, checkpoint, slices)


def _deltas(
    columns: tuple[Ints, Ints, Ints, Ints],
    convention: str,
    fraction: float,
    sizes: npt.ArrayLike | None,
    checkpoint: float,
    slices: int,
) -> Floats:
    if convention not in CONVENTIONS:
        raise ValueError(
            f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}"
        )
    for name, value in (("fraction", fraction), ("checkpoint", checkpoint)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
    early = {"backward": 1.0, "weight": 0.0, "split": fraction}[convention]
    gives = {Kind.B: -1.0, Kind.I: -early, Kind.W: early - 1.0, Kind.F: 1.0}
    stage, kind, microbatch, part = columns
    found = np.array([gives.get(k, 0.0) for k in KINDS])[kind]
    again = kind == KIND_CODE[Kind.R]
    if again.any():
        which = np.stack([stage, microbatch, part])
        recomputed = {tuple(row) for row in which[:, again].T.tolist()}
        first = kind == KIND_CODE[Kind.F]
        mask = [tuple(row) in recomputed for row in which.T.tolist()]
        found[first & np.array(mask)] = checkpoint
        found[again] = 1.0 - checkpoint
    if sizes is not None:
        table = np.asarray(sizes, np.float64)
        if table.ndim != 1 or len(table) <= int(stage.max(initial=-1)):
            raise ValueError(
                f"sizes must have one number per stage, but have the shape {table.shape} "
                f"and the last stage is {int(stage.max(initial=-1))}"
            )
        found = found * table[stage]
    return np.asarray(found / slices)


def _walk(start: Ints, end: Ints, delta: Floats) -> tuple[Ints, Floats]:
    """(times, what is held from then on) of one rank: what is positive is taken at the
    start, what is negative is given back at the end. Actions do not overlap but for the
    halves of a pair, which have one start and one end: both take before one gives."""
    order = np.lexsort((end, start))
    start, end, delta = start[order], end[order], delta[order]
    both = np.concatenate([start, end])
    change = np.concatenate([np.maximum(delta, 0), np.minimum(delta, 0)])
    pair = np.cumsum(
        np.r_[True, (start[1:] != start[:-1]) | (end[1:] != end[:-1])][: len(start)]
    )
    # Behind one another by action; an action's start before its end.
    by = np.lexsort((np.repeat([0, 1], len(start)), np.tile(pair, 2)))
    level = np.cumsum(change[by])
    moves = change[by] != 0
    return both[by][moves], level[moves]
