"""Two traces beside one another: ratio, differences, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings

from workbench.trace import Trace, compare
from workbench.trace.report import PARTS

from .conftest import simulated, traces

Build = Callable[..., Trace]


@settings(deadline=None, max_examples=60)
@given(traces())
def test_a_trace_differs_from_itself_in_nothing(trace: Trace) -> None:
    assume(trace.makespan > 0)
    found = compare(trace, trace)
    assert found.makespan_ratio == 1
    rows = found.rows()
    assert [(row["rank"], row["part"]) for row in rows] == [
        (rank, part) for rank in range(trace.num_ranks) for part in PARTS
    ]
    assert all(row["difference"] == 0 for row in rows)


def test_rows_hold_both_values_in_units_and_their_difference(trace_of: Build) -> None:
    first = trace_of([(0, "0F0", 0, 6), (0, "0R0", 6, 10)], tick=0.5)
    second = trace_of([(0, "0F0", 0, 12), (0, "0B0", 14, 16)], tick=0.25)
    found = compare(first, second)
    told = {row["part"]: row for row in found.rows()}
    assert told["compute"] == {
        "rank": 0,
        "part": "compute",
        "first": 3.0,
        "second": 3.5,
        "difference": -0.5,
    }
    assert told["recompute"]["difference"] == 2.0
    assert told["engine_overhead"]["difference"] == -0.5
    assert found.makespan_ratio == 5 / 4


def test_differences_of_a_rank_add_up_to_that_of_the_makespans() -> None:
    a, b = simulated("1f1b", 3, 6, hop=0.5), simulated("gpipe", 3, 6, hop=0.5)
    rows = compare(a, b).rows()
    for rank in range(3):
        total = sum(row["difference"] for row in rows if row["rank"] == rank)
        assert total == pytest.approx(a.makespan - b.makespan)


def test_swapping_the_traces_inverts_ratio_and_differences() -> None:
    a, b = simulated(F=2), simulated(F=1)
    there, back = compare(a, b), compare(b, a)
    assert there.makespan_ratio * back.makespan_ratio == pytest.approx(1)
    for x, y in zip(there.rows(), back.rows(), strict=True):
        assert x["difference"] == -y["difference"]


def test_text_and_html_tell_sources_ratio_and_the_parts_that_are_there(
    trace_of: Build,
) -> None:
    first = trace_of([(0, "0F0", 0, 4)], source="simulated")
    second = trace_of([(0, "0F0", 0, 8)], source="measured")
    found = compare(first, second)
    for text in (str(found), found._repr_html_()):
        assert "simulated" in text
        assert "measured" in text
        assert "ratio 0.5000" in text
        assert "compute" in text
        assert "warmup" not in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metadata": {"num_ranks": 2}}, "1 and 2 ranks"),
        ({"unit": "s"}, "'unit' and 's'.*from_trace"),
    ],
)
def test_traces_of_other_ranks_or_units_are_refused(
    trace_of: Build, change: dict[str, Any], told: str
) -> None:
    events = [(0, "0F0", 0, 4)]
    with pytest.raises(ValueError, match=told):
        compare(trace_of(events), trace_of(events, **change))


def test_an_empty_trace_is_refused(trace_of: Build) -> None:
    full, empty = trace_of([(0, "0F0", 0, 4)]), trace_of([])
    for pair in ((full, empty), (empty, full)):
        with pytest.raises(ValueError, match="empty"):
            compare(*pair)
