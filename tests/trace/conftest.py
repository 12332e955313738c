"""Traces for the tests of this room: by hand, at random, simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from workbench.schedule import KIND_CODE, Action, Kind, Schedule
from workbench.simulator import CostModel, simulate
from workbench.trace import COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace

COMMUNICATION = (Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B)
#: rank, action as text, start, end; step and lane where they are not the usual ones.
Event = Sequence[Any]


def build(events: Sequence[Event], **fields: Any) -> Trace:
    """A trace of events written as (rank, "0F1", start, end[, step[, lane]])."""
    rows = []
    for rank, text, start, end, *more in events:
        action = Action.parse(text)
        usual = COMPUTE_LANE
        if action.kind in COMMUNICATION:
            usual = WAIT_LANE
        elif action.kind in (Kind.REDUCE_GRAD, Kind.OPT_STEP):
            usual = OPTIMIZER_LANE
        step, lane = [*more, *(0, usual)[len(more) :]]
        what = (action.stage, KIND_CODE[action.kind], action.microbatch, action.slice)
        rows.append((rank, *what, step, start, end, lane, 0, 0))
    columns = np.array(rows, np.int64).reshape(-1, 11).T
    return Trace(*columns, **{"tick": 1.0, "unit": "unit", **fields})


@pytest.fixture(scope="session")
def trace_of() -> Callable[..., Trace]:
    return build


def simulated(name: str = "1f1b", p: int = 3, m: int = 4, **costs: Any) -> Trace:
    schedule = Schedule.make(name, num_ranks=p, num_microbatches=m)
    return simulate(schedule, CostModel.uniform(**costs))


@pytest.fixture(scope="session")
def simulated_trace() -> Callable[..., Trace]:
    return simulated


TEXTS = (
    *("0F0", "1F1", "0B0", "1I2", "0W1", "1R0", "0REDUCE_GRAD", "0OPT_STEP"),
    *("0SEND_F0", "1RECV_F0", "1SEND_B1", "0RECV_B1"),
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any events on up to four ranks, in time on each rank, with and without gaps, and
    sometimes overlapping as measured ones may."""
    events: list[Event] = []
    ranks = draw(st.integers(1, 4))
    for rank in range(ranks):
        clock = draw(st.integers(0, 20))
        for _ in range(draw(st.integers(0, 7))):
            start = max(0, clock + draw(st.integers(-1, 4)))
            end = start + draw(st.integers(0, 9))
            text = draw(st.sampled_from(TEXTS))
            lane = WAIT_LANE if "SEND" in text or "RECV" in text else COMPUTE_LANE
            if "OPT" in text or "REDUCE" in text:
                lane = draw(st.sampled_from([WAIT_LANE, OPTIMIZER_LANE]))
            events.append((rank, text, start, end, draw(st.integers(0, 2)), lane))
            clock = end
    return build(events, metadata={"num_ranks": ranks})


@st.composite
def simulated_traces(draw: st.DrawFn) -> Trace:
    name = draw(st.sampled_from(["gpipe", "1f1b"]))
    p, m = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    cost = st.lists(st.integers(0, 9), min_size=p, max_size=p)
    schedule = Schedule.make(name, num_ranks=p, num_microbatches=m)
    costs = CostModel.uniform(
        F=draw(cost),
        I=draw(cost),
        W=draw(cost),
        hop=draw(st.integers(0, 5)),
        reduce=draw(st.integers(0, 2)),
        optimizer=draw(st.integers(0, 2)),
    )
    return simulate(
        schedule, costs, channel_capacity=draw(st.sampled_from([None, 1, 3]))
    )
