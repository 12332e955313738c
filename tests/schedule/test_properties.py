"""What holds of every generator for any number of ranks and microbatches."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import COMPUTE, Kind, Schedule, ScheduleError, halves, lower

from .shapes import NAMES, Shape, shapes

EVERY = [
    *(Shape("single", 1, m, {"num_stages": p}) for p in (1, 3) for m in (1, 4)),
    *(s for name in NAMES for s in shapes(name) if s.p <= 5 and s.m <= 12),
]
SHAPES = st.sampled_from(EVERY)
FAMILIAR = st.builds(
    Shape,
    st.sampled_from(["gpipe", "1f1b"]),
    st.integers(1, 12),
    st.integers(1, 24),
    st.just({}),
)
MORE = settings(deadline=None, max_examples=60)


def peaks(shape: Shape) -> list[int]:
    """In flight by the closed forms of the papers."""
    name, p, m, _ = shape
    return [m if name == "gpipe" else min(p - rank, m) for rank in range(p)]


@MORE
@given(FAMILIAR, st.sampled_from([1, 2, 5, None]))
def test_check_passes_with_room_for_one_message_and_any_more(
    shape: Shape, capacity: int | None
) -> None:
    schedule = shape.make()
    limit = max(peaks(shape))
    assert schedule.check(channel_capacity=capacity, memory_limit=limit) is schedule
    found = [schedule.in_flight(rank) for rank in range(schedule.num_ranks)]
    assert found == peaks(shape)


@MORE
@given(FAMILIAR)
def test_rendezvous_is_enough_unless_neighbours_cross(shape: Shape) -> None:
    # Only in 1F1B do two neighbours send to one another at once, and only with at least
    # two of both: rank p - 2 a second forward, rank p - 1 the first gradient.
    crosses = shape.name == "1f1b" and shape.p > 1 and shape.m > 1
    assert shape.make().minimum_channel_capacity() == int(crosses)


@MORE
@given(SHAPES)
def test_lowering_adds_messages_and_changes_nothing_else(shape: Shape) -> None:
    schedule = shape.make()
    found: Counter[Kind] = Counter()
    for program, row in zip(lower(schedule), schedule.ranks, strict=True):
        found.update(a.kind for step in program.steps for a in halves(step))
        compute = [step for step in program.steps if halves(step)[0].kind in COMPUTE]
        assert tuple(compute) == row
    home = schedule.stage_to_rank
    hops = schedule.num_slices * sum(
        home[one] != home[other]
        for microbatch in range(shape.m)
        for one, other in pairwise(schedule.chain(microbatch))
    )
    for kind in (Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B):
        assert found[kind] == hops
    assert found[Kind.REDUCE_GRAD] == found[Kind.OPT_STEP] == schedule.num_stages


@MORE
@given(SHAPES, st.data())
def test_taking_one_action_away_breaks_completeness(
    shape: Shape, data: st.DataObject
) -> None:
    schedule = shape.make()
    rank = data.draw(st.integers(0, schedule.num_ranks - 1))
    step = data.draw(st.integers(0, len(schedule.ranks[rank]) - 1))
    rows = [list(row) for row in schedule.ranks]
    gone = rows[rank].pop(step)
    short = Schedule(
        "short",
        rows,
        schedule.stage_to_rank,
        num_stages=schedule.num_stages,
        num_microbatches=schedule.num_microbatches,
        num_slices=schedule.num_slices,
        copy_of=schedule.copy_of,
        route=schedule.route,
    )
    lost = [action for action in halves(gone) if action.kind is not Kind.R]
    if not lost:  # what is not made again has only to be kept
        short.check()
        return
    with pytest.raises(ScheduleError, match="completeness") as caught:
        short.check()
    assert caught.value.rank == rank
    told = caught.value.action
    assert told is not None
    assert any((told.stage, told.microbatch) == (a.stage, a.microbatch) for a in lost)
