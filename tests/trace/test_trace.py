"""Traces as columns: what they refuse, and what can be selected and put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from workbench.schedule import Action, Kind
from workbench.trace import COLUMNS, Trace

from .conftest import TEXTS, traces

Build = Callable[..., Trace]


@pytest.fixture
def small(trace_of: Build) -> Trace:
    return trace_of(
        [
            (0, "0F0", 0, 3),
            (0, "0SEND_F0", 3, 4),
            (1, "1RECV_F0", 0, 4),
            (1, "1F0", 4, 9, 1),
            (1, "1B0", 9, 11, 1),
        ],
        tick=0.5,
    )


def columns(trace: Trace) -> dict[str, list[int]]:
    return {name: getattr(trace, name).tolist() for name in COLUMNS}


def test_columns_are_read_only_integers_of_their_own(small: Trace) -> None:
    source = np.arange(len(small), dtype=np.int32)
    trace = Trace(**{**{n: getattr(small, n) for n in COLUMNS}, "bytes": source})
    source[0] = 99
    assert trace.bytes.tolist() == [0, 1, 2, 3, 4]
    for name in COLUMNS:
        column = getattr(trace, name)
        assert column.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_another_length_is_refused(small: Trace, name: str) -> None:
    given_: dict[str, Any] = {n: getattr(small, n) for n in COLUMNS}
    given_[name] = given_[name][:-1]
    with pytest.raises(ValueError, match="one length"):
        Trace(**given_)


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_columns_that_are_no_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one length"):
        Trace(*(np.zeros(shape, np.int64) for _ in COLUMNS))


def test_an_unknown_source_is_refused(trace_of: Build) -> None:
    with pytest.raises(ValueError, match=r"simulated, measured.*'guessed'"):
        trace_of([(0, "0F0", 0, 1)], source="guessed")


def test_an_event_that_ends_before_it_starts_is_named(trace_of: Build) -> None:
    with pytest.raises(ValueError, match="event 1 ends before it starts"):
        trace_of([(0, "0F0", 0, 1), (0, "0F1", 5, 4), (0, "0F2", 9, 8)])


def test_times_are_counted_in_the_unit(small: Trace) -> None:
    assert small.makespan == 11 * 0.5
    assert small.span == 7 * 0.5
    assert small.durations(Kind.F, 1).tolist() == [2.5]
    assert small.durations(Kind.SEND_F, 0).tolist() == []


def test_ranks_are_those_with_events_or_those_told(trace_of: Build) -> None:
    events = [(2, "0F0", 0, 1)]
    assert trace_of(events).num_ranks == 3
    assert trace_of(events, metadata={"num_ranks": 7}).num_ranks == 7
    assert trace_of([]).num_ranks == 0


def test_an_empty_trace_has_no_extent(trace_of: Build) -> None:
    trace = trace_of([])
    assert (len(trace), trace.makespan, trace.span, trace.steps) == (0, 0.0, 0.0, ())
    assert list(trace.actions()) == []
    assert "0 events" in repr(trace)


@settings(deadline=None, max_examples=60)
@given(traces())
def test_a_mask_and_its_opposite_share_the_events_out(trace: Trace) -> None:
    mask = trace.of_kind(Kind.F, Kind.RECV_B)
    chosen, rest = trace.select(mask), trace.select(~mask)
    assert {a.kind for a in chosen.actions()} <= {Kind.F, Kind.RECV_B}
    assert not {a.kind for a in rest.actions()} & {Kind.F, Kind.RECV_B}
    both = Trace.concat([chosen, rest])
    order = np.argsort(np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)]))
    assert columns(both.select(order)) == columns(trace)


@settings(deadline=None, max_examples=60)
@given(traces())
def test_steps_and_their_ranges_are_told_apart(trace: Trace) -> None:
    assert list(trace.steps) == sorted(set(trace.step.tolist()))
    for low, high in ((0, 1), (1, 3), (2, 2)):
        found = trace.step_range(low, high)
        assert set(found.steps) == {s for s in trace.steps if low <= s < high}
    assert columns(trace.step_range(0, 3)) == columns(trace)


def test_actions_are_those_put_in(trace_of: Build) -> None:
    texts = [*TEXTS, "3F7.2"]
    trace = trace_of([(0, text, 0, 1) for text in texts])
    assert [str(action) for action in trace.actions()] == texts
    assert list(trace.actions())[-1] == Action(3, Kind.F, 7, 2)


def test_concat_keeps_the_order_and_the_clock(small: Trace) -> None:
    both = Trace.concat([small, small])
    assert columns(both) == {n: 2 * v for n, v in columns(small).items()}
    assert (both.tick, both.unit, both.source) == (0.5, "unit", "measured")


@pytest.mark.parametrize(
    "change", [{"tick": 2.0}, {"unit": "s"}, {"source": "imported"}]
)
def test_traces_of_different_clocks_are_not_put_together(
    trace_of: Build, change: dict[str, Any]
) -> None:
    events = [(0, "0F0", 0, 1)]
    with pytest.raises(ValueError, match="different clocks"):
        Trace.concat([trace_of(events), trace_of(events, **change)])


def test_nothing_cannot_be_put_together() -> None:
    with pytest.raises(ValueError, match="no traces"):
        Trace.concat([])


def test_a_trace_is_made_of_a_structured_array(small: Trace) -> None:
    fields = [(name, np.int64) for name in COLUMNS]
    events = np.zeros(len(small), dtype=fields)
    for name in COLUMNS:
        events[name] = getattr(small, name)
    trace = Trace.from_events(events, metadata={"schedule": "x"})
    assert columns(trace) == columns(small)
    assert (trace.source, trace.unit, trace.tick) == ("measured", "s", 1e-9)
    assert trace.metadata == {"schedule": "x"}


def test_the_repr_tells_source_sizes_and_makespan(small: Trace) -> None:
    assert (
        repr(small) == "Trace(measured, 5 events, 2 ranks, 2 steps, makespan 5.5 unit)"
    )
