"""The exact stage against every order, and the search without its library."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import workbench as wb

from .orders import every_order


def search(costs: wb.CostModel, **options: Any) -> wb.SearchResult:
    return wb.search_schedules(costs, **(dict(num_ranks=2, iterations=3000) | options))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("placement", "m", "split"),
    [((0, 1), 2, True), ((0, 1), 3, False), ((0, 1, 1, 0), 2, False)],
    ids=str,
)
def test_proven_values_are_the_best_of_every_order(
    placement: tuple[int, ...], m: int, split: bool, seed: int
) -> None:
    pytest.importorskip("ortools", reason="the search extra is not installed")
    times = np.random.default_rng(seed).uniform(0.5, 2, (3, len(placement))).round(1)
    costs = wb.CostModel.uniform(F=times[0], I=times[1], W=times[2], hop=0.3)
    limit = (None, 1, 1.5, 2)[seed]
    best = min(o.makespan for o in every_order(placement, m, costs, split, limit))
    found = search(
        costs,
        num_microbatches=m,
        memory_limit=limit,
        split_backward=split,
        placements=[placement],
        families=["gpipe"],
    )
    assert found.makespan == pytest.approx(best)
    assert found.lower_bound == pytest.approx(best)
    assert found.gap == pytest.approx(0, abs=1e-8)


def test_the_solver_never_proves_more_than_was_found() -> None:
    pytest.importorskip("ortools", reason="the search extra is not installed")
    for seed in range(4):
        times = np.random.default_rng(seed).uniform(0.5, 2, (3, 4)).round(1)
        costs = wb.CostModel.uniform(F=times[0], I=times[1], W=times[2], hop=0.2)
        options = dict(num_ranks=4, num_microbatches=5, memory_limit=3)
        bare = search(costs, **options, exact=False)
        found = search(costs, **options)
        assert found.lower_bound <= found.makespan
        assert found.lower_bound <= bare.makespan
        assert found.lower_bound >= bare.lower_bound


def test_without_the_library_the_result_says_so(monkeypatch: Any) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "ortools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ortools", None)
    # Memory is so short here that paths alone prove nothing.
    times = np.random.default_rng(2).uniform(0.5, 1.5, (3, 4)).round(2)
    costs = wb.CostModel.uniform(F=times[0], I=times[1], W=times[2], hop=0.1)
    found = search(
        costs, num_ranks=4, num_microbatches=8, memory_limit=3, iterations=50
    )
    assert any("OR-Tools is not installed" in note for note in found.notes)
    assert found.lower_bound <= found.makespan
