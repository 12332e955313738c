"""Schedules as pictures: a text grid and an SVG, time to the right, one row per rank.

Both lay actions out as if F, I, W and R took one unit and B two, without communication;
for other costs, simulate.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .ir import Action, Kind, Overlap, Schedule, halves

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
_WINDOW = 14  # columns on each side of a mark

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


def _window(
    rows: Sequence[Sequence[Placed]], mark: tuple[int, int] | None
) -> tuple[int, int]:
    end = max((start + units for row in rows for start, units, _ in row), default=0)
    if mark is None or end <= 2 * _WINDOW or mark[1] >= len(rows[mark[0]]):
        return 0, end
    centre = rows[mark[0]][mark[1]][0]
    return max(0, centre - _WINDOW), min(end, centre + _WINDOW)


def grid(schedule: Schedule, mark: tuple[int, int] | None = None) -> str:
    """The schedule as text. ``mark`` = (rank, step) is pointed at; a long grid is then
    cut to its surroundings."""
    rows = layout(schedule)
    first, last = _window(rows, mark)
    shown = [
        item for row in rows for start, units, item in row if start + units > first
        and start < last
    ]  # fmt: skip
    width = max((len(_label(item)) for item in shown), default=1) + 1
    lines = []
    for rank, row in enumerate(rows):
        cells = ["."] * (last - first)
        for step, (start, units, item) in enumerate(row):
            text = _label(item)
            if mark == (rank, step):
                text += "*"
            for unit in range(units):
                column = start + unit - first
                if 0 <= column < len(cells):
                    cells[column] = text if unit == 0 else "-" * len(text)
        body = " ".join(cell.ljust(width) for cell in cells).rstrip()
        pointer = f"  {_MARK}" if mark is not None and mark[0] == rank else ""
        lines.append(f"rank {rank:<3}| {body}{pointer}")
    if first:
        lines.append(f"(columns {first} to {last})")
    return "\n".join(lines)


def _cell(
    x: float, y: float, width: float, height: float, action: Action, many: bool
) -> str:
    label = f"{action.stage}{action.kind}{action.microbatch}" if many else None
    text = label or f"{action.kind}{action.microbatch}"
    size = min(11.0, 1.7 * width / max(2, len(text)))
    return (
        f'<g><title>{escape(str(action))}</title><rect x="{x:.1f}" y="{y:.1f}" '
        f'width="{width:.1f}" height="{height:.1f}" fill="{COLOURS[action.kind]}" '
        'stroke="#222" stroke-width="0.5"/>'
        f'<text x="{x + width / 2:.1f}" y="{y + height / 2 + size / 3:.1f}" '
        f'font-size="{size:.1f}" text-anchor="middle" fill="#000">{escape(text)}</text></g>'
    )


def svg(schedule: Schedule) -> str:
    """The schedule as an SVG picture; each action has its text as a tooltip."""
    rows = layout(schedule)
    end = max((start + units for row in rows for start, units, _ in row), default=1)
    unit = max(6.0, min(26.0, 1100 / max(1, end)))
    height, gap, left = 24, 4, 56
    many = schedule.num_stages > schedule.num_ranks
    parts = []
    for rank, row in enumerate(rows):
        y = rank * (height + gap)
        parts.append(
            f'<text x="2" y="{y + 16}" font-size="12" fill="currentColor">rank {rank}</text>'
        )
        for start, units, item in row:
            actions = halves(item)
            share = height / len(actions)
            for i, action in enumerate(actions):
                x, width = left + start * unit, units * unit
                parts.append(_cell(x, y + i * share, width, share, action, many))
    total, tall = left + end * unit + 2, schedule.num_ranks * (height + gap)
    label = escape(f"Schedule {schedule.name}, F I W one unit and B two")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total:.0f}" height="{tall}" '
        f'viewBox="0 0 {total:.0f} {tall}" role="img" aria-label="{label}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )
