"""``search_splits``: where to cut the layers into stages, together with the order.

A split is judged by a short search of its orders; boundaries then move by a layer at a
time. The best few splits get the full search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np

from ..partition import split_evenly
from ..schedule.ir import whole
from ..schedule.placement import loop
from ..simulator import CostModel
from .budget import Budget
from .result import SearchResult
from .schedules import (
    check_iterations,
    check_seconds,
    make_setup,
    result,
)
from .search import Search, Setup
from .space import Space

Boundaries = tuple[int, ...]
#: Orders tried to judge a split.
_GLANCE = 60
#: Splits that get the full search.
_FINAL = 2


def search_splits(
    layer_costs: CostModel,
    num_ranks: int,
    num_microbatches: int,
    memory_limit: float | None = None,
    seconds: float = 10.0,
    *,
    stages_per_rank: int = 1,
    layer_activations: Sequence[float] | None = None,
    objective: str = "makespan",
    seed: int = 0,
    iterations: int | None = None,
    split_backward: bool = True,
    families: Sequence[str] | None = None,
    placements: Sequence[Sequence[int]] | None = None,
    exact: bool = True,
) -> SearchResult:
    """The best split of layers into stages that can be found in ``seconds``, and the
    best schedule for it.

    layer_costs: one row per layer; a stage costs the sum of its layers'. (A message
    size per layer is that of its output.) layer_activations: what a microbatch keeps on
    each layer, in any unit; by default all alike. memory_limit: in one microbatch's
    activations of one rank, which is the whole model's divided by ``num_ranks``.
    Everything else is as for ``search_schedules``.

    The result's ``boundaries`` are those of ``Partition``; its ``lower_bound`` holds
    for every split of the layers, and a note gives the bound of the split chosen.

    Raises ValueError for arguments out of range, and for fewer layers than stages.
    """
    p, v = (
        whole(num_ranks, "num_ranks", 1),
        whole(stages_per_rank, "stages_per_rank", 1),
    )
    layers = _Layers.make(layer_costs, layer_activations, p, v)
    budget = Budget(check_seconds(seconds), check_iterations(iterations))
    base = make_setup(
        layers.stage_costs(layers.even(p)),
        num_ranks=p,
        num_microbatches=num_microbatches,
        memory_limit=memory_limit,
        objective=objective,
        split_backward=split_backward,
        families=families,
        placements=placements,
        exact=exact,
    )
    splits = _Splits(layers, base, Random(whole(seed, "seed", 0)))
    part = budget.share(0.5)
    splits.climb(part)
    budget.give_back(part)
    found = [
        _finish(splits, boundaries, budget.share(1 / (_FINAL - i)), budget, seed)
        for i, boundaries in enumerate(splits.best(_FINAL))
    ]
    best = min(found, key=lambda r: r.value)
    own = (
        f"for the split {list(best.boundaries or ())} alone the lower bound is "
        f"{best.lower_bound:.6g}"
    )
    least = layers.bound(base)
    return replace(
        best,
        lower_bound=min(least, best.lower_bound),
        notes=(*best.notes, own, f"{len(splits.known)} splits were tried"),
        trials=budget.trials,
        seconds=budget.elapsed,
    )


def _finish(
    splits: _Splits, boundaries: Boundaries, part: Budget, whole: Budget, seed: int
) -> SearchResult:
    """The full search on one split."""
    search = Search(splits.setup(boundaries), part, seed)
    search.run()
    whole.give_back(part)
    return replace(result(search), boundaries=boundaries)


@dataclass(frozen=True)
class _Layers:
    """Costs and activations (in units of a rank's) per layer."""

    costs: CostModel
    activations: tuple[float, ...]
    num_stages: int

    @classmethod
    def make(
        cls, costs: Any, activations: Sequence[float] | None, p: int, v: int
    ) -> _Layers:
        if not isinstance(costs, CostModel) or costs.num_stages is None:
            raise ValueError(
                "layer_costs must be a CostModel with a row for every layer, got "
                f"{costs!r}"
            )
        if np.ndim(costs.overlap or 0):
            raise ValueError(
                "overlap is given per pair of layers; give one number for any stages"
            )
        count, stages = len(costs.times), p * v
        if count < stages:
            raise ValueError(
                f"{stages} stages are more than the {count} layers; use fewer ranks or "
                "stages per rank"
            )
        sizes = (
            [1.0] * count if activations is None else [float(a) for a in activations]
        )
        if len(sizes) != count or min(sizes) < 0 or not 0 < sum(sizes) < np.inf:
            raise ValueError(
                f"layer_activations must be {count} numbers of 0 or more, one per layer, "
                f"got {activations!r}"
            )
        return cls(costs, tuple(a * p / sum(sizes) for a in sizes), stages)

    def even(self, num_ranks: int) -> Boundaries:
        """The split whose largest stage is the least possible."""
        work = self.costs.times[:, :3].sum(axis=1)
        if work.ndim > 1:
            work = work.mean(axis=1)
        factor = self.costs.factors(num_ranks)
        home = loop(num_ranks, self.num_stages // num_ranks)
        return split_evenly([(work * factor[rank]).tolist() for rank in home])

    def stage_costs(self, boundaries: Boundaries) -> CostModel:
        starts = list(boundaries[:-1])
        changes: dict[str, Any] = {
            "times": np.add.reduceat(self.costs.times, starts, axis=0)
        }
        if np.ndim(self.costs.message_bytes):
            ends = [b - 1 for b in boundaries[1:]]
            changes["message_bytes"] = np.asarray(self.costs.message_bytes)[ends]
        return replace(self.costs, **changes)

    def stage_activations(self, boundaries: Boundaries) -> tuple[float, ...]:
        return tuple(sum(self.activations[a:b]) for a, b in pairwise(boundaries))

    def bound(self, setup: Setup) -> float:
        """What no split can beat: one microbatch's way; the work shared out evenly,
        after the rank that is j-th to begin has waited for j layers' forwards; the
        largest layer's work."""
        costs, m = self.costs, setup.num_microbatches
        times = costs.times if costs.times.ndim == 2 else costs.times.min(axis=2)
        fastest = float(costs.factors(setup.num_ranks).min())
        forward = times[:, 0] * fastest
        work = times[:, :3].sum(axis=1)
        waits = 0.0
        if setup.objective == "makespan":
            waits = sum(float(forward[:j].sum()) for j in range(setup.num_ranks))
        way = float((times[:, :2].sum(axis=1)).sum() + times[0, 2]) * fastest
        if setup.objective == "span":
            way = 0.0
        speed = setup.num_ranks if costs.speed is None else float(costs.speed.sum())
        if costs.speed is None:
            shared = (m * float(work.sum()) + waits) / setup.num_ranks
        else:
            shared = m * float(work.sum()) / speed
        largest = m * float(work.max()) * fastest
        factor = 1.0
        if costs.overlap is not None:
            most = float(work.sum())
            factor = min(1.0, float(costs.overlap) / most) if most else 1.0
        return max(way, shared, largest) * factor * (1 - 1e-9)


class _Splits:
    """Splits that were judged, by value."""

    def __init__(self, layers: _Layers, base: Setup, random: Random) -> None:
        self.layers, self.base, self.random = layers, base, random
        self.known: dict[Boundaries, float] = {}

    def setup(self, boundaries: Boundaries) -> Setup:
        activations = None
        if self.base.memory_limit is not None:
            activations = self.layers.stage_activations(boundaries)
        return replace(
            self.base,
            costs=self.layers.stage_costs(boundaries),
            activations=activations,
        )

    def value(self, boundaries: Boundaries) -> float:
        """What a short search makes of a split; infinity where memory is too small."""
        if boundaries not in self.known:
            search = Search(self.setup(boundaries), Budget(0.0, _GLANCE), 0)
            try:
                search.open(self.base.parts[0], ("1f1b", "zb_h1"))
            except ValueError:
                self.known[boundaries] = float("inf")
                return float("inf")
            search.each(0.4, Space.build)
            search.each(1.0, Space.anneal)
            self.known[boundaries] = search.value
        return self.known[boundaries]

    def climb(self, budget: Budget) -> None:
        """From the even split, the best neighbour again and again; from another start
        when there is none better."""
        at = self.layers.even(self.base.num_ranks)
        self.value(at)
        while budget.more():
            better = at
            for other in self._neighbours(at):
                if self.value(other) < self.value(better):
                    better = other
                if not budget.more():
                    break
            at = better if better != at else self._jump(at)

    def _neighbours(self, at: Boundaries) -> list[Boundaries]:
        found = []
        for i in range(1, len(at) - 1):
            for step in (-1, 1):
                moved = at[i] + step
                if at[i - 1] < moved < at[i + 1]:
                    found.append((*at[:i], moved, *at[i + 1 :]))
        self.random.shuffle(found)
        return found

    def _jump(self, at: Boundaries) -> Boundaries:
        """Somewhere near the best split."""
        at = self.best(1)[0]
        for _ in range(self.random.randrange(1, 4)):
            near = self._neighbours(at)
            at = self.random.choice(near) if near else at
        return at

    def best(self, count: int) -> list[Boundaries]:
        return sorted(self.known, key=lambda b: (self.known[b], b))[:count]
