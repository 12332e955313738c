"""PyTorch's compute-only CSV, both ways and strict: one line per rank, one cell per
time slot, empty cells for idle slots. What PyTorch's own reader would take for
something else is refused.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from .ir import COMPUTE, Action, Kind, Overlap, Schedule, halves, parse

_OLD_FULL_BACKWARD = re.compile(r"\d+BW\d+")
_PYTORCH_COMPUTE = frozenset({Kind.F, Kind.I, Kind.W, Kind.B})


def _nearest(text: str) -> str:
    """A valid cell near a wrong one, as a hint."""
    found = re.match(r"\s*(\d+)\s*([FIWB])\s*(\d+)", text, re.IGNORECASE)
    return f"; did you mean {found[1]}{found[2].upper()}{found[3]}?" if found else ""


def _read_cell(text: str, rank: int, column: int) -> Action | Overlap:
    where = f"line {rank + 1} (rank {rank}), column {column + 1}: {text!r}"
    if _OLD_FULL_BACKWARD.fullmatch(text):
        raise ValueError(
            f"{where} is the spelling of 2024, when BW was the full backward and B the "
            f"input gradient; write {text.replace('BW', 'B')}, and I for the old B"
        )
    try:
        item = parse(text)
    except ValueError:
        raise ValueError(f"{where} is no action{_nearest(text)}") from None
    for action in halves(item):
        if action.kind not in COMPUTE:
            raise ValueError(
                f"{where} is communication; this reads the compute-only format"
            )
    return item


def _read_text(source: str | Path) -> str:
    if isinstance(source, str) and ("\n" in source or "," in source):
        return source
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None
    except OSError:
        raise ValueError(f"no CSV file at {path}") from None


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
                if action in seen:
                    line, before = seen[action]
                    raise ValueError(
                        f"line {rank + 1}, column {column + 1}: {action} stands at line "
                        f"{line + 1}, column {before + 1} already"
                    )
                seen[action] = (rank, column)
                home = homes.setdefault(action.stage, rank)
                if home != rank:
                    raise ValueError(
                        f"line {rank + 1}, column {column + 1}: {action} puts stage "
                        f"{action.stage} on rank {rank}, but it is on rank {home} already"
                    )
        rows.append(tuple(row))
    if not homes:
        raise ValueError("the CSV has no actions")
    missing = sorted(set(range(max(homes) + 1)) - set(homes))
    if missing:
        raise ValueError(f"the CSV has no actions for stage {missing[0]}")
    placed = tuple(homes[stage] for stage in range(len(homes)))
    return Schedule(name, tuple(rows), placed)


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
