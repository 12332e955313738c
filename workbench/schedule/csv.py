"""PyTorch's CSV, both ways and strict: one line per rank, one action per cell.

The compute-only format has one cell per time slot and empty cells for idle slots; the
format with communications (communications.py) has sends, receives and the like, and no
idle slots. What PyTorch's own reader would take for something else is refused, with the
place and the nearest cell that is valid.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from .actions import WHOLE_STAGE, Action, Kind, Overlap, Row, halves, parse
from .check_communications import check_communications
from .communications import COMMUNICATION, with_communications
from .ir import Program, Schedule

_PYTORCH_COMPUTE = (Kind.F, Kind.I, Kind.W, Kind.B)
_PYTORCH = frozenset(_PYTORCH_COMPUTE) | COMMUNICATION
_OLD_FULL_BACKWARD = re.compile(r"(\d+)BW(\d*)", re.ASCII)
_NAMES = {kind.replace("_", ""): kind for kind in _PYTORCH}
_SLOPPY = re.compile(
    r"[ \t]*(\d+)[ \t]*((?:send|recv)[ _]?[fb]|unshard|reshard|reduce[ _]?grad|[fiwb])"
    r"[ \t]*([\doO]*)",
    re.IGNORECASE | re.ASCII,
)


def _sloppy(text: str) -> str | None:
    """The action that the text begins with, spaces, zeros and case set right."""
    found = _SLOPPY.match(text)
    if found is None:
        return None
    kind = _NAMES[re.sub("[ _]", "", found[2].upper())]
    if kind in WHOLE_STAGE:
        return f"{int(found[1])}{kind}"
    microbatch = found[3].lower().replace("o", "0")
    return f"{int(found[1])}{kind}{int(microbatch)}" if microbatch else None


def _nearest(text: str) -> str:
    """A valid cell near a wrong one, or the form that cells have."""
    if "(" not in text and len(re.findall(r"\d+[FIWB]\d+", text, re.ASCII)) > 1:
        return "cells are divided by commas, as in 0F0,0F1,0B0"
    near = _sloppy(text)
    if text.startswith("(") or "OVERLAP" in text:
        inner = [_sloppy(part) for part in re.split("[;,|]", text.strip("( "))]
        pair = [part for part in inner if part]
        near = f"({pair[0]};{pair[1]})OVERLAP_F_B" if len(pair) == 2 else None
        form = "(0F1;1B0)OVERLAP_F_B is an overlap, without commas or spaces"
    else:
        form = "a cell is stage, one of F I W B, and microbatch, as in 2F0"
    return f"did you mean {near}?" if near and near != text else form


def _why_wrong(text: str) -> str:
    old = _OLD_FULL_BACKWARD.search(text)
    if old:
        full, split = (f"{old[1]}{kind}{old[2] or 0}" for kind in (Kind.B, Kind.I))
        return (
            "is the spelling of 2024, when BW was the full backward and B the input "
            f"gradient; write {full} for {old[0]}, and {split} for that file's "
            f"{full}"
        )
    return f"is no action; {_nearest(text)}"


def _read_cell(text: str, rank: int, column: int) -> Action | Overlap:
    where = f"line {rank + 1} (rank {rank}), column {column + 1}: {text!r}"
    try:
        item = parse(text)
    except ValueError:
        raise ValueError(f"{where} {_why_wrong(text)}") from None
    may = _PYTORCH_COMPUTE if isinstance(item, Overlap) else _PYTORCH
    for action in halves(item):
        if action.kind not in may or action.slice:
            inside = " in an overlap" if action.kind in COMMUNICATION else ""
            raise ValueError(f"{where}: PyTorch's format has no {action}{inside}")
    return item


def _read_text(source: str | Path) -> str:
    if isinstance(source, str):
        text = source.strip()
        # One line with one cell is text as well, if it begins as a cell does.
        if "\n" in source or "," in source or _SLOPPY.fullmatch(text):
            return source
        if not text:
            raise ValueError("the CSV is empty; give its text or a path")
    elif not isinstance(source, PathLike):
        raise ValueError(f"give a CSV's text or its path, got {source!r}")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not text: {error}") from None
    except (OSError, ValueError):
        raise ValueError(f"no CSV file at {str(source)!r}") from None


def _lines(text: str) -> list[list[str]]:
    try:
        lines = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(f"the text is no CSV: {error}") from None
    blank = [not "".join(cells).strip() and len(cells) < 2 for cells in lines]
    while blank and blank[-1]:
        del lines[-1], blank[-1]
    if True in blank:
        rank = blank.index(True)
        raise ValueError(
            f"line {rank + 1} is blank: every line is a rank's, so it would be rank "
            f"{rank}; take it out"
        )
    return lines


def _rows(source: str | Path) -> list[Row]:
    """The actions of every line; with communications there may be no idle slots."""
    rows: list[Row] = []
    idle: str | None = None
    communicates = False
    for rank, cells in enumerate(_lines(_read_text(source))):
        row = []
        for column, cell in enumerate(cells):
            text = cell.strip()
            if text:
                row.append(_read_cell(text, rank, column))
            else:
                idle = idle or f"line {rank + 1} (rank {rank}), column {column + 1}"
        communicates = communicates or _communicates(row)
        rows.append(tuple(row))
    if communicates and idle:
        raise ValueError(
            f"{idle} is empty: only the compute-only format has idle slots, and this "
            "text has communications"
        )
    return rows


def _communicates(row: Sequence[Action | Overlap]) -> bool:
    return any(isinstance(a, Action) and a.kind in COMMUNICATION for a in row)


def _programs(source: str | Path, name: str) -> tuple[tuple[Program, ...], Schedule]:
    """What is read, and its compute part as a schedule. Placement is read off the rows:
    a stage lives where its actions stand."""
    rows = _rows(source)
    homes: dict[int, int] = {}
    seen: dict[Action, tuple[int, int]] = {}
    for rank, row in enumerate(rows):
        for column, item in enumerate(row):
            for action in halves(item):
                _settle(action, (rank, column), homes, seen)
    if not homes:
        raise ValueError("the CSV has no actions")
    missing = next((s for s in range(len(homes)) if s not in homes), None)
    if missing is not None:
        raise ValueError(f"the CSV has no actions for stage {missing}")
    placed = tuple(homes[stage] for stage in range(len(homes)))
    programs = tuple(Program(rank, row) for rank, row in enumerate(rows))
    compute = [
        [a for a in row if isinstance(a, Overlap) or a.kind not in COMMUNICATION]
        for row in rows
    ]
    schedule = Schedule(name, compute, placed)
    if any(map(_communicates, rows)):
        check_communications(programs, schedule)
    return programs, schedule


def read_csv(source: str | Path, name: str = "csv") -> Schedule:
    """See ``Schedule.from_csv``."""
    return _programs(source, name)[1]


def programs_from_csv(source: str | Path) -> tuple[Program, ...]:
    """The programs of PyTorch's CSV, one per rank, with all that stands in it: sends,
    receives, UNSHARD, RESHARD and REDUCE_GRAD too. ``source`` is a path or the text.

    Raises ValueError as ``Schedule.from_csv`` does; communications are checked.
    """
    return _programs(source, "csv")[0]


def _settle(
    action: Action,
    place: tuple[int, int],
    homes: dict[int, int],
    seen: dict[Action, tuple[int, int]],
) -> None:
    """Notes where an action and its stage stand. Raises ValueError for a second
    place."""
    rank, column = place
    if action.kind in (Kind.UNSHARD, Kind.RESHARD):
        return  # these come again and again, and place nothing
    where = f"line {rank + 1}, column {column + 1}: {action}"
    if action in seen:
        line, before = seen[action]
        raise ValueError(
            f"{where} stands at line {line + 1}, column {before + 1} already"
        )
    seen[action] = place
    home = homes.setdefault(action.stage, rank)
    if home != rank:
        raise ValueError(
            f"{where} puts stage {action.stage} on rank {rank}, but it is on rank "
            f"{home} already"
        )


def write_csv(
    schedule: Schedule, communications: bool, unsharded_stages: int | None
) -> str:
    """See ``Schedule.to_csv``: the rows without idle slots."""
    if schedule.copy_of and max(schedule.copy_of) + 1 < schedule.num_stages:
        raise ValueError(
            f"{schedule.name} has several copies of the parameters; PyTorch's pipelines "
            "have one, and its format cannot say which microbatch passes which"
        )
    if () in schedule.ranks:
        raise ValueError(
            f"rank {schedule.ranks.index(())} of {schedule.name} has no actions; in "
            "PyTorch's pipelines every rank has a stage"
        )
    if communications:
        _refuse_foreign(schedule.ranks)
        return programs_to_csv(with_communications(schedule, unsharded_stages))
    if unsharded_stages is not None:
        raise ValueError(
            "unsharded_stages goes with communications=True: the compute-only format "
            "has no UNSHARD"
        )
    return _written(schedule.ranks, frozenset(_PYTORCH_COMPUTE))


def programs_to_csv(programs: Sequence[Program]) -> str:
    """PyTorch's CSV of programs, written as they stand; the inverse of
    ``programs_from_csv``. Raises ValueError for actions that PyTorch lacks.
    ``Schedule.to_csv(communications=True)`` puts receives where PyTorch's runtime needs
    them; ``Schedule.programs`` does not."""
    return _written([program.steps for program in programs], _PYTORCH)


def _refuse_foreign(rows: Sequence[Row], may: frozenset[Kind] = _PYTORCH) -> None:
    for rank, row in enumerate(rows):
        for step, item in enumerate(row):
            for action in halves(item):
                if action.kind not in may or action.slice:
                    raise ValueError(
                        f"rank {rank}, step {step}: PyTorch's format has no {action}"
                    )


def _written(rows: Sequence[Row], may: frozenset[Kind]) -> str:
    _refuse_foreign(rows, may)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([str(item) for item in row])
    return text.getvalue()
