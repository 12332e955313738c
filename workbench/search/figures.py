"""The table of schedules as a Plotly figure: bubble against memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .table import Entry, ScheduleTable

#: Pixels: the figure's height, the least of its inner part in a notebook, a letter.
_HEIGHT, _INSIDE, _LETTER = 560, (620.0, 420.0), (6.5, 14.0)
#: Where a label may stand, from its marker: the part of its width and height by which
#: its middle lies off, in the order in which places are tried.
_PLACES = {
    "top center": (0.0, 0.5),
    "middle right": (0.5, 0.0),
    "bottom center": (0.0, -0.5),
    "middle left": (-0.5, 0.0),
    "top right": (0.5, 0.5),
    "bottom right": (0.5, -0.5),
    "top left": (-0.5, 0.5),
    "bottom left": (-0.5, -0.5),
}
_MARKER = 7.0

Point = tuple[float, float]


def label_places(points: Sequence[Point], labels: Sequence[str]) -> list[str]:
    """Plotly's ``textposition`` for every label, of points in pixels: the first place
    where it covers no marker and no label, or that where it covers least."""
    taken = [(x, y, 2 * _MARKER, 2 * _MARKER) for x, y in points]
    found = []
    for (x, y), label in zip(points, labels, strict=True):
        wide, tall = _LETTER[0] * len(label), _LETTER[1]
        boxes = {
            name: (
                x + right * (wide + 2 * _MARKER),
                y + up * (tall + 2 * _MARKER),
                wide,
                tall,
            )
            for name, (right, up) in _PLACES.items()
        }
        best = min(boxes, key=lambda name: sum(_common(boxes[name], t) for t in taken))
        taken.append(boxes[best])
        found.append(best)
    return found


def _common(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The area that two boxes, of middle and size, have in common."""
    x, y = ((one[i + 2] + other[i + 2]) / 2 - abs(one[i] - other[i]) for i in range(2))
    return max(0.0, x) * max(0.0, y)


def scatter(table: ScheduleTable) -> Any:
    """See ``ScheduleTable.figure``."""
    import plotly.graph_objects as go

    spots: dict[tuple[int, float, float], list[Entry]] = {}
    for entry in table:
        if entry.schedule is not None:
            bubble = round(100 * (entry.bubble_fraction or 0.0), 3)
            spot = entry.parameter_copies or 1, entry.peak_memory or 0.0, bubble
            spots.setdefault(spot, []).append(entry)
    most = max([table.memory_limit or 0.0, *(x for _, x, _ in spots)])
    right = 1.12 * most or 1.0
    top = 1.12 * max((y for _, _, y in spots), default=1.0) or 1.0
    labels = [", ".join(dict.fromkeys(e.name for e in s)) for s in spots.values()]
    pixels = [(_INSIDE[0] * x / right, _INSIDE[1] * y / top) for _, x, y in spots]
    shown = list(zip(spots.items(), labels, label_places(pixels, labels), strict=True))
    figure = go.Figure()
    for copies in sorted({copies for copies, _, _ in spots}):
        some = [part for part in shown if part[0][0][0] == copies]
        first = [entries[0] for (_, entries), _, _ in some]
        figure.add_scatter(
            x=[memory for ((_, memory, _), _), _, _ in some],
            y=[bubble for ((_, _, bubble), _), _, _ in some],
            text=[label for _, label, _ in some],
            name=f"{copies} cop{'y' if copies == 1 else 'ies'} of the parameters",
            mode="markers+text",
            cliponaxis=False,
            textposition=[place for _, _, place in some],
            marker=dict(size=10, symbol="circle" if copies == 1 else "diamond"),
            customdata=[[e.row()["options"], e.makespan, e.volume] for e in first],
            hovertemplate=(
                "%{text} %{customdata[0]}<br>bubble %{y:.1f} %, memory %{x:.3g}<br>"
                f"makespan %{{customdata[1]:.6g}} {table.unit}, volume "
                "%{customdata[2]:.6g}<extra></extra>"
            ),
        )
    if table.memory_limit is not None:
        figure.add_vline(
            x=table.memory_limit,
            line=dict(dash="dash", color="#999999", width=1),
            annotation_text="memory limit",
            annotation_position="bottom right",
        )
    figure.update_layout(
        title=table.title,
        xaxis=dict(
            title="peak memory (a microbatch's activations of one rank)",
            range=[0, right],
        ),
        yaxis=dict(title="bubble (% of ranks x makespan)", range=[0, top]),
        legend=dict(orientation="h", yanchor="bottom", y=1.0, xanchor="right", x=1.0),
        height=_HEIGHT,
        template="plotly_white",
    )
    return figure
