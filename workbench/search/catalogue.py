"""What the catalogue's families give at these numbers: made, costed, and told why not."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..schedule import SCHEDULES, Schedule, ScheduleError, halves
from ..simulator import CostModel, simulate
from ..trace import Trace


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

    def row(self) -> dict[str, Any]:
        """What the table shows."""
        return {
            "name": self.name,
            "options": ", ".join(f"{k}={v}" for k, v in self.options.items()),
            "makespan": self.makespan,
            "span": self.span,
            "bubble_fraction": self.bubble_fraction,
            "peak_memory": self.peak_memory,
            "feasible": self.feasible,
            "problem": self.problem or "",
            "median": self.median,
            "p90": self.p90,
        }


def peak_memory(schedule: Schedule, activations: Sequence[float]) -> float:
    """What the fullest rank holds at once, where a microbatch on stage s takes
    ``activations[s]`` from its F to the end of its W or B (its share, with slices)."""
    peak = 0.0
    for row in schedule.ranks:
        counts: dict[int, int] = {}
        for item in row:
            for action in halves(item):
                change = (action.kind == "F") - (action.kind in ("W", "B"))
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


def _copied(costs: CostModel, schedule: Schedule) -> CostModel:
    """Costs for every copy of the parameters: those of the stage that is copied."""
    if schedule.copy_of is None:
        return costs
    stages = list(schedule.copy_of)
    changes: dict[str, Any] = {}
    if len(costs.times) > 1:
        changes["times"] = costs.times[stages]
    if np.ndim(costs.message_bytes):
        changes["message_bytes"] = np.asarray(costs.message_bytes)[stages]
    if np.ndim(costs.overlap or 0):
        changes["overlap"] = np.asarray(costs.overlap)[np.ix_(stages, stages)]
    return replace(costs, **changes)


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

    def tried(
        self, name: str, options: dict[str, Any], schedule: Schedule
    ) -> Candidate:
        """A schedule, simulated and weighed."""
        shown = {k: v for k, v in options.items() if k != "cost_model"}
        found = Candidate(name, shown, schedule=schedule)
        problem = self._misfit(schedule)
        if problem:
            return replace(found, problem=problem, schedule=None)
        copies = len(schedule.copy_of) if schedule.copy_of else schedule.num_stages
        activations = self.activations * (schedule.num_stages // copies or 1)
        if schedule.copy_of:
            activations = tuple(self.activations[s] for s in schedule.copy_of)
        costs = _copied(self.costs, schedule)
        try:
            trace = simulate(schedule, costs)
        except ScheduleError as error:
            text = str(error).partition("\n")[0]
            return replace(found, problem=f"does not run: {text}", schedule=None)
        peak = peak_memory(schedule, activations)
        if self.memory_limit is not None and peak > self.memory_limit * (1 + 1e-9):
            problem = f"holds {peak:g}, more than the limit of {self.memory_limit:g}"
        return replace(
            found,
            makespan=trace.makespan,
            span=trace.span,
            bubble_fraction=trace.bubbles().bubble_fraction,
            peak_memory=peak,
            problem=problem,
            trace=trace,
            costs=costs,
        )

    def _misfit(self, schedule: Schedule) -> str | None:
        """Why a schedule is no answer whatever it costs."""
        length = max(schedule.copy_of) + 1 if schedule.copy_of else schedule.num_stages
        copies = schedule.num_stages // length
        if schedule.num_slices > 1:
            return "cuts sequences into slices, whose costs are not searched"
        if length != self.parts * self.num_ranks:
            return f"has {length} stages, but the costs are for {len(self.activations)}"
        if copies > self.parameter_copies:
            return (
                f"needs {copies} copies of the parameters; parameter_copies={copies} "
                "allows them"
            )
        if not self.split and any(a.kind in ("I", "W") for _, _, a in schedule.walk()):
            return "splits backwards, and split_backward is False"
        return None

    def families(self, names: Sequence[str]) -> list[Candidate]:
        """Every family of the catalogue, as far as it can be made at these sizes."""
        found: list[Candidate] = []
        extra = {"cost_model": self.costs, "memory_limit": self.memory_limit}
        if self.memory_limit is None:
            del extra["memory_limit"]
        sizes = (self.num_ranks, self.num_microbatches)
        for name in names:
            for options in _variants(name, *sizes, self.parts, extra):
                try:
                    schedule = SCHEDULES[name](*sizes, **options)
                except ValueError as error:
                    shown = {k: v for k, v in options.items() if k != "cost_model"}
                    text = str(error).partition("\n")[0]
                    found.append(Candidate(name, shown, problem=text))
                    continue
                found.append(self.tried(name, options, schedule))
        return found
