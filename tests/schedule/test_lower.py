"""Lowering on small cases: the texts of the rows in, the texts of the programs out."""

from __future__ import annotations

import pytest

from workbench.schedule import (
    Program,
    Schedule,
    ScheduleError,
    lower,
    lower_forward,
)


def schedule(rows: list[str], placed: tuple[int, ...], num_slices: int = 1) -> Schedule:
    texts = [row.split() for row in rows]
    return Schedule("small", texts, placed, num_slices=num_slices)


def texts(programs: tuple[Program, ...]) -> list[str]:
    assert [program.rank for program in programs] == list(range(len(programs)))
    return [" ".join(str(step) for step in program.steps) for program in programs]


CASES = {
    "one rank": (
        schedule(["0F0 0B0"], (0,)),
        ["0F0 0B0"],
    ),
    "two ranks": (
        schedule(["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"], (0, 1)),
        [
            "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
            "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        ],
    ),
    "three ranks": (
        schedule(["0F0 0B0", "1F0 1B0", "2F0 2B0"], (0, 1, 2)),
        [
            "0F0 0SEND_F0 0RECV_B0 0B0",
            "1RECV_F0 1F0 1SEND_F0 1RECV_B0 1B0 1SEND_B0",
            "2RECV_F0 2F0 2B0 2SEND_B0",
        ],
    ),
    "split backward": (
        schedule(["0F0 0I0 0W0", "1F0 1I0 1W0"], (0, 1)),
        [
            "0F0 0SEND_F0 0RECV_B0 0I0 0W0",
            "1RECV_F0 1F0 1I0 1SEND_B0 1W0",
        ],
    ),
    "recompute": (
        schedule(["0F0 0R0 0B0", "1F0 1R0 1B0"], (0, 1)),
        [
            "0F0 0SEND_F0 0R0 0RECV_B0 0B0",
            "1RECV_F0 1F0 1R0 1B0 1SEND_B0",
        ],
    ),
    "neighbours on one rank": (
        schedule(["0F0 0B0", "1F0 2F0 2B0 1B0"], (0, 1, 1)),
        [
            "0F0 0SEND_F0 0RECV_B0 0B0",
            "1RECV_F0 1F0 2F0 2B0 1B0 1SEND_B0",
        ],
    ),
    "slices": (
        schedule(["0F0 0F0.1 0B0.1 0B0", "1F0 1F0.1 1B0.1 1B0"], (0, 1), num_slices=2),
        [
            "0F0 0SEND_F0 0F0.1 0SEND_F0.1 0RECV_B0.1 0B0.1 0RECV_B0 0B0",
            "1RECV_F0 1F0 1RECV_F0.1 1F0.1 1B0.1 1SEND_B0.1 1B0 1SEND_B0",
        ],
    ),
    "overlap": (
        schedule(["0F0 (0F1;0B0)OVERLAP_F_B 0B1", "1F0 1B0 1F1 1B1"], (0, 1)),
        [
            "0F0 0SEND_F0 0RECV_B0 (0F1;0B0)OVERLAP_F_B 0SEND_F1 0RECV_B1 0B1",
            "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_receives_stand_before_and_sends_after(name: str) -> None:
    given, wanted = CASES[name]
    assert texts(lower(given, optimizer=False)) == wanted


def test_the_optimizer_comes_after_the_last_gradient_of_every_stage() -> None:
    given = schedule(["0F0 0F1 1F0 1F1 1B0 1B1 0B0 0B1"], (0, 0))
    assert texts(lower(given)) == [
        "0F0 0F1 1F0 1F1 1B0 1B1 1REDUCE_GRAD 0B0 0B1 0REDUCE_GRAD 0OPT_STEP 1OPT_STEP"
    ]


def test_the_gradient_is_whole_after_the_last_w_not_the_last_i() -> None:
    given = schedule(["0F0 0F1 0I0 0W0 0I1 0W1"], (0,))
    assert texts(given.programs()) == ["0F0 0F1 0I0 0W0 0I1 0W1 0REDUCE_GRAD 0OPT_STEP"]


def test_a_send_goes_out_before_the_gradient_is_reduced() -> None:
    given = schedule(["0F0 0B0", "1F0 1B0"], (0, 1))
    assert texts(lower(given))[1] == (
        "1RECV_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD 1OPT_STEP"
    )


def test_an_evaluation_keeps_the_forwards_in_their_order() -> None:
    given = schedule(["0F1 0F0 0B1 0B0", "1F1 1B1 1F0 1B0"], (0, 1))
    assert texts(lower_forward(given)) == [
        "0F1 0SEND_F1 0F0 0SEND_F0",
        "1RECV_F1 1F1 1RECV_F0 1F0",
    ]


def test_an_evaluation_takes_overlaps_apart() -> None:
    given = CASES["overlap"][0]
    assert texts(lower_forward(given))[0] == "0F0 0SEND_F0 0F1 0SEND_F1"


def test_lowering_a_schedule_of_stages_that_are_not_there_names_the_place() -> None:
    given = schedule(["0F0 0B0", "1F0 1B0 5F0"], (0, 1))
    with pytest.raises(ScheduleError, match="there is no stage 5") as caught:
        lower(given)
    assert (caught.value.rank, caught.value.step) == (1, 2)


def test_what_crosses_ranks_is_what_dependencies_say() -> None:
    # A V of four stages on two ranks: the turn from stage 1 to stage 2 is on one rank.
    rows = ["0F0 3F0 3I0 0I0 3W0 0W0", "1F0 2F0 2I0 1I0 2W0 1W0"]
    given = schedule(rows, (0, 1, 1, 0))
    home = given.stage_to_rank
    crossing = sum(
        home[need.stage] != home[action.stage]
        for _, _, action in given.walk()
        for need in given.dependencies(action)
    )
    steps = [str(s) for p in lower(given, optimizer=False) for s in p.steps]
    assert sum("SEND" in s for s in steps) == crossing == 4
    assert sorted(s for s in steps if "SEND" in s) == [
        "0SEND_F0",
        "1SEND_B0",
        "2SEND_F0",
        "3SEND_B0",
    ]


def test_a_program_tells_its_rank_and_steps() -> None:
    given = schedule(["0F0 0B0"], (0,))
    assert str(lower(given, optimizer=False)[0]) == "rank 0: 0F0 0B0"
