"""Schedules as pictures: a text grid and an SVG, time to the right, one row per rank.

Both lay actions out as if F, I, W and R took one unit and B two, without communication;
for other costs, simulate. Beside one another, schedules are drawn to one scale: the unit
is then that of a rank's share of the model, of which a rank with two stages spends half
on each, and a sequence slice takes its even part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from math import lcm

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


def tint(colour: str, number: int) -> str:
    """``colour`` for stage ``number`` of a rank, counted from 0: the lighter the
    higher. Copies of the parameters are further stages, so they are told apart too."""
    white = 1 - 0.55**number
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02X}" for part in parts)


def _numbers(schedule: Schedule) -> dict[int, int]:
    """Every stage's number among those of its rank."""
    counts: dict[int, int] = {}
    found: dict[int, int] = {}
    for stage, rank in enumerate(schedule.stage_to_rank):
        found[stage] = counts.get(rank, 0)
        counts[rank] = found[stage] + 1
    return found


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
    least: int = 1,
) -> list[str]:
    """One line per rank; a cell that lasts longer than one column ends in dashes."""
    first, last = columns
    width, drawn = least, []
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
    x: float, y: float, width: float, height: float, text: str, title: str, fill: str
) -> str:
    """A cell with its letters, and its full text as a tooltip."""
    size = min(11.0, height - 1, 1.4 * width / max(2, len(text)))
    return (
        f'<g><title>{escape(title)}</title><rect x="{x:.1f}" y="{y:.1f}" '
        f'width="{width:.1f}" height="{height:.1f}" fill="{fill}" '
        'stroke="#222" stroke-width="0.5"/>'
        f'<text x="{x + width / 2:.1f}" y="{y + height / 2 + size / 3:.1f}" '
        f'font-size="{size:.1f}" text-anchor="middle" fill="#000">{escape(text)}</text></g>'
    )


def _row_svg(row: Sequence[Placed], y: float, unit: float, schedule: Schedule) -> str:
    """One rank. Cells too narrow for letters become one path per colour, so that a
    picture of 100,000 actions stays small."""
    many = schedule.num_stages > schedule.num_ranks
    numbers = _numbers(schedule)
    cells: list[str] = []
    paths: dict[tuple[Kind, str], list[str]] = {}
    for start, units, item in row:
        actions = halves(item)
        height = _HEIGHT / len(actions)
        x, width = _LEFT + start * unit, units * unit
        for i, action in enumerate(actions):
            top = y + i * height
            fill = tint(COLOURS[action.kind], numbers.get(action.stage, 0))
            if unit >= _READABLE:
                whole = str(action)
                text = whole if many else whole[len(str(action.stage)) :]
                cells.append(_letters(x, top, width, height, text, whole, fill))
            else:
                box = f"M{x:.1f} {top:g}h{width - 0.3:.1f}v{height:g}H{x:.1f}z"
                paths.setdefault((action.kind, fill), []).append(box)
    cells += [
        f'<path fill="{fill}" d="{"".join(boxes)}"><title>{kind}</title></path>'
        for (kind, fill), boxes in paths.items()
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


@dataclass(frozen=True)
class _Panel:
    """A laid out schedule; ``share`` is the part of a unit that one of its units is,
    where a unit is a rank's whole share of a microbatch."""

    schedule: Schedule
    rows: Sequence[Sequence[Placed]]
    share: Fraction

    @property
    def end(self) -> Fraction:
        return _end(self.rows) * self.share

    @property
    def caption(self) -> str:
        whole = _end(self.rows) * len(self.rows)
        work = sum(units for row in self.rows for _, units, _ in row)
        idle = 100 * (1 - work / whole) if whole else 0.0
        return f"bubble {idle:.1f} %, makespan {float(self.end):.6g}"

    def has(self, kind: Kind) -> bool:
        return any(action.kind is kind for _, _, action in self.schedule.walk())


class SideBySide:
    """Schedules one below the other on one scale of time, each under its name and its
    bubble: as text (``print``), and in a notebook as a picture.

    A unit of time is an F, I or W of a rank's share of one microbatch, whatever the
    number of stages on the rank; messages take none. ``schedule_figure`` draws the same
    for other costs. Lighter cells are of a rank's later stages.
    """

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = tuple(schedules)
        self._panels = [
            _Panel(
                one,
                layout(one),
                Fraction(one.num_ranks or 1, one.chain_length * one.num_slices),
            )
            for one in self.schedules
        ]

    def __str__(self) -> str:
        fine = lcm(*(panel.share.denominator for panel in self._panels))
        scaled = []
        for panel in self._panels:
            times = int(panel.share * fine)
            scaled.append(
                [[(s * times, u * times, i) for s, u, i in row] for row in panel.rows]
            )
        width = 1 + max(
            (len(_label(i)) for rows in scaled for row in rows for _, _, i in row),
            default=0,
        )
        lines = []
        for panel, rows in zip(self._panels, scaled, strict=True):
            lines.append(f"{panel.schedule.name}: {panel.caption}")
            lines += _lines(rows, range(len(rows)), (0, _end(rows)), None, width)
        return "\n".join(lines)

    def _repr_svg_(self) -> str:
        return _svg(self._panels)


def side_by_side(*schedules: Schedule) -> SideBySide:
    """Schedules one below the other on one scale of time, to print or to end a cell
    with. Raises ValueError without a schedule."""
    if not schedules:
        raise ValueError("nothing to draw: give at least one schedule")
    for one in schedules:
        if not isinstance(one, Schedule):
            raise ValueError(f"give schedules one by one, not {one!r}")
    return SideBySide(schedules)


def _svg(panels: Sequence[_Panel]) -> str:
    end = float(max(panel.end for panel in panels)) or 1.0
    finest = min((p.share for p in panels if p.rows), default=Fraction(1))
    widest = 26.0 / float(finest)
    unit = max(2.0, min(widest, 1100 / end))
    y, parts, narrow = 0.0, [], False
    for panel in panels:
        schedule, own = panel.schedule, unit * float(panel.share)
        if len(panels) > 1:
            parts.append(
                f'<text x="2" y="{y + 16:g}" font-size="13" font-weight="bold" '
                f'fill="currentColor">{escape(schedule.name)}<tspan '
                f'font-weight="normal">: {panel.caption}</tspan></text>'
            )
            y += _HEIGHT
        for rank, row in enumerate(panel.rows):
            parts.append(
                f'<text x="2" y="{y + 16:g}" font-size="12" fill="currentColor">'
                f"rank {rank}</text>{_row_svg(row, y, own, schedule)}"
            )
            y += _HEIGHT + _GAP
        narrow = narrow or own < _READABLE
    if narrow:
        kinds = (kind for kind in COLOURS if any(p.has(kind) for p in panels))
        parts.append(_legend(kinds, y))
        y += _HEIGHT
    total = _LEFT + end * unit + 2
    names = ", ".join(panel.schedule.name for panel in panels)
    label = escape(f"Schedule {names}; F I W R one unit and B two", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total:.0f}" height="{y:.0f}" '
        f'viewBox="0 0 {total:.0f} {y:.0f}" role="img" aria-label="{label}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def svg(schedule: Schedule) -> str:
    """The schedule as an SVG picture; each action has its text as a tooltip."""
    return _svg([_Panel(schedule, layout(schedule), Fraction(1))])
