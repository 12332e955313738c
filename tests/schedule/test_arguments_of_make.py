"""Grids drawn by hand, and what generators say of arguments that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workbench.schedule import SCHEDULES, Schedule

GOLDEN = Path(__file__).parent / "golden"


def make(name: str, p: int, m: int) -> Schedule:
    """The schedule over ``p`` stages; 'single' has them all on one rank."""
    if name == "single":
        return Schedule.make(name, num_ranks=1, num_microbatches=m, num_stages=p)
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def test_single_holds_one_microbatch_of_one_stage() -> None:
    assert make("single", 1, 9).in_flight(0) == 1


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda p: p.stem)
def test_the_grid_is_the_one_drawn_by_hand(path: Path) -> None:
    name, p, m = path.stem.split("_")
    drawn = path.read_text(encoding="utf-8")
    assert f"{make(name, int(p), int(m))}\n" == drawn


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("1F1B", "1f1b"), ("1f1", "1f1b"), ("gpip", "gpipe"), ("singel", "single")],
)
def test_an_unknown_name_suggests_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {right!r}") as caught:
        Schedule.make(wrong, num_ranks=2, num_microbatches=2)
    assert all(name in str(caught.value) for name in SCHEDULES)


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, 2.5, "2", None])
@pytest.mark.parametrize("label", ["num_ranks", "num_microbatches"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_numbers_that_are_no_counts_are_refused(
    name: str, label: str, value: Any
) -> None:
    numbers: dict[str, Any] = {"num_ranks": 1, "num_microbatches": 1, label: value}
    with pytest.raises(ValueError, match=f"{label} must be a whole number"):
        Schedule.make(name, **numbers)


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no option 'chunks'"):
        Schedule.make(name, num_ranks=1, num_microbatches=1, chunks=2)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_single_refuses_what_is_no_number_of_stages(value: Any) -> None:
    with pytest.raises(ValueError, match="num_stages must be"):
        Schedule.make("single", num_ranks=1, num_microbatches=1, num_stages=value)


def test_single_refuses_a_second_rank() -> None:
    with pytest.raises(ValueError, match="num_ranks=2"):
        Schedule.make("single", num_ranks=2, num_microbatches=1)
