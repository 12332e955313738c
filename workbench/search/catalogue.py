"""What the catalogue's families give at these numbers: made, costed, and told why not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..schedule import (
    SCHEDULES,
    Schedule,
    ScheduleError,
    halves,
    in_flight_changes,
)
from ..simulator import CostModel, Evaluator, simulate
from ..trace import Trace
from .budget import Budget
from .show import options_text

#: Families whose number of stages per rank follows from their placement; the others
#: take it as an option, or have one.
_TWO = ("zb_v", "zb_v_greedy", "v_half", "v_min", "1f1b_v", "dualpipe_v", "bitpipe")
#: About how long an order that is worked out takes to make, in seconds per action.
_SLOW = {
    "zb_auto": 2.5e-4,
    "zb_v_greedy": 2e-4,
    "v_half": 1e-4,
    "v_min": 1e-4,
    "1f1b_v": 1e-4,
    "hanayo": 1e-4,
    "bitpipe": 2e-4,
}
#: And any order to be simulated.
_SIMULATED = 5e-5
#: How a row begins whose schedule was not worked out.
NO_TIME = "left out"


@dataclass(frozen=True)
class Candidate:
    """One schedule that was tried.

    ``peak_memory`` is in microbatches' activations of one rank; ``problem`` says why it
    cannot be taken (None where it can). Times are in the costs' unit, None where it was
    not simulated.
    """

    name: str
    options: dict[str, Any]
    makespan: float | None = None
    span: float | None = None
    bubble_fraction: float | None = None
    peak_memory: float | None = None
    problem: str | None = None
    schedule: Schedule | None = None
    trace: Trace | None = None
    costs: CostModel | None = None
    median: float | None = None
    p90: float | None = None

    @property
    def feasible(self) -> bool:
        return self.problem is None

    def simulated(self) -> Candidate:
        """With the trace, and what is read from it."""
        assert self.schedule is not None and self.costs is not None
        trace = simulate(self.schedule, self.costs)
        return replace(
            self,
            makespan=trace.makespan,
            span=trace.span,
            bubble_fraction=trace.bubbles().bubble_fraction,
            trace=trace,
        )

    def row(self) -> dict[str, Any]:
        """What the table shows."""
        return {
            "name": self.name,
            "options": options_text(self.options),
            "makespan": self.makespan,
            "span": self.span,
            "bubble_fraction": self.bubble_fraction,
            "peak_memory": self.peak_memory,
            "feasible": self.feasible,
            "problem": self.problem or "",
            "median": self.median,
            "p90": self.p90,
        }


def known_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of ``SCHEDULES``, or one. Raises ValueError for what is none."""
    if isinstance(names, str):
        names = (names,)
    found = tuple(names) if isinstance(names, Iterable) else (names,)
    for name in found:
        if name not in SCHEDULES:
            raise ValueError(
                f"no schedule named {name!r}; there are {', '.join(SCHEDULES)}"
            )
    return found


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k != "cost_model"}


def _recomputes(schedule: Schedule) -> bool:
    return any(action.kind == "R" for _, _, action in schedule.walk())


def _timed(found: Candidate) -> Candidate:
    """Makespan and span, without a trace."""
    assert found.schedule is not None and found.costs is not None
    evaluator = Evaluator(found.schedule, found.costs)
    whole, starts, ends = evaluator.times(evaluator.rows)
    if whole < 0:
        return replace(found, problem="does not run", schedule=None)
    if found.costs.has_optimizer:
        return replace(found, makespan=whole, span=whole)
    begins = evaluator.row_start
    rows = [slice(a, b) for a, b in pairwise(begins) if b > a]
    span = max(float(ends[r].max() - starts[r].min()) for r in rows)
    return replace(found, makespan=whole, span=span)


def peak_memory(schedule: Schedule, activations: Sequence[float]) -> float:
    """What the fullest rank holds at once, where a microbatch on stage s takes
    ``activations[s]`` from its F, or its R where it has one, to the end of its W or B
    (its share, with slices)."""
    peak = 0.0
    for row in schedule.ranks:
        counts: dict[int, int] = {}
        actions = [action for item in row for action in halves(item)]
        changes = (change for _, change in in_flight_changes(row))
        for action, change in zip(actions, changes, strict=True):
            if change:
                stage = action.stage
                counts[stage] = counts.get(stage, 0) + change
                if change > 0:
                    held = sum(activations[s] * n for s, n in counts.items() if n)
                    peak = max(peak, held)
    return peak / schedule.num_slices


def _variants(
    name: str, num_ranks: int, num_microbatches: int, parts: int, extra: dict[str, Any]
) -> list[dict[str, Any]]:
    """The options to try a family with."""
    takes = inspect.signature(SCHEDULES[name]).parameters
    options: dict[str, Any] = {k: v for k, v in extra.items() if k in takes}
    if "stages_per_rank" in takes:
        options["stages_per_rank"] = parts
    if "num_stages" in takes:
        options["num_stages"] = parts * num_ranks
    if "num_waves" in takes:
        options["num_waves"] = max(1, parts // 2)
    if "group_size" in takes and num_microbatches > num_ranks:
        return [options, {**options, "group_size": num_microbatches}]
    if "memory_limit" in takes and "memory_limit" not in extra:
        limits = sorted({num_ranks, 2 * num_ranks, num_microbatches})
        return [{**options, "memory_limit": limit} for limit in limits]
    return [options]


def _stages_per_rank(name: str, options: dict[str, Any]) -> int:
    """What a family's schedules have, without making one."""
    if name == "hanayo":
        return 2 * int(options["num_waves"])
    return 2 if name in _TWO else int(options.get("stages_per_rank", 1))


@dataclass(frozen=True)
class Wish:
    """What a schedule must be like: sizes, costs of its stages, activations per stage
    in units of a rank's, memory limit, copies of the parameters, whole backwards."""

    num_ranks: int
    num_microbatches: int
    parts: int
    costs: CostModel
    activations: tuple[float, ...]
    memory_limit: float | None
    parameter_copies: int
    split: bool
    recompute: bool = False

    @property
    def size(self) -> int:
        """Actions of one schedule."""
        return 3 * len(self.activations) * self.num_microbatches

    def tried(
        self,
        name: str,
        options: dict[str, Any],
        schedule: Schedule,
        quick: bool = False,
    ) -> Candidate:
        """A schedule, simulated and weighed; ``quick``: no more than makespan and span,
        and these of what may be taken."""
        found = Candidate(name, _shown(options), schedule=schedule)
        problem = self._misfit(schedule)
        if problem:
            return replace(found, problem=problem, schedule=None)
        copies = len(schedule.copy_of) if schedule.copy_of else schedule.num_stages
        activations = self.activations * (schedule.num_stages // copies or 1)
        if schedule.copy_of:
            activations = tuple(self.activations[s] for s in schedule.copy_of)
        costs = self.costs
        if schedule.copy_of is not None:
            costs = costs.of_stages(schedule.copy_of)
        peak = peak_memory(schedule, activations)
        if self.memory_limit is not None and peak > self.memory_limit * (1 + 1e-9):
            problem = f"holds {peak:g}, more than the limit of {self.memory_limit:g}"
        elif _recomputes(schedule) and not self.recompute:
            problem = "runs forwards twice; recompute=True allows that"
        found = replace(found, peak_memory=peak, problem=problem, costs=costs)
        if quick and problem:
            return found
        try:
            return _timed(found) if quick else found.simulated()
        except ScheduleError as error:
            text = str(error).partition("\n")[0]
            return replace(found, problem=f"does not run: {text}", schedule=None)

    def _misfit(self, schedule: Schedule) -> str | None:
        """Why a schedule is no answer whatever it costs."""
        length = max(schedule.copy_of) + 1 if schedule.copy_of else schedule.num_stages
        copies = schedule.num_stages // length
        if schedule.num_slices > 1:
            return "cuts sequences into slices, whose costs are not searched"
        if length != len(self.activations):
            return self._other(length)
        if copies > self.parameter_copies:
            return (
                f"needs {copies} copies of the parameters; parameter_copies={copies} "
                "allows them"
            )
        if not self.split and any(a.kind in ("I", "W") for _, _, a in schedule.walk()):
            return "splits backwards, and split_backward is False"
        return None

    def _other(self, stages: int) -> str:
        return f"has {stages} stages, but the costs are for {len(self.activations)}"

    def families(
        self, names: Sequence[str], budget: Budget, fraction: float = 1.0
    ) -> list[Candidate]:
        """Every family of the catalogue, as far as it can be made at these sizes, within
        a fraction of the budget: those whose order is worked out come last."""
        found: list[Candidate] = []
        extra = {"cost_model": self.costs, "memory_limit": self.memory_limit}
        if self.memory_limit is None:
            del extra["memory_limit"]
        sizes = (self.num_ranks, self.num_microbatches)
        quick = not budget.allows(len(names) * _SIMULATED * self.size, fraction)
        for name in sorted(names, key=lambda name: _SLOW.get(name, 0.0)):
            for options in _variants(name, *sizes, self.parts, extra):
                problem = self._left_out(name, options, budget, fraction)
                if not problem:
                    try:
                        schedule = SCHEDULES[name](*sizes, **options)
                    except ValueError as error:
                        problem = str(error).partition("\n")[0]
                found.append(
                    Candidate(name, _shown(options), problem=problem)
                    if problem
                    else self.tried(name, options, schedule, quick)
                )
        return found

    def _left_out(
        self, name: str, options: dict[str, Any], budget: Budget, fraction: float
    ) -> str | None:
        """Why an order that takes long to work out is not."""
        if name not in _SLOW:
            return None
        parts = _stages_per_rank(name, options)
        if parts != self.parts:
            return self._other(parts * self.num_ranks)
        takes = _SLOW[name] * self.size
        if budget.allows(takes, fraction):
            return None
        return f"{NO_TIME}: takes about {takes:.1g} s to work out; allow more seconds"
