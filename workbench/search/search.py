"""The search: the catalogue first, then orders of our own, then proof where it is cheap.

Every placement is a ``Space``; those whose lower bound shows that they cannot win are
left alone. What cannot be simulated and checked is never returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from random import Random
from typing import Any

from ..schedule.placement import loop, waves
from ..simulator import CostModel
from .bounds import lower_bound, overlap_factor
from .budget import Budget
from .catalogue import NO_TIME, Candidate, Wish
from .exact import solve
from .problem import Problem, memory_units, scaled
from .space import Space

OBJECTIVES = ("makespan", "span")
#: Most stages x microbatches for which the exact stage is tried: with one stage per
#: rank, where the memory limit is no more than precedences, and with several.
_EXACT, _EXACT_SHARED = 64, 32
#: List schedules tried on a placement when nothing else fits.
_RESCUE = 4


@dataclass(frozen=True)
class Setup:
    """The arguments of a search, checked."""

    costs: CostModel
    num_ranks: int
    num_microbatches: int
    parts: tuple[int, ...]
    memory_limit: float | None
    objective: str
    split: bool
    parameter_copies: int
    activations: tuple[float, ...] | None
    families: tuple[str, ...]
    placements: tuple[tuple[int, ...], ...] | None
    exact: bool
    recompute: bool = False

    def wish(self, parts: int) -> Wish:
        stages = parts * self.num_ranks
        costs = self.costs if self.costs.num_stages else scaled(self.costs, parts)
        activations = self.activations or (1 / parts,) * stages
        return Wish(
            self.num_ranks,
            self.num_microbatches,
            parts,
            costs,
            activations,
            self.memory_limit,
            self.parameter_copies,
            self.split,
            self.recompute,
        )

    def placed(self, parts: int) -> dict[tuple[int, ...], str]:
        """Placements to search, by name."""
        if self.placements is not None:
            size = parts * self.num_ranks
            return {p: "given" for p in self.placements if len(p) == size}
        found = {loop(self.num_ranks, parts): "loop"}
        found.setdefault(waves(self.num_ranks, parts), "V" if parts == 2 else "waves")
        return found


class Search:
    """One search: candidates and spaces, and the budget they share."""

    def __init__(self, setup: Setup, budget: Budget, seed: int) -> None:
        self.setup, self.budget = setup, budget
        self.seed, self.random = seed, Random(seed)
        self.candidates: list[Candidate] = []
        self.spaces: list[Space] = []
        self.notes: list[str] = []
        #: How many orders of a space become candidates.
        self.keep = 1

    # ---- stages ----------------------------------------------------------------------

    def run(self) -> None:
        for parts in self.setup.parts:
            if self._late and isfinite(self.value):
                self.notes.append(f"no time for {parts} stages per rank")
                break
            self.open(parts, self.setup.families)
        self.each(0.2, Space.build)
        if not isfinite(self.value):
            self._rescue()
        self.each(0.4, Space.anneal)
        if self.setup.exact:
            self._prove()
        self.each(1.0, Space.anneal)
        for space in self.spaces:
            self.candidates += space.found(self.keep)

    def _rescue(self) -> None:
        """Something that fits, when there was no time for it: list schedules."""
        for space in self.spaces:
            for _ in range(_RESCUE):
                space.build(Budget(0.0, 1), self.random)
                if space.pool:
                    return

    def open(self, parts: int, families: Sequence[str]) -> None:
        """The catalogue at so many stages per rank, and a space for each placement."""
        setup = self.setup
        wish = setup.wish(parts)
        done = setup.parts.index(parts) + 1
        tried = wish.families(families, self.budget, 0.8 * done / len(setup.parts))
        self.candidates += tried
        left = [c.name for c in tried if (c.problem or "").startswith(NO_TIME)]
        if left:
            names = ", ".join(dict.fromkeys(left))
            self.notes.append(f"left out for want of time: {names}")
        good = [c.schedule for c in tried if c.feasible and c.schedule is not None]
        placements = setup.placed(parts)
        if setup.placements is None:
            for schedule in good:
                if schedule.copy_of is None:
                    placements.setdefault(schedule.stage_to_rank, schedule.name)
        weights, capacity = memory_units(wish.activations, setup.memory_limit)
        for placement, name in placements.items():
            _check_room(placement, wish, setup.num_ranks)
            problem = Problem(
                wish.costs,
                placement,
                setup.num_ranks,
                setup.num_microbatches,
                setup.split,
                weights,
                capacity,
            )
            space = Space(wish, problem, name, setup.objective, self._rough(wish))
            if not self._late:
                space.seed(good)
            self.spaces.append(space)

    @property
    def _late(self) -> bool:
        """Whether the time that was given is over."""
        return self.budget.seconds > 0 and self.budget.left <= 0

    def _rough(self, wish: Wish) -> bool:
        """Whether there is no time for a sharp bound; says so."""
        ranks, each = self.setup.num_ranks, 1e-4
        by_makespan = self.setup.objective == "makespan"
        each += ranks * (1e-5 if by_makespan else 1e-4)
        if self.budget.allows(each * wish.size, 0.7):
            return False
        note = "lower bound by paths and work alone; more seconds allow a sharper one"
        if note not in self.notes:
            self.notes.append(note)
        return True

    def each(self, fraction: float, stage: Any) -> None:
        """A stage of the search over the spaces that may still win, the most promising
        with the most time."""
        part = self.budget.share(fraction)
        open_spaces = sorted(self._hopeful(), key=lambda s: (s.bound, s.best))
        for number, space in enumerate(open_spaces):
            if space not in self._hopeful():
                continue
            left = len(open_spaces) - number
            own = part.share(1.0 if left == 1 else 1.5 / (left + 0.5))
            stage(space, own, self.random)
            part.give_back(own)
        self.budget.give_back(part)

    @property
    def value(self) -> float:
        """The best value so far."""
        known = [_value(c, self.setup.objective) for c in self.candidates if c.feasible]
        return min([*known, *(s.best for s in self.spaces)], default=float("inf"))

    def _hopeful(self) -> list[Space]:
        """Spaces in which something better than the best may lie."""
        limit = self.value * (1 - 1e-12)
        return [s for s in self.spaces if not s.closed and s.bound < limit]

    def _prove(self) -> None:
        """The exact stage on spaces that are small."""
        for space in sorted(self._hopeful(), key=lambda s: s.bound):
            if space not in self._hopeful():
                continue
            most = _EXACT if space.wish.parts == 1 else _EXACT_SHARED
            size = space.problem.num_stages * self.setup.num_microbatches
            note: str | None = (
                "exact stage left out: it is for small cases (docs/searching.md)"
            )
            if size <= most:
                part = self.budget.share(0.5)
                note = solve(space, part)
                self.budget.give_back(part)
            if note and note not in self.notes:
                self.notes.append(note)

    # ---- what comes of it ------------------------------------------------------------

    def ranked(self) -> list[Candidate]:
        """All candidates: those that may be taken first, by value; of equals the one
        that needs less memory, and the catalogue's."""

        def key(candidate: Candidate) -> tuple[Any, ...]:
            value = _value(candidate, self.setup.objective)
            searched = candidate.name == "searched"
            return (not candidate.feasible, value, candidate.peak_memory or 0, searched)

        return sorted(self.candidates, key=key)

    def lower_bound(self) -> float:
        """The least of all spaces' bounds."""
        bounds = [space.bound for space in self.spaces]
        if self.setup.parameter_copies > 1:
            bounds.append(self._bound_of_copies())
        if self.setup.recompute and self.setup.memory_limit is not None:
            # An activation made again is held from its R on: memory bounds nothing.
            bounds += [
                lower_bound(
                    replace(space.problem, capacity=None), self.setup.objective, True
                )
                for space in self.spaces
            ]
        return min(bounds)

    def _bound_of_copies(self) -> float:
        """With copies, microbatches choose their way: all work shared out evenly."""
        bounds = []
        for space in self.spaces:
            speed = space.problem.costs.speed
            ranks = self.setup.num_ranks if speed is None else float(speed.sum())
            costs = replace(space.problem.costs, speed=None)
            even = replace(space.problem, costs=costs)
            work = sum(even.plain_ticks) * even.tick * overlap_factor(even)
            bounds.append(work / ranks * (1 - 1e-9))
        return min(bounds)


def _value(candidate: Candidate, objective: str) -> float:
    value = candidate.makespan if objective == "makespan" else candidate.span
    return float("inf") if value is None else value


def _check_room(placement: Sequence[int], wish: Wish, num_ranks: int) -> None:
    """One microbatch must fit."""
    if wish.memory_limit is None:
        return
    for rank in range(num_ranks):
        need = sum(
            a
            for a, home in zip(wish.activations, placement, strict=True)
            if home == rank
        )
        if need > wish.memory_limit * (1 + 1e-9):
            raise ValueError(
                f"memory_limit is {wish.memory_limit:g}, but one microbatch takes "
                f"{need:g} on rank {rank}; give at least that"
            )
