"""zb_auto on stages that differ: its rows run whatever the costs are."""

from __future__ import annotations

from typing import Any

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
