"""Schedules as pictures: a text grid and an SVG, time to the right, one row per rank.

Both lay actions out as if F, I, W and R took one unit and B two, without communication;
for other costs, simulate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .actions import Action, Kind, Overlap, halves
from .ir import Schedule

#: Okabe and Ito's colours, told apart by everyone; letters say the kind a second time.
COLOURS = {
    Kind.F: "#56B4E9",
    Kind.I: "#009E73",
    Kind.B: "#009E73",
    Kind.W: "#E69F00",
    Kind.R: "#CC79A7",
}
_UNITS = {Kind.B: 2}
_MARK = "<-- ERROR HERE"
_COLUMNS, _RANKS = 14, 6  # shown on each side of a mark
#: Pixels: height of a row, space below it, names on the left, narrowest unit of time
#: that has letters.
_HEIGHT, _GAP, _LEFT, _READABLE = 24, 4, 56, 6.0

Placed = tuple[int, int, "Action | Overlap"]


def _units(item: Action | Overlap) -> int:
    return sum(_UNITS.get(a.kind, 1) for a in halves(item))


def layout(schedule: Schedule) -> list[list[Placed]]:
    """(start, units, item) per rank. Broken schedules are laid out too: what cannot
    start because something it needs never comes is put behind what can."""
    rows: list[list[Placed]] = [[] for _ in schedule.ranks]
    ends: dict[Action, int] = {}
    clock = [0] * schedule.num_ranks
    position = [0] * schedule.num_ranks

    def place(rank: int, start: int) -> None:
        item = schedule.ranks[rank][position[rank]]
        rows[rank].append((start, _units(item), item))
        clock[rank] = start + _units(item)
        ends.update(dict.fromkeys(halves(item), clock[rank]))
        position[rank] += 1

    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(schedule.ranks):
            while position[rank] < len(row):
                item = row[position[rank]]
                needs = [n for a in halves(item) for n in schedule.dependencies(a)]
                if any(n not in ends and schedule.has(n) for n in needs):
                    break
                place(rank, max([clock[rank], *(ends.get(n, 0) for n in needs)]))
                moved = True
    for rank, row in enumerate(schedule.ranks):
        while position[rank] < len(row):
            place(rank, clock[rank])
    return rows


def _label(item: Action | Overlap) -> str:
    return "&".join(str(a) for a in halves(item))


def _window(centre: int, reach: int, end: int) -> tuple[int, int]:
    """What is shown of 0..end around ``centre``: all of it if it is not much."""
    if end <= 2 * reach:
        return 0, end
    return max(0, min(centre - reach, end - 2 * reach)), min(
        end, max(centre + reach, 2 * reach)
    )


def grid(schedule: Schedule) -> str:
    """The schedule as text."""
    rows = layout(schedule)
    return "\n".join(_lines(rows, range(len(rows)), (0, _end(rows)), None))


def marked_grid(schedule: Schedule, rank: int | None, step: int | None) -> str:
    """The schedule as text with a place pointed at (a rank without a step: its row),
    cut to the surroundings of that place where it is large."""
    rows = layout(schedule)
    end = _end(rows)
    column = 0
    if rank is not None and step is not None and step < len(rows[rank]):
        column = rows[rank][step][0]
    first, last = _window(column, _COLUMNS, end)
    low, high = _window(rank or 0, _RANKS, len(rows))
    lines = _lines(rows, range(low, high), (first, last), (rank, step))
    if (first, last) != (0, end):
        lines.append(f"(columns {first} to {last - 1} of {end})")
    if (low, high) != (0, len(rows)):
        lines.append(f"(ranks {low} to {high - 1} of {len(rows)})")
    return "\n".join(lines)


def _end(rows: Sequence[Sequence[Placed]]) -> int:
    return max((start + units for row in rows for start, units, _ in row), default=0)


def _lines(
    rows: Sequence[Sequence[Placed]],
    ranks: range,
    columns: tuple[int, int],
    mark: tuple[int | None, int | None] | None,
) -> list[str]:
    """One line per rank; a cell that lasts longer than one column ends in dashes."""
    first, last = columns
    width, drawn = 1, []
    for rank in ranks:
        cells = ["."] * (last - first)
        for step, (start, units, item) in enumerate(rows[rank]):
            if start + units <= first or start >= last:
                continue
            text = _label(item) + ("*" if mark == (rank, step) else "")
            for column in range(max(start, first), min(start + units, last)):
                cells[column - first] = text if column == start else "-" * len(text)
            width = max(width, len(_label(item)) + 1)
        drawn.append(cells)
    lines = []
    for rank, cells in zip(ranks, drawn, strict=True):
        body = " ".join(cell.ljust(width) for cell in cells).rstrip()
        pointer = f"  {_MARK}" if mark is not None and mark[0] == rank else ""
        lines.append(f"rank {rank:<3}| {body}{pointer}".rstrip())
    return lines


def _letters(
    x: float, y: float, width: float, height: float, action: Action, many: bool
) -> str:
    """A cell with its letters, and its full text as a tooltip."""
    text = str(action) if many else str(action)[len(str(action.stage)) :]
    size = min(11.0, 1.7 * width / max(2, len(text)))
    return (
        f'<g><title>{escape(str(action))}</title><rect x="{x:.1f}" y="{y:.1f}" '
        f'width="{width:.1f}" height="{height:.1f}" fill="{COLOURS[action.kind]}" '
        'stroke="#222" stroke-width="0.5"/>'
        f'<text x="{x + width / 2:.1f}" y="{y + height / 2 + size / 3:.1f}" '
        f'font-size="{size:.1f}" text-anchor="middle" fill="#000">{escape(text)}</text></g>'
    )


def _row_svg(row: Sequence[Placed], y: float, unit: float, many: bool) -> str:
    """One rank. Cells too narrow for letters become one path per kind, so that a
    picture of 100,000 actions stays small."""
    cells: list[str] = []
    paths: dict[Kind, list[str]] = {}
    for start, units, item in row:
        actions = halves(item)
        height = _HEIGHT / len(actions)
        x, width = _LEFT + start * unit, units * unit
        for i, action in enumerate(actions):
            top = y + i * height
            if unit >= _READABLE:
                cells.append(_letters(x, top, width, height, action, many))
            else:
                box = f"M{x:.1f} {top:g}h{width - 0.3:.1f}v{height:g}H{x:.1f}z"
                paths.setdefault(action.kind, []).append(box)
    cells += [
        f'<path fill="{COLOURS[kind]}" d="{"".join(boxes)}"><title>{kind}</title></path>'
        for kind, boxes in paths.items()
    ]
    return "".join(cells)


def _legend(kinds: Iterable[Kind], y: float) -> str:
    """Colours and their letters, for pictures whose cells have none."""
    return "".join(
        f'<rect x="{_LEFT + 40 * i}" y="{y + 4:g}" width="12" height="12" '
        f'fill="{COLOURS[kind]}"/><text x="{_LEFT + 40 * i + 16}" y="{y + 14:g}" '
        f'font-size="12" fill="currentColor">{kind}</text>'
        for i, kind in enumerate(kinds)
    )


def side_by_side(*schedules: Schedule) -> str:
    """SVG of schedules one below the other on one scale of time, each under its name.

    Raises ValueError without a schedule.
    """
    if not schedules:
        raise ValueError("nothing to draw: give at least one schedule")
    rows = [layout(schedule) for schedule in schedules]
    end = max((s + u for part in rows for row in part for s, u, _ in row), default=1)
    unit = max(2.0, min(26.0, 1100 / max(1, end)))
    y, parts = 0.0, []
    for schedule, part in zip(schedules, rows, strict=True):
        if len(schedules) > 1:
            parts.append(
                f'<text x="2" y="{y + 16:g}" font-size="13" font-weight="bold" '
                f'fill="currentColor">{escape(schedule.name)}</text>'
            )
            y += _HEIGHT
        many = schedule.num_stages > schedule.num_ranks
        for rank, row in enumerate(part):
            parts.append(
                f'<text x="2" y="{y + 16:g}" font-size="12" '
                f'fill="currentColor">rank {rank}</text>{_row_svg(row, y, unit, many)}'
            )
            y += _HEIGHT + _GAP
    if unit < _READABLE:
        parts.append(_legend((kind for kind in COLOURS if _drawn(kind, rows)), y))
        y += _HEIGHT
    total = _LEFT + end * unit + 2
    names = ", ".join(schedule.name for schedule in schedules)
    label = escape(f"Schedule {names}; F I W R one unit and B two", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total:.0f}" height="{y:.0f}" '
        f'viewBox="0 0 {total:.0f} {y:.0f}" role="img" aria-label="{label}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _drawn(kind: Kind, schedules: Sequence[Sequence[Sequence[Placed]]]) -> bool:
    return any(
        action.kind is kind
        for rows in schedules
        for row in rows
        for _, _, item in row
        for action in halves(item)
    )


def svg(schedule: Schedule) -> str:
    """The schedule as an SVG picture; each action has its text as a tooltip."""
    return side_by_side(schedule)
