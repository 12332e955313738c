"""Tables of times, from whatever wrote them, as a ``Trace``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..schedule import KINDS, WHOLE_STAGE, Action, Kind
from .imports import Event, trace_of
from .imports_clocks import align
from .trace import Trace

_NEEDED = ("rank", "stage", "kind", "microbatch", "start", "end")
_MORE = ("slice", "step")
_TIMES = ("start", "end")
#: Ticks are nanoseconds, or a billionth of an unnamed unit.
_FACTOR = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1.0, "unit": 1e9}
#: What other projects call the kinds; Megatron's timers among them.
_ALIASES = {
    "forward": Kind.F,
    "fwd": Kind.F,
    "forward-compute": Kind.F,
    "backward": Kind.B,
    "bwd": Kind.B,
    "backward-compute": Kind.B,
    "backward-input": Kind.I,
    "dgrad": Kind.I,
    "backward-weight": Kind.W,
    "wgrad": Kind.W,
    "recompute": Kind.R,
    "forward-send": Kind.SEND_F,
    "forward-recv": Kind.RECV_F,
    "backward-send": Kind.SEND_B,
    "backward-recv": Kind.RECV_B,
    "grads-reduce": Kind.REDUCE_GRAD,
    "all-grads-sync": Kind.REDUCE_GRAD,
    "optimizer": Kind.OPT_STEP,
}


def _kind(value: Any, row: int) -> Kind:
    text = str(value).strip()
    if text.upper() in KINDS:
        return Kind(text.upper())
    alias = text.lower().replace("_", "-").replace(" ", "-")
    if alias in _ALIASES:
        return _ALIASES[alias]
    raise ValueError(
        f"row {row}: no kind {value!r}; there are {', '.join(KINDS)}, and "
        f"{', '.join(_ALIASES)}"
    )


def _columns(table: Any) -> dict[str, Sequence[Any]]:
    """name -> values of a table in any of its forms."""
    if isinstance(table, Mapping):
        return {str(name): list(values) for name, values in table.items()}
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):
        return {str(name): list(table[name]) for name in table.columns}
    names = getattr(getattr(table, "dtype", None), "names", None)
    if names:
        return {name: table[name].tolist() for name in names}
    if isinstance(table, (str, bytes)) or not isinstance(table, Iterable):
        raise ValueError(
            f"the table must be rows, a dict of columns or a data frame, got {table!r}"
        )
    return _from_rows(list(table))


def _from_rows(rows: list[Any]) -> dict[str, Sequence[Any]]:
    if not rows:
        raise ValueError("the table has no rows")
    order = _NEEDED + _MORE
    found: dict[str, list[Any]] = {}
    first: list[str] | None = None
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            cells = {str(name): value for name, value in row.items()}
        else:
            values = list(row)
            if not len(_NEEDED) <= len(values) <= len(order):
                raise ValueError(
                    f"row {number} has {len(values)} values; they are "
                    f"{', '.join(_NEEDED)} and, if you like, {', '.join(_MORE)}"
                )
            cells = dict(zip(order, values, strict=False))
        first = first or sorted(cells)
        if sorted(cells) != first:
            raise ValueError(f"row {number} has {sorted(cells)}, but row 0 has {first}")
        for name, value in cells.items():
            found.setdefault(name, []).append(value)
    return dict(found)


def _checked(table: Any) -> dict[str, Sequence[Any]]:
    columns = _columns(table)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"the table lacks {', '.join(missing)}; it has {', '.join(columns)}: rename "
            "or add columns"
        )
    lengths = {name: len(columns[name]) for name in _NEEDED + _MORE if name in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}")
    if not lengths["rank"]:
        raise ValueError("the table has no rows")
    return columns


def _convert(value: Any, to: str) -> str:
    """What a reader of text files needs to hear."""
    return f"; convert texts with {to}()" if isinstance(value, str) else ""


def _whole(value: Any, name: str, row: int, least: int = 0) -> int:
    number = float("nan")
    if not isinstance(value, (bool, str)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
    if number != number or number != math.floor(number) or number < least:
        raise ValueError(
            f"row {row}: {name} must be a whole number of at least {least}, got {value!r}"
            + _convert(value, "int")
        )
    return int(number)


def _ticks(columns: Mapping[str, Sequence[Any]], factor: float) -> list[list[int]]:
    """Starts and ends, counted from the first one, so that nothing of an epoch's
    fraction is lost."""
    raw: dict[str, list[Any]] = {name: list(columns[name]) for name in _TIMES}
    for name, values in raw.items():
        for row, value in enumerate(values):
            try:
                good = not isinstance(value, (bool, str)) and math.isfinite(value)
            except TypeError:
                good = False
            if not good:
                raise ValueError(
                    f"row {row}: {name} must be a finite number, got {value!r}"
                    + _convert(value, "float")
                )
    origin = min(raw["start"])
    return [[round((v - origin) * factor) for v in raw[name]] for name in _TIMES]


def from_rows(table: Any, unit: str, align_clocks: bool) -> Trace:
    """See ``Trace.from_rows``."""
    if unit not in _FACTOR:
        raise ValueError(f"unit must be one of {', '.join(_FACTOR)}, got {unit!r}")
    columns = _checked(table)
    starts, ends = _ticks(columns, _FACTOR[unit])
    events = []
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        values = {n: columns[n][row] for n in (*_NEEDED, *_MORE) if n in columns}
        kind = _kind(values["kind"], row)
        numbers = [_whole(values["stage"], "stage", row)]
        microbatch = values["microbatch"]
        if kind in WHOLE_STAGE:
            microbatch = -1
        least = -1 if kind in WHOLE_STAGE else 0
        numbers.append(_whole(microbatch, "microbatch", row, least))
        numbers.append(_whole(values.get("slice", 0), "slice", row))
        if end < start:
            raise ValueError(
                f"row {row} ends at {values['end']}, before its start {values['start']}; "
                "both are points of time, end is no duration"
            )
        action = Action(numbers[0], kind, numbers[1], numbers[2])
        rank = _whole(values["rank"], "rank", row)
        step = _whole(values.get("step", 0), "step", row)
        events.append(Event(rank, action, step, start, end))
    metadata: dict[str, Any] = {"format": "rows"}
    if align_clocks:
        clocks = align(events)
        events = clocks.apply(events)
        metadata |= clocks.metadata(1e-9)
    return trace_of(events, 1e-9, "unit" if unit == "unit" else "s", metadata)
