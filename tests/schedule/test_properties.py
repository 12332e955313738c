"""What holds of every generator for any number of ranks and microbatches."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.schedule import SCHEDULES, Kind, Schedule, ScheduleError, halves, lower

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 24))
NAMES = st.sampled_from(sorted(SCHEDULES))
MORE = settings(deadline=None, max_examples=60)


def make(name: str, size: tuple[int, int]) -> Schedule:
    """p is the number of stages; 'single' has them all on one rank."""
    p, m = size
    if name == "single":
        return Schedule.make(name, num_ranks=1, num_microbatches=m, num_stages=p)
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def peaks(name: str, size: tuple[int, int]) -> list[int]:
    """In flight by the closed forms of the papers."""
    p, m = size
    if name == "single":
        return [p]
    return [m if name == "gpipe" else min(p - rank, m) for rank in range(p)]


@MORE
@given(NAMES, SIZES, st.sampled_from([1, 2, 5, None]))
def test_check_passes_with_room_for_one_message_and_any_more(
    name: str, size: tuple[int, int], capacity: int | None
) -> None:
    schedule = make(name, size)
    limit = max(peaks(name, size))
    assert schedule.check(channel_capacity=capacity, memory_limit=limit) is schedule


@MORE
@given(NAMES, SIZES)
def test_in_flight_is_the_closed_form(name: str, size: tuple[int, int]) -> None:
    schedule = make(name, size)
    found = [schedule.in_flight(rank) for rank in range(schedule.num_ranks)]
    assert found == peaks(name, size)


@MORE
@given(NAMES, SIZES)
def test_rendezvous_is_enough_unless_neighbours_cross(
    name: str, size: tuple[int, int]
) -> None:
    # Only in 1F1B do two neighbours send to one another at once, and only with at least
    # two of both: rank p - 2 a second forward, rank p - 1 the first gradient.
    p, m = size
    crosses = name == "1f1b" and p > 1 and m > 1
    assert make(name, size).minimum_channel_capacity() == int(crosses)


@MORE
@given(NAMES, SIZES)
def test_texts_and_csv_give_the_schedule_back(name: str, size: tuple[int, int]) -> None:
    schedule = make(name, size)
    texts = [[str(item) for item in row] for row in schedule.ranks]
    assert Schedule(name, texts, schedule.stage_to_rank) == schedule
    assert Schedule.from_csv(schedule.to_csv(), name=name) == schedule


@MORE
@given(NAMES, SIZES)
def test_lowering_adds_messages_and_changes_nothing_else(
    name: str, size: tuple[int, int]
) -> None:
    schedule = make(name, size)
    p, m = size
    found: Counter[Kind] = Counter()
    for program, row in zip(lower(schedule), schedule.ranks, strict=True):
        kinds = [a.kind for step in program.steps for a in halves(step)]
        found.update(kinds)
        compute = [s for s in program.steps if halves(s)[0].kind in (Kind.F, Kind.B)]
        assert tuple(compute) == row
    hops = 0 if name == "single" else m * (p - 1)
    for kind in (Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B):
        assert found[kind] == hops
    assert found[Kind.REDUCE_GRAD] == found[Kind.OPT_STEP] == p


@MORE
@given(NAMES, SIZES, st.data())
def test_taking_one_action_away_breaks_completeness(
    name: str, size: tuple[int, int], data: st.DataObject
) -> None:
    schedule = make(name, size)
    rank = data.draw(st.integers(0, schedule.num_ranks - 1))
    step = data.draw(st.integers(0, len(schedule.ranks[rank]) - 1))
    rows = [list(row) for row in schedule.ranks]
    gone = rows[rank].pop(step)
    short = Schedule(name, rows, schedule.stage_to_rank, num_microbatches=size[1])
    with pytest.raises(ScheduleError, match="completeness") as caught:
        short.check()
    assert caught.value.rank == rank
    assert caught.value.action == halves(gone)[0]._replace(kind=Kind.F)
