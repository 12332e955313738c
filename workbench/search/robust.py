"""Uncertain costs: how a schedule fares over many draws of what its actions cost.

The draws are the cost model's own (``CostModel.draws``): a factor belongs to an action,
so that all schedules meet the same luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..simulator import simulate
from .catalogue import Candidate

RANKINGS = ("nominal", "median", "p90")
#: How many of the best candidates are drawn for.
FEW = 6


def spread(
    ranked: Sequence[Candidate], objective: str, draws: int, jitter: float, seed: int
) -> list[Candidate]:
    """The candidates, the first few that may be taken with median and 90th percentile
    of the objective."""
    found: list[Candidate] = []
    done = 0
    for candidate in ranked:
        schedule, costs = candidate.schedule, candidate.costs
        if candidate.feasible and schedule and costs and done < FEW:
            done += 1
            lucks = replace(costs, jitter=jitter, seed=seed).draws(draws)
            values = [getattr(simulate(schedule, luck), objective) for luck in lucks]
            median, p90 = (float(np.percentile(values, q)) for q in (50, 90))
            candidate = replace(candidate, median=median, p90=p90)
        found.append(candidate)
    return found
