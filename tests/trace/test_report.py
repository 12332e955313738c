"""Bubble reports: every tick is counted once, for a cause that can be told by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import Kind
from workbench.trace import COMPUTE_LANE, OPTIMIZER_LANE, BubbleReport, Trace
from workbench.trace.report import IDLE, PARTS, busy_window

from .conftest import simulated_traces, traces

ANY = st.one_of(traces(), simulated_traces())
Build = Callable[..., Trace]


def ticks(trace: Trace) -> int:
    return int(trace.end.max() - trace.start.min()) if len(trace) else 0


@settings(deadline=None, max_examples=200)
@given(ANY)
def test_the_parts_of_every_rank_add_up_to_the_makespan_exactly(trace: Trace) -> None:
    report = trace.bubbles()
    assert len(report.ranks) == trace.num_ranks
    for row in report.ranks:
        assert tuple(row) == PARTS
        assert all(type(value) is int and value >= 0 for value in row.values())
        assert sum(row.values()) == ticks(trace)
    assert report.busy + report.idle == trace.num_ranks * ticks(trace)


@settings(deadline=None, max_examples=100)
@given(simulated_traces())
def test_busy_time_of_a_simulation_is_the_length_of_its_work(trace: Trace) -> None:
    work = (trace.lane == COMPUTE_LANE) | (trace.lane == OPTIMIZER_LANE)
    lengths = trace.end - trace.start
    report = trace.bubbles()
    for rank, row in enumerate(report.ranks):
        total = int(lengths[work & (trace.rank == rank)].sum())
        assert row["compute"] + row["recompute"] == total
    assert sum(row["engine_overhead"] for row in report.ranks) == 0


@settings(deadline=None, max_examples=100)
@given(ANY, st.integers(-(10**9), 10**12))
def test_a_shift_in_time_changes_nothing(trace: Trace, shift: int) -> None:
    later = replace(trace, start=trace.start + shift, end=trace.end + shift)
    assert later.bubbles() == trace.bubbles()


@settings(deadline=None, max_examples=100)
@given(ANY, st.randoms(use_true_random=False))
def test_relabelled_ranks_are_relabelled_in_the_report(
    trace: Trace, rng: random.Random
) -> None:
    names = list(range(trace.num_ranks))
    rng.shuffle(names)
    told = {**trace.metadata, "num_ranks": trace.num_ranks}
    moved = replace(trace, rank=np.array(names)[trace.rank], metadata=told)
    before, after = trace.bubbles(), moved.bubbles()
    assert (after.makespan, after.span) == (before.makespan, before.span)
    for old, new in enumerate(names):
        assert after.ranks[new] == before.ranks[old]


@settings(deadline=None, max_examples=60)
@given(ANY, st.randoms(use_true_random=False))
def test_ranks_may_be_interleaved_in_the_columns(
    trace: Trace, rng: random.Random
) -> None:
    # Rows of different ranks change places; those of one rank keep their order.
    labels = trace.rank.tolist()
    rng.shuffle(labels)
    rows = {r: iter(np.flatnonzero(trace.rank == r).tolist()) for r in set(labels)}
    order = np.array([next(rows[r]) for r in labels], dtype=np.intp)
    assert trace.select(order).bubbles() == trace.bubbles()


def parts(report: BubbleReport, rank: int) -> dict[str, int]:
    """The parts of a rank that are not zero."""
    return {part: value for part, value in report.ranks[rank].items() if value}


def test_idle_time_of_a_hand_made_pipeline_has_its_causes(trace_of: Build) -> None:
    trace = trace_of(
        [
            (0, "0F0", 0, 4),
            (0, "0RECV_B0", 4, 15),  # sent at 13: 9 ticks of warm-up, 2 under way
            (0, "0B0", 15, 20),
            (1, "1RECV_F0", 0, 6),  # sent at 4: 4 ticks of warm-up, 2 under way
            (1, "1F0", 6, 9),
            (1, "1B0", 9, 13),
            (1, "1SEND_B0", 13, 13),
            (0, "0SEND_F0", 4, 4),
        ]
    )
    report = trace.bubbles()
    assert parts(report, 0) == {
        "compute": 9,
        "warmup": 9,
        "exposed_communication": 2,
    }
    assert parts(report, 1) == {
        "compute": 7,
        "warmup": 4,
        "exposed_communication": 2,
        "cooldown": 7,
    }
    assert report.bubble_fraction == 24 / 40
    assert report.bubble_ratio == 24 / 16
    assert (report.makespan, report.span) == (20, 20)
    assert report.share("warmup") == 13 / 40
    assert report.share("warmup", 1) == 4 / 20


@pytest.mark.parametrize(
    ("events", "fraction"),
    [
        ([(0, "0F0", 0, 10)], 0.0),
        ([(0, "0F0", 0, 4), (0, "0B0", 6, 10)], 0.2),
        ([(0, "0F0", 0, 10), (1, "1F0", 0, 5)], 0.25),
        ([(0, "0F0", 5, 10), (1, "1F0", 10, 15)], 0.5),
        ([(0, "0SEND_F0", 0, 7)], 1.0),
        ([(0, "0R0", 0, 3), (0, "0B0", 3, 6), (1, "1OPT_STEP", 0, 3)], 0.25),
    ],
)
def test_the_bubble_fraction_of_hand_made_traces(
    trace_of: Build, events: list[tuple[object, ...]], fraction: float
) -> None:
    report = trace_of(events).bubbles()
    assert report.bubble_fraction == pytest.approx(fraction)
    ratio = fraction / (1 - fraction) if fraction < 1 else math.inf
    assert report.bubble_ratio == pytest.approx(ratio)


def test_waits_between_first_backward_and_last_forward_are_steady(
    trace_of: Build,
) -> None:
    trace = trace_of(
        [
            (0, "0F0", 0, 2),
            (0, "0RECV_B0", 2, 5),  # before the first backward: warm-up
            (0, "0B0", 5, 6),
            (0, "0RECV_B1", 6, 10),  # the last forward is to come: steady
            (0, "0F1", 10, 11),
            (0, "0RECV_B1", 11, 16),  # nothing but backwards left: cool-down
            (0, "0B1", 16, 17),
        ]
    )
    assert parts(trace.bubbles(), 0) == {
        "compute": 5,
        "warmup": 3,
        "steady": 4,
        "cooldown": 5,
    }


def test_gaps_sends_and_barriers_have_parts_of_their_own(trace_of: Build) -> None:
    trace = trace_of(
        [
            (0, "0F0", 0, 2),
            (0, "0SEND_F0", 2, 5),  # no room
            (0, "0R0", 6, 8),  # a tick of nothing before it
            (0, "0B0", 8, 9),
            (0, "0OPT_STEP", 9, 13, 0, 1),  # waits for all ranks
            (0, "0OPT_STEP", 13, 14),
            (1, "1OPT_STEP", 13, 18),
        ]
    )
    report = trace.bubbles()
    assert parts(report, 0) == {
        "compute": 4,
        "recompute": 2,
        "exposed_communication": 3,
        "engine_overhead": 1,
        "synchronisation": 4 + 4,
    }


def test_overlapping_events_give_the_instant_to_the_earlier(trace_of: Build) -> None:
    trace = trace_of([(0, "0F0", 0, 5), (0, "0R0", 3, 7), (0, "0B0", 4, 6)])
    assert parts(trace.bubbles(), 0) == {"compute": 5, "recompute": 2}


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(2, 1), (3, 4), (4, 8)])
def test_communication_is_exposed_with_hops_and_not_without(
    simulated_trace: Build, name: str, p: int, m: int
) -> None:
    part = "exposed_communication"
    near = simulated_trace(name, p, m, hop=0).bubbles()
    far = simulated_trace(name, p, m, hop=0.25).bubbles()
    assert all(row[part] == 0 for row in near.ranks)
    assert all(row[part] > 0 for row in far.ranks)


def test_one_hop_down_and_one_up_are_what_one_microbatch_exposes(
    simulated_trace: Build,
) -> None:
    trace = simulated_trace("gpipe", 3, 1, F=4, I=2, W=2, hop=1)
    shown = [row["exposed_communication"] * trace.tick for row in trace.bubbles().ranks]
    # Rank 1 receives once down and once up; the ends only once.
    assert shown == pytest.approx([1, 2, 1])


def test_a_schedule_without_latency_splits_its_bubble_in_the_two_ramps(
    simulated_trace: Build,
) -> None:
    trace = simulated_trace("gpipe", 3, 4, F=1, I=1, W=1)
    for rank, row in enumerate(trace.bubbles().ranks):
        # Until its first backward a rank waits for its first input (F per rank before
        # it) and for the ranks behind it (F and B each); then, at the end, for those
        # before it (B each).
        assert row["warmup"] * trace.tick == pytest.approx(rank * 1 + (2 - rank) * 3)
        assert row["cooldown"] * trace.tick == pytest.approx(rank * 2)
        assert row["steady"] == 0


@pytest.mark.parametrize("repeats", [2, 5])
def test_a_trace_of_many_steps_has_each_steps_parts(
    simulated_trace: Build, repeats: int
) -> None:
    one = simulated_trace("1f1b", 3, 4, hop=0.5, optimizer=0.25)
    long = ticks(one)
    many = Trace.concat(
        [
            replace(
                one,
                start=one.start + k * long,
                end=one.end + k * long,
                step=one.step + k,
            )
            for k in range(repeats)
        ]
    )
    assert many.steps == tuple(range(repeats))
    single, report = one.bubbles(), many.bubbles()
    for row, wanted in zip(report.ranks, single.ranks, strict=True):
        assert row == {part: repeats * value for part, value in wanted.items()}
    assert report.bubble_fraction == pytest.approx(single.bubble_fraction)
    assert many.step_range(1, 2).bubbles().ranks == single.ranks


def test_messages_of_one_name_in_two_steps_are_told_apart(trace_of: Build) -> None:
    step = [(0, "0SEND_F0", 1, 1), (1, "1RECV_F0", 0, 3), (1, "1F0", 3, 4)]
    both = step + [(r, a, s + 10, e + 10, 1) for r, a, s, e in step]
    report = trace_of(both).bubbles()
    assert report.ranks[1]["exposed_communication"] == 2 + 2


def test_a_receive_without_its_send_is_no_communication(trace_of: Build) -> None:
    report = trace_of([(1, "1RECV_F0", 0, 3), (1, "1F0", 3, 4)]).bubbles()
    assert report.ranks[1]["exposed_communication"] == 0
    assert report.ranks[1]["warmup"] + report.ranks[1]["cooldown"] == 3


def test_an_empty_trace_has_an_empty_report(trace_of: Build) -> None:
    for trace, ranks in (
        (trace_of([]), 0),
        (trace_of([], metadata={"num_ranks": 3}), 3),
    ):
        report = trace.bubbles()
        assert len(report.ranks) == ranks
        assert (report.makespan, report.span, report.busy, report.idle) == (0, 0, 0, 0)
        assert (report.bubble_fraction, report.bubble_ratio) == (0, 0)
        assert report.share("compute") == 0
        assert str(report)
        assert report._repr_html_()


def test_a_rank_without_events_cools_down_all_the_time(trace_of: Build) -> None:
    trace = trace_of([(0, "0F0", 0, 8)], metadata={"num_ranks": 2})
    assert parts(trace.bubbles(), 1) == {"cooldown": 8}


def test_rows_are_in_the_traces_unit(simulated_trace: Build) -> None:
    trace = simulated_trace("gpipe", 2, 3, F=1, I=1, W=1)
    rows = trace.bubbles().rows()
    assert [row["rank"] for row in rows] == [0, 1]
    for row in rows:
        assert row["compute"] == pytest.approx(3 * 3)
        assert sum(row[part] for part in PARTS) == pytest.approx(trace.makespan)


def test_shares_of_all_parts_are_the_whole(simulated_trace: Build) -> None:
    report = simulated_trace(hop=0.5).bubbles()
    for rank in (None, 0, 1, 2):
        assert sum(report.share(part, rank) for part in PARTS) == pytest.approx(1)
    idle = sum(report.share(part) for part in IDLE)
    assert idle == pytest.approx(report.bubble_fraction)


def test_text_and_html_name_source_and_parts(simulated_trace: Build) -> None:
    report = simulated_trace().bubbles()
    for text in (str(report), report._repr_html_()):
        assert "simulated" in text
        assert all(part.replace("_", " ") in text for part in PARTS)
        assert f"{report.bubble_fraction:.4f}" in text


def test_the_busy_window_leaves_waits_out(trace_of: Build) -> None:
    trace = trace_of([(0, "0RECV_B0", 0, 3), (0, "0F0", 3, 5), (1, "1SEND_B0", 0, 9)])
    first, last = busy_window(trace)
    assert (first.tolist(), last.tolist()) == ([3], [5])
    assert trace.span == 2
    assert not trace.of_kind(Kind.B).any()
