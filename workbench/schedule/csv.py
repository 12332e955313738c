"""PyTorch's compute-only CSV, both ways and strict: one line per rank, one cell per
time slot, empty cells for idle slots. What PyTorch's own reader would take for
something else is refused, with the place and the nearest cell that is valid.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from .actions import COMPUTE, Action, Kind, Overlap, halves, parse
from .ir import Schedule

_PYTORCH_COMPUTE = (Kind.F, Kind.I, Kind.W, Kind.B)
_OLD_FULL_BACKWARD = re.compile(r"(\d+)BW(\d*)", re.ASCII)
_SLOPPY = re.compile(r"[ \t]*(\d+)[ \t]*([fiwb])[ \t]*([\doO]+)", re.IGNORECASE)


def _sloppy(text: str) -> str | None:
    """The action that the text begins with, spaces, zeros and case set right."""
    found = _SLOPPY.match(text)
    if found is None:
        return None
    microbatch = found[3].lower().replace("o", "0")
    return f"{int(found[1])}{found[2].upper()}{int(microbatch)}"


def _nearest(text: str) -> str:
    """A valid cell near a wrong one, or the form that cells have."""
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
    for action in halves(item):
        if action.kind not in COMPUTE:
            raise ValueError(
                f"{where} is communication; this reads the compute-only format"
            )
        if action.kind not in _PYTORCH_COMPUTE or action.slice:
            raise ValueError(f"{where}: PyTorch's format has no {action}")
    return item


def _read_text(source: str | Path) -> str:
    if isinstance(source, str):
        text = source.strip()
        # One line with one cell is text as well, if it begins as a cell does.
        if "\n" in source or "," in source or _SLOPPY.fullmatch(text):
            return source
        if not text:
            raise ValueError("the CSV is empty; give its text or a path")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not text: {error}") from None
    except (OSError, ValueError):
        raise ValueError(f"no CSV file at {str(source)!r}") from None


def _lines(text: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise ValueError(f"the text is no CSV: {error}") from None


def read_csv(source: str | Path, name: str = "csv") -> Schedule:
    """See ``Schedule.from_csv``. Placement is read off the rows: a stage lives where
    its actions stand."""
    rows: list[tuple[Action | Overlap, ...]] = []
    homes: dict[int, int] = {}
    seen: dict[Action, tuple[int, int]] = {}
    for rank, cells in enumerate(_lines(_read_text(source))):
        row = []
        for column, cell in enumerate(cells):
            text = cell.strip()
            if not text:
                continue
            item = _read_cell(text, rank, column)
            row.append(item)
            for action in halves(item):
                _settle(action, (rank, column), homes, seen)
        rows.append(tuple(row))
    if not homes:
        raise ValueError("the CSV has no actions")
    missing = next((s for s in range(len(homes)) if s not in homes), None)
    if missing is not None:
        raise ValueError(f"the CSV has no actions for stage {missing}")
    placed = tuple(homes[stage] for stage in range(len(homes)))
    return Schedule(name, tuple(rows), placed)


def _settle(
    action: Action,
    place: tuple[int, int],
    homes: dict[int, int],
    seen: dict[Action, tuple[int, int]],
) -> None:
    """Notes where an action and its stage stand. Raises ValueError for a second
    place."""
    rank, column = place
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


def write_csv(schedule: Schedule) -> str:
    """See ``Schedule.to_csv``: the rows without idle slots."""
    for rank, step, action in schedule.walk():
        if action.kind not in _PYTORCH_COMPUTE or action.slice:
            raise ValueError(
                f"rank {rank}, step {step}: PyTorch's format has no {action}"
            )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in schedule.ranks:
        writer.writerow([str(item) for item in row])
    return text.getvalue()
