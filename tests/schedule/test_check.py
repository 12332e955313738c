"""Each rule of check, broken on purpose: what is said, where, and drawn how."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.schedule import Action, Kind, Schedule, ScheduleError

MARK = "<-- ERROR HERE"


def gpipe(p: int = 2, m: int = 2) -> Schedule:
    return Schedule.make("gpipe", num_ranks=p, num_microbatches=m)


def one_f_one_b(p: int, m: int) -> Schedule:
    return Schedule.make("1f1b", num_ranks=p, num_microbatches=m)


def rows(
    *texts: str,
    stage_to_rank: Iterable[int] | None = None,
    num_microbatches: int = 2,
    num_slices: int = 1,
) -> Schedule:
    """A schedule of two microbatches from rows of texts, stage r on rank r."""
    placed = range(len(texts)) if stage_to_rank is None else stage_to_rank
    table = [text.split() for text in texts]
    return Schedule(
        "broken",
        table,
        placed,
        num_microbatches=num_microbatches,
        num_slices=num_slices,
    )


ONE_SLICED: dict[str, Any] = {
    "stage_to_rank": (0,),
    "num_slices": 2,
    "num_microbatches": 1,
}
GOOD = "1F0 1F1 1B0 1B1"
BROKEN: dict[str, tuple[Schedule, str, tuple[int, int | None, str] | None]] = {
    "no forward": (rows("0F0 0B0 0B1", GOOD), "completeness", (0, None, "0F1")),
    "nothing": (rows("", ""), "completeness", (0, None, "0F0")),
    "no stages": (rows("", "", stage_to_rank=()), "completeness", None),
    "no backward": (rows("0F0 0F1 0B0", GOOD), "completeness", (0, 1, "0F1")),
    "no weight gradient": (
        rows("0F0 0F1 0I0 0B1", GOOD),
        "completeness",
        (0, 0, "0F0"),
    ),
    "full and split backward": (
        rows("0F0 0F1 0B0 0I0 0W0 0B1", GOOD),
        "completeness",
        (0, 0, "0F0"),
    ),
    "same action twice": (
        rows("0F0 0F1 0F0 0B0 0B1", GOOD),
        "uniqueness",
        (0, 2, "0F0"),
    ),
    "twice on two ranks": (
        rows("0F0 0F1 0B0 0B1", "1F0 0F0 1F1 1B0 1B1"),
        "placement",
        (1, 1, "0F0"),
    ),
    "no such stage": (rows("0F0 2F0", GOOD), "placement", (0, 1, "2F0")),
    "no such microbatch": (rows("0F0 0F2", GOOD), "placement", (0, 1, "0F2")),
    "no such slice": (rows("0F0.1", GOOD), "placement", (0, 0, "0F0.1")),
    "communication": (rows("0F0 0SEND_F0", GOOD), "placement", (0, 1, "0SEND_F0")),
    "no such rank": (rows("0F0", GOOD, stage_to_rank=(0, 2)), "placement", None),
    "backward first": (
        rows("0F0 0B1 0F1 0B0", GOOD),
        "happens-before",
        (0, 1, "0B1"),
    ),
    "weight gradient first": (
        rows("0F0 0F1 0W0 0I0 0B1", GOOD),
        "happens-before",
        (0, 2, "0W0"),
    ),
    "beside what it needs": (
        rows("(0F0;0B0)OVERLAP_F_B 0F1 0B1", GOOD),
        "happens-before",
        (0, 0, "0B0"),
    ),
    "later slice forward first": (
        rows("0F0.1 0F0 0B0.1 0B0", "", **ONE_SLICED),
        "happens-before",
        (0, 0, "0F0.1"),
    ),
    "earlier slice backward first": (
        rows("0F0 0F0.1 0B0 0B0.1", "", **ONE_SLICED),
        "happens-before",
        (0, 2, "0B0"),
    ),
    "another order": (
        rows("0F0 0F1 0B0 0B1", "1F1 1F0 1B0 1B1"),
        "matched communication",
        (1, 0, "1F1"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_named_placed_and_drawn(name: str) -> None:
    schedule, rule, place = BROKEN[name]
    with pytest.raises(ScheduleError) as caught:
        schedule.check()
    error, text = caught.value, str(caught.value)
    assert error.rule == rule
    assert text.startswith(f"broken: {rule}: ")
    grid = text.split("\n\n")[-1]
    assert sum(line.startswith("rank ") for line in grid.splitlines()) == 2
    if place is None:
        assert (error.rank, error.step, error.action) == (None, None, None)
        assert MARK not in text
        return
    rank, step, action = place
    assert (error.rank, error.step) == (rank, step)
    if rule != "matched communication":
        assert str(error.action) == action
        at = f"rank {rank}, " if step is None else f"rank {rank}, step {step}, "
        assert f"{at}{action}: " in text
    marked = [line for line in grid.splitlines() if MARK in line]
    assert len(marked) == 1
    assert marked[0].startswith(f"rank {rank} ")
    if step is None:
        assert grid.count("*") == 0
        return
    assert f"{action}*" in marked[0]
    assert grid.count("*") == 1


def test_a_repeated_action_names_its_first_place() -> None:
    with pytest.raises(ScheduleError, match="it stands at rank 0, step 0 already"):
        BROKEN["same action twice"][0].check()


def test_a_missing_forward_is_named() -> None:
    with pytest.raises(ScheduleError, match="rank 0, 0F1: it is missing"):
        BROKEN["no forward"][0].check()


def test_a_split_backward_is_as_good_as_a_full_one() -> None:
    rows("0F0 0F1 0I0 0I1 0W1 0W0", "1F0 1F1 1I0 1W0 1B1").check(channel_capacity=1)


def test_a_schedule_without_stages_is_misplaced() -> None:
    with pytest.raises(ScheduleError, match="there is no stage 0"):
        Schedule("empty", [["0F0"]], ()).check()


def test_a_deadlock_is_told_as_a_circle_of_waits() -> None:
    # Rank 0 wants 1B0 before it forwards 1; rank 1 wants 0F1 before it starts on 1B0.
    schedule = rows("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1")
    with pytest.raises(ScheduleError) as caught:
        schedule.check()
    text = str(caught.value)
    assert caught.value.rule == "no deadlock"
    assert "deadlock with channels without limit" in text
    assert "for rank 1's 1SEND_B0" in text
    assert "for rank 0's 0SEND_F1" in text
    assert "rank 0 waits at step 2 (0RECV_B0)" in text
    assert "rank 1 waits at step 2 (1RECV_F1)" in text
    assert "they wait in a circle" in text
    assert text.count(MARK) == 1


@pytest.mark.parametrize("capacity", [0, 1, 7])
def test_a_deadlock_that_no_room_would_cure_says_so(capacity: int) -> None:
    schedule = rows("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1")
    with pytest.raises(ScheduleError, match="deadlock with channels without limit"):
        schedule.check(channel_capacity=capacity)


def test_memory_limit_marks_the_first_forward_too_many() -> None:
    with pytest.raises(ScheduleError) as caught:
        gpipe(2, 3).check(memory_limit=2)
    error = caught.value
    assert error.rule == "memory limit"
    assert (error.rank, error.step, str(error.action)) == (0, 2, "0F2")
    assert "3 activations in flight, but the limit is 2 (peak 3)" in str(error)
    gpipe(2, 3).check(memory_limit=3)


@pytest.mark.parametrize(("p", "m"), [(2, 3), (4, 2), (4, 9)])
def test_memory_limit_is_exactly_the_peak(p: int, m: int) -> None:
    schedule = one_f_one_b(p, m)
    peak = max(schedule.in_flight(rank) for rank in range(p))
    schedule.check(memory_limit=peak)
    with pytest.raises(ScheduleError, match="memory limit"):
        schedule.check(memory_limit=peak - 1)


@pytest.mark.parametrize("m", [2, 3, 4, 8])
@pytest.mark.parametrize("p", [2, 3, 4, 6])
def test_1f1b_deadlocks_under_rendezvous_and_runs_with_room_for_one(
    p: int, m: int
) -> None:
    # Rank p - 2 sends F1 before it receives B0; rank p - 1 sends B0 before it receives
    # F1. Without a buffer neither send ends; p >= 2 and m >= 2 always has both.
    schedule = one_f_one_b(p, m)
    with pytest.raises(ScheduleError, match="channel capacity 0") as caught:
        schedule.check(channel_capacity=0)
    assert caught.value.rule == "no deadlock"
    last, before = f"rank {p - 1}", f"rank {p - 2}"
    assert f"until {last} comes to its {p - 1}RECV_F1" in str(caught.value)
    assert f"until {before} comes to its {p - 2}RECV_B0" in str(caught.value)
    schedule.check(channel_capacity=1)
    assert schedule.minimum_channel_capacity() == 1


@pytest.mark.parametrize(("p", "m"), [(1, 1), (1, 5), (2, 1), (5, 1)])
def test_1f1b_of_one_rank_or_microbatch_needs_no_room(p: int, m: int) -> None:
    one_f_one_b(p, m).check(channel_capacity=0)
    assert one_f_one_b(p, m).minimum_channel_capacity() == 0


@pytest.mark.parametrize(("p", "m"), [(2, 2), (3, 5), (4, 8)])
def test_gpipe_runs_under_rendezvous(p: int, m: int) -> None:
    gpipe(p, m).check(channel_capacity=0)
    assert gpipe(p, m).minimum_channel_capacity() == 0


def ahead(warm: int, m: int = 10) -> Schedule:
    """Rank 0 runs ``warm`` forwards ahead of a rank 1 that alternates."""
    row = [f"0F{k}" for k in range(warm)]
    for k in range(m - warm):
        row += [f"0F{warm + k}", f"0B{k}"]
    row += [f"0B{k}" for k in range(m - warm, m)]
    other = [f"1{kind}{k}" for k in range(m) for kind in "FB"]
    return Schedule("ahead", [row, other], (0, 1))


@pytest.mark.parametrize("warm", [1, 2, 3, 4, 6, 7])
def test_minimum_channel_capacity_is_minimal(warm: int) -> None:
    # Rank 0 sends warm + 1 inputs before it takes a gradient. With room for c, rank 1
    # takes c + 1 of them, when its gradient c + 1 finds no room, and c more wait.
    schedule = ahead(warm)
    least = schedule.minimum_channel_capacity()
    assert least == (warm + 1) // 2
    for capacity in range(least):
        with pytest.raises(ScheduleError, match="no deadlock"):
            schedule.check(channel_capacity=capacity)
    for capacity in range(least, least + 4):
        schedule.check(channel_capacity=capacity)


def test_no_capacity_helps_a_schedule_that_deadlocks_anyway() -> None:
    schedule = rows("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1")
    with pytest.raises(ScheduleError, match="without limit"):
        schedule.minimum_channel_capacity()


def both_ways() -> Schedule:
    """Two copies of two stages; microbatch 1 passes the ranks in reverse."""
    return Schedule(
        "both",
        [["0F0", "3F1", "3B1", "0B0"], ["2F1", "1F0", "1B0", "2B1"]],
        (0, 1, 1, 0),
        num_microbatches=2,
        copy_of=(0, 1, 0, 1),
        route=(0, 1),
    )


def test_microbatches_pass_the_copy_on_their_route() -> None:
    both_ways().check(channel_capacity=1)
    assert [both_ways().stage_before(s) for s in range(4)] == [-1, 0, -1, 2]
    assert [both_ways().stage_after(s) for s in range(4)] == [1, -1, 3, -1]


def test_an_action_off_its_microbatchs_route_is_named() -> None:
    schedule = both_ways()
    row = (*schedule.ranks[0], Action.parse("0F1"))
    stray = replace(schedule, ranks=(row, schedule.ranks[1]))
    with pytest.raises(ScheduleError, match="does not pass stage 0") as caught:
        stray.check()
    assert caught.value.action == Action.parse("0F1")


def test_a_long_grid_is_cut_around_the_mark() -> None:
    schedule = gpipe(2, 40)
    row = (*schedule.ranks[0][:-1], Action.parse("0B3"))
    with pytest.raises(ScheduleError, match=r"\(columns 95 to 122 of 123\)") as caught:
        replace(schedule, ranks=(row, schedule.ranks[1])).check()
    assert "0B3*" in str(caught.value)


def test_a_grid_of_many_ranks_is_cut_around_the_mark() -> None:
    schedule = one_f_one_b(30, 2)
    cut = (*schedule.ranks[:20], schedule.ranks[20][:-1], *schedule.ranks[21:])
    with pytest.raises(ScheduleError, match=r"\(ranks 14 to 25 of 30\)") as caught:
        replace(schedule, ranks=cut).check()
    marked = [line for line in str(caught.value).splitlines() if MARK in line]
    assert [line.split()[1] for line in marked] == ["20"]


def test_an_error_survives_the_way_to_another_process() -> None:
    with pytest.raises(ScheduleError) as caught:
        rows("0F0 0F0", GOOD).check()
    error = caught.value
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is ScheduleError
    assert str(copied) == str(error)
    for name in ("rule", "rank", "step", "action"):
        assert getattr(copied, name) == getattr(error, name)


def test_each_waits_for_the_next_in_a_circle_of_many_ranks() -> None:
    # Three ranks in a ring: stages 0 1 2 3 4 5 on ranks 0 1 2 0 1 2, and every rank
    # wants to do its second stage first.
    table = ["3F0 0F0 0B0 3B0", "4F0 1F0 1B0 4B0", "5F0 2F0 2B0 5B0"]
    schedule = rows(*table, stage_to_rank=(0, 1, 2, 0, 1, 2), num_microbatches=1)
    with pytest.raises(ScheduleError) as caught:
        schedule.check()
    text = str(caught.value)
    for rank, stage in enumerate((3, 4, 5)):
        before = (rank - 1) % 3
        wait = f"rank {rank} waits at step 0 ({stage}RECV_F0)"
        assert f"{wait} for rank {before}'s {stage - 1}SEND_F0" in text
    assert text.count("waits at") == 3
    assert (caught.value.rank, caught.value.step) == (0, 0)


def test_a_send_without_room_names_the_receive_that_would_make_room() -> None:
    # Rank 1 takes its second microbatch only after the backward that rank 0 does last.
    schedule = ahead(warm=4)
    with pytest.raises(ScheduleError, match="channel capacity 1") as caught:
        schedule.check(channel_capacity=1)
    assert "(0SEND_F3) for room, until rank 1's 1RECV_F2" in str(caught.value)


@pytest.mark.parametrize("value", [-1, 1.5, "1", True])
def test_a_capacity_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="channel_capacity must be a whole number"):
        gpipe().check(channel_capacity=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True])
def test_a_memory_limit_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="memory_limit must be a whole number"):
        gpipe().check(memory_limit=value)


PAIRS = [
    [["(0F0;0F1)OVERLAP_F_B", "0B0", "0B1"]],
    [["0F0", "0F1", "(0B0;0B1)OVERLAP_F_B"]],
    [["0F0", "0F1", "(0I0;0W1)OVERLAP_F_B", "0W0", "0I1"]],
    [["0F0", "(0F1;0R0)OVERLAP_F_B", "0B0", "0B1"]],
]


@pytest.mark.parametrize("rows", PAIRS, ids=str)
def test_only_a_forward_and_a_backward_overlap(rows: list[list[str]]) -> None:
    with pytest.raises(ScheduleError, match="write them as two steps") as caught:
        wb.Schedule("pairs", rows, [0]).check()
    error = caught.value
    assert (error.rule, error.rank) == ("overlap", 0)
    assert isinstance(error.step, int)
    assert "(" in rows[0][error.step]
    assert "<-- ERROR HERE" in str(error)


REMEDIES = [
    ([["0F0", "1B0"], ["1F0", "0B0"]], [0, 1], "or make stage_to_rank[1] 0"),
    ([["0F0", "0F0", "0B0"]], [0], "leave one of them out"),
    ([["0F0", "0B0", "0F2", "0B2"]], [0], "every microbatch from 0 up"),
    ([["0F0", "0W0"]], [0], "write exactly one of these"),
    ([["0B0", "0F0"]], [0], "move it behind that"),
    ([["0F0", "0B0"], ["1F0", "1B0"]], [0, 2], "add a row per rank"),
    (
        [["0F0", "0B0", "0F1", "0B1"], ["1F0", "1F1", "1B0", "1B1"]],
        [0, 1],
        "another order of these actions",
    ),
]


@pytest.mark.parametrize(("rows", "placed", "remedy"), REMEDIES, ids=str)
def test_every_error_says_what_to_do(
    rows: list[list[str]], placed: list[int], remedy: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        wb.Schedule("wrong", rows, placed).check()
    assert remedy in str(caught.value)
    assert "rank 0  |" in str(caught.value)


def test_numbers_of_actions_are_whole_numbers() -> None:
    rows = [[Action(np.int64(0), Kind.F, np.int32(0)), "0B0"]]
    made = wb.Schedule("numbers", rows, [0]).check()
    assert type(made.ranks[0][0].stage) is int
    assert type(made.num_microbatches) is int
    for stage in (0.0, "0", True, None):
        with pytest.raises(ValueError, match="stage of the action .* whole number"):
            wb.Schedule("numbers", [[Action(stage, Kind.F, 0), "0B0"]], [0])
    with pytest.raises(ValueError, match="its kind is 7, but must be one of F, I, W"):
        wb.Schedule("numbers", [[Action(0, Kind.F, 0)._replace(kind=7), "0B0"]], [0])
    with pytest.raises(ValueError, match="name must be a text, got None"):
        wb.Schedule(None, [["0F0", "0B0"]], [0])
