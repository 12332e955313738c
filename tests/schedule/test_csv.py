"""PyTorch's CSV, cell by cell: exact both ways, and strict about everything else."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.schedule import SCHEDULES, Action, Schedule, parse

SPLIT = "0F0,0I0,0W0\n1F0,1I0,1W0\n"
OVERLAP = "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n1F0,1B0,1F1,1B1\n"


#: What PyTorch has no words for, and the words of the refusal.
FOREIGN = {
    "dualpipe": "several copies of the parameters",
    "chimera": "several copies of the parameters",
    "bitpipe": "several copies of the parameters",
    "seq_1f1b": r"no 0F0\.1",
    "1f1b_recompute": "no 0R0",
}
NATIVE = sorted(SCHEDULES.keys() - FOREIGN)


def made(name: str, m: int) -> Schedule:
    p = 1 if name == "single" else 2
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("communications", [False, True])
def test_what_pytorch_cannot_run_is_not_written(
    name: str, communications: bool
) -> None:
    with pytest.raises(ValueError, match=FOREIGN[name]):
        made(name, 8).to_csv(communications=communications)


@pytest.mark.parametrize("m", [4, 8])
@pytest.mark.parametrize("name", NATIVE)
def test_reading_undoes_writing(name: str, m: int) -> None:
    schedule = made(name, m)
    assert Schedule.from_csv(schedule.to_csv(), name=name) == schedule


@pytest.mark.parametrize("text", [SPLIT, OVERLAP, "0F0,0B0\n"])
def test_writing_undoes_reading(text: str) -> None:
    assert Schedule.from_csv(text).to_csv() == text


def test_a_rank_without_actions_is_not_written() -> None:
    idle = Schedule("idle", [["0F0", "0B0"], []], [0])
    with pytest.raises(ValueError, match="rank 1 of idle has no actions"):
        idle.to_csv()


def test_a_file_reads_as_its_text(tmp_path: Path) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text(OVERLAP)
    assert Schedule.from_csv(path) == Schedule.from_csv(OVERLAP)
    assert Schedule.from_csv(str(path)) == Schedule.from_csv(OVERLAP)


def test_empty_cells_and_blanks_around_cells_are_idle_time() -> None:
    padded = "0F0,, 0I0 ,0W0\n,1F0,1I0,,1W0,\n"
    assert Schedule.from_csv(padded) == Schedule.from_csv(SPLIT)


def test_placement_is_read_off_the_rows() -> None:
    text = "0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n"
    assert Schedule.from_csv(text).stage_to_rank == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("cell", "near"),
    [
        ("1f0", "1F0"),
        ("1F0x", "1F0"),
        ("1 F 0", "1F0"),
        ("01F0", "1F0"),
        ("1F00", "1F0"),
        ("1FO", "1F0"),
        ("1F0.0", "1F0"),
        ("(1F1;1B0)", "(1F1;1B0)OVERLAP_F_B"),
        ("(1F1; 1B0)OVERLAP_F_B", "(1F1;1B0)OVERLAP_F_B"),
        ("1sendf0", "1SEND_F0"),
        ("1SEND F 0", "1SEND_F0"),
        ("1RECV_B0x", "1RECV_B0"),
        ("1UNSHARD0", "1UNSHARD"),
        ("1reduce_grad", "1REDUCE_GRAD"),
        ("1SEND_F", None),
        ("F0", None),
        ("1X0", None),
        ("1F", None),
        ("(1F1", None),
    ],
)
def test_a_wrong_cell_is_named_with_place_and_nearest(
    cell: str, near: str | None
) -> None:
    place = re.escape(f"line 2 (rank 1), column 3: {cell!r} is no action; ")
    with pytest.raises(ValueError, match=place) as caught:
        Schedule.from_csv(f"0F0,0B0\n,,{cell},1B0\n")
    hint = re.search(r"did you mean (.*)\?$", str(caught.value))
    assert (hint[1] if hint else None) == near
    if near is None:
        assert re.search(r"as in 2F0$|\(0F1;1B0\)OVERLAP_F_B", str(caught.value))
    else:
        assert str(parse(near)) == near


def test_a_repeated_action_names_both_places() -> None:
    with pytest.raises(ValueError, match="line 2, column 2: 0F0 stands at line 1, col"):
        Schedule.from_csv("0F0,0B0\n1F0,0F0\n")


@pytest.mark.parametrize(
    "cell", ["0BW0", "(0F1;0BW0)OVERLAP_F_B", "(0BW0;0F1)OVERLAP_F_B"]
)
def test_the_spelling_of_2024_is_named_with_its_replacement(cell: str) -> None:
    told = r"line 1 .*column 2.*2024.*write 0B0 for 0BW0, and 0I0 for that file's 0B0"
    with pytest.raises(ValueError, match=told):
        Schedule.from_csv(f"0F0,{cell}\n")


@pytest.mark.parametrize(
    "cell",
    [
        "0R0",
        "0F0.1",
        "(0F1;0B0.1)OVERLAP_F_B",
        "0OPT_STEP",
        "0OFFLOAD0",
        "0SEND_F0.1",
        "(0F1;0SEND_B0)OVERLAP_F_B",
    ],
)
def test_what_pytorch_lacks_is_not_read(cell: str) -> None:
    with pytest.raises(ValueError, match="line 1 .*column 2.*PyTorch's format has no"):
        Schedule.from_csv(f"0F0,{cell}\n")


def test_a_single_cell_is_text() -> None:
    assert Schedule.from_csv("0F0").ranks == Schedule.from_csv("0F0\n").ranks


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_text_is_told_from_a_missing_file(text: str) -> None:
    with pytest.raises(ValueError, match="the CSV is empty"):
        Schedule.from_csv(text)


def test_a_missing_stage_is_named() -> None:
    with pytest.raises(ValueError, match="no actions for stage 1"):
        Schedule.from_csv("0F0,0B0\n2F0,2B0\n")


def test_a_stage_on_two_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 0 on rank 1, but it is on rank 0"):
        Schedule.from_csv("0F0,0B0\n0F1,0B1\n")


@pytest.mark.parametrize("text", ["\n", ",,\n,\n"])
def test_a_csv_without_actions_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no actions"):
        Schedule.from_csv(text)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CSV file"):
        Schedule.from_csv(tmp_path / "missing.csv")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe0F0")
    with pytest.raises(ValueError, match="is not text"):
        Schedule.from_csv(tmp_path / "bytes")


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet='0123FIWB,\n\r" ;().x', max_size=30))
@example("0F0,0B0\r1F0\n")
@example('"0F0\n')
@example("x" * 5000)
@example("x\0")
@example("0F0," + "x" * 200_000)
@example("0F0.1,0F0\n")
@example("\0")
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        schedule = Schedule.from_csv(text)
    except ValueError:
        return
    written = schedule.to_csv()
    assert Schedule.from_csv(written).to_csv() == written


@pytest.mark.parametrize(
    ("rows", "slices"), [(["0F0 0R0 0B0"], 1), (["0F0 0F0.1 0B0.1 0B0"], 2)]
)
def test_what_pytorch_lacks_is_not_written(rows: list[str], slices: int) -> None:
    schedule = Schedule("s", [row.split() for row in rows], (0,), num_slices=slices)
    with pytest.raises(ValueError, match=r"PyTorch's format has no 0(R0|F0.1)"):
        schedule.to_csv()


@pytest.mark.torch
@pytest.mark.parametrize("source", [*NATIVE, SPLIT, OVERLAP])
def test_pytorch_reads_every_cell_as_it_was_meant(source: str) -> None:
    schedules = pytest.importorskip(
        "torch.distributed.pipelining.schedules",
        reason="the compare extra is not installed",
    )
    schedule = made(source, 4) if source in SCHEDULES else Schedule.from_csv(source)
    names = {
        "F": "FORWARD",
        "B": "FULL_BACKWARD",
        "I": "BACKWARD_INPUT",
        "W": "BACKWARD_WEIGHT",
    }
    cells = [c for row in csv.reader(io.StringIO(schedule.to_csv())) for c in row]
    assert len(cells) == sum(map(len, schedule.ranks))
    items = [item for row in schedule.ranks for item in row]
    for cell, item in zip(cells, items, strict=True):
        read = schedules._Action.from_str(cell)
        assert str(read) == cell
        if isinstance(item, Action):
            assert (read.stage_index, read.microbatch_index) == (
                item.stage,
                item.microbatch,
            )
            assert read.computation_type.name == names[item.kind]


TWO_RANKS = "0F0,0B0\n1F0,1B0\n"


@pytest.mark.parametrize("end", ["\n", "\n\n", "  \n"])
def test_blank_lines_at_the_end_are_no_ranks(end: str) -> None:
    assert Schedule.from_csv(TWO_RANKS + end) == Schedule.from_csv(TWO_RANKS)


@pytest.mark.parametrize("text", ["\n" + TWO_RANKS, "0F0,0B0\n \n1F0,1B0\n"])
def test_a_blank_line_between_ranks_is_told(text: str) -> None:
    place = 1 + [not line.strip() for line in text.split("\n")].index(True)
    with pytest.raises(ValueError, match=f"line {place} is blank.*take it out"):
        Schedule.from_csv(text)


@pytest.mark.parametrize("sign", [";", "\t", " "])
def test_cells_that_commas_do_not_divide_are_told(sign: str) -> None:
    with pytest.raises(ValueError, match="line 1 .*are divided by commas"):
        Schedule.from_csv(TWO_RANKS.replace(",", sign))


@pytest.mark.parametrize("source", [None, b"0F0,0B0", 3])
def test_what_is_neither_text_nor_path_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="text or its path, got"):
        Schedule.from_csv(source)
