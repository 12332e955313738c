"""zb_auto on stages that differ: its rows run whatever the costs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb

TIMES = st.sampled_from([0.0, 0.01, 0.3, 1.0, 1.7, 3.0, 20.0])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_unequal_stages_never_lock_each_other_out(data: st.DataObject) -> None:
    p = data.draw(st.integers(1, 7), "p")
    rows: dict[str, Any] = {
        kind: data.draw(st.lists(TIMES, min_size=p, max_size=p), kind) for kind in "FIW"
    }
    costs = wb.CostModel.uniform(**rows, hop=data.draw(TIMES, "hop"))
    limit = data.draw(st.sampled_from([None, 1, 2, p, 2 * p]), "limit")
    made = wb.Schedule.make(
        "zb_auto",
        num_ranks=p,
        num_microbatches=data.draw(st.integers(1, 12), "m"),
        cost_model=costs,
        memory_limit=limit,
    )
    made.check(memory_limit=limit or p)


@pytest.mark.parametrize("name", ["zb_auto", "zb_v_greedy"])
def test_costs_that_do_not_fit_are_named(name: str) -> None:
    for bad in (True, 2, "F=1", [1]):
        with pytest.raises(ValueError, match="must be a CostModel"):
            wb.Schedule.make(name, num_ranks=2, num_microbatches=4, cost_model=bad)
    three = wb.CostModel.uniform(F=[1, 1, 1])
    with pytest.raises(ValueError, match="costs of 3 stages, but the schedule has"):
        wb.Schedule.make(name, num_ranks=2, num_microbatches=4, cost_model=three)


@pytest.mark.parametrize("name", ["zb_auto", "zb_v_greedy"])
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    sizes = dict(num_ranks=np.int32(2), num_microbatches=np.int64(4))
    limit = wb.Schedule.make(name, **sizes, memory_limit=np.int64(2))
    assert limit == wb.Schedule.make(name, **sizes, memory_limit=2)
    costs = wb.CostModel.uniform(F=1)
    options = dict(families=["1f1b"], iterations=1, stages_per_rank=np.int64(1))
    found = wb.search_schedules(
        costs, **sizes, **options, memory_limit=np.float32(2), seconds=np.int64(1)
    )
    assert found.peak_memory <= 2
