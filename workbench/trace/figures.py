"""Plotly figures of traces and reports, for what is analysed rather than watched.

Plotly is imported when a figure is made. Every figure says in its title whether its
times were simulated, measured or assembled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schedule import COMPUTE, KIND_CODE
from .cells import LOWER, UPPER, WHOLE, colours, halves, stage_numbers
from .palette import CAUSE_COLOURS
from .trace import COMPUTE_LANE, WAIT_LANE, Trace

if TYPE_CHECKING:
    from .report import BubbleReport


def _go() -> Any:
    import plotly.graph_objects as go

    return go


def _title(what: str, trace: Trace) -> str:
    schedule = trace.metadata.get("schedule")
    name = f", {schedule}" if schedule else ""
    return f"{what}{name} ({trace.source})"


def _bars(trace: Trace, rows: np.ndarray) -> list[Any]:
    """One trace of horizontal bars per kind; ``rows`` gives each event its row."""
    go = _go()
    origin = int(trace.start.min()) if len(trace) else 0
    starts = (trace.start - origin) * trace.tick
    lengths = (trace.end - trace.start) * trace.tick
    names = np.array([str(a) for a in trace.actions()], dtype=object)
    half, number, colour = halves(trace), stage_numbers(trace), colours(trace)
    places = rows + np.select([half == UPPER, half == LOWER], [-0.21, 0.21])
    bars = []
    for kind in KIND_CODE:
        shown = np.flatnonzero(trace.of_kind(kind) & (trace.lane != WAIT_LANE))
        if not len(shown):
            continue
        # The legend takes the first one's colour.
        shown = shown[np.argsort(number[shown], kind="stable")]
        bars.append(
            go.Bar(
                name=str(kind),
                orientation="h",
                base=starts[shown],
                x=lengths[shown],
                y=places[shown],
                width=np.where(half[shown] == WHOLE, 0.85, 0.42),
                customdata=np.stack([names[shown], trace.step[shown]], axis=1),
                hovertemplate=(
                    "%{customdata[0]}, step %{customdata[1]}<br>"
                    f"from %{{base:.6g}} for %{{x:.6g}} {trace.unit}<extra></extra>"
                ),
                marker=dict(color=colour[shown], line=dict(width=0.5, color="#222")),
                text=names[shown] if kind in COMPUTE else None,
                textposition="inside",
                insidetextanchor="middle",
                insidetextfont=dict(color="#111"),
            )
        )
    return bars


def timeline(trace: Trace) -> Any:
    """What every rank did when. Best for one step or a few: thousands of bars are
    slow."""
    go = _go()
    figure = go.Figure(_bars(trace, trace.rank.astype(float)))
    figure.update_layout(
        title=_title("Timeline", trace),
        barmode="overlay",
        bargap=0.15,
        xaxis_title=f"time ({trace.unit})",
        yaxis=dict(title="rank", autorange="reversed", dtick=1),
        height=160 + 44 * max(1, trace.num_ranks),
        template="plotly_white",
    )
    return figure


def bubbles(report: BubbleReport) -> Any:
    """Stacked bars: the share of the makespan of every part, per rank."""
    go = _go()
    from .report import PARTS

    ranks = [f"rank {r}" for r in range(len(report.ranks))]
    figure = go.Figure(
        [
            go.Bar(
                name=part.replace("_", " "),
                x=ranks,
                y=[100 * report.share(part, r) for r in range(len(ranks))],
                marker_color=CAUSE_COLOURS[part],
                hovertemplate="%{y:.2f} %<extra>%{fullData.name}</extra>",
            )
            for part in PARTS
        ]
    )
    figure.update_layout(
        title=f"Where the time goes ({report.source}), bubble fraction "
        f"{100 * report.bubble_fraction:.1f} %",
        barmode="stack",
        yaxis_title="share of the makespan (%)",
        template="plotly_white",
    )
    return figure


def memory(trace: Trace) -> Any:
    """Live memory of every rank at the end of its actions."""
    go = _go()
    origin = int(trace.start.min()) if len(trace) else 0
    measured = bool(trace.metadata.get("live_bytes", trace.source != "simulated"))
    figure = go.Figure()
    for rank in range(trace.num_ranks):
        mask = (trace.rank == rank) & (trace.lane == COMPUTE_LANE)
        order = np.argsort(trace.end[mask], kind="stable")
        live = trace.live[mask][order] / (2**20 if measured else 1)
        times = (trace.end[mask][order] - origin) * trace.tick
        line = dict(shape="hv")
        figure.add_scatter(
            x=times, y=live, name=f"rank {rank}", line=line, mode="lines"
        )
    figure.update_layout(
        title=_title("Activations held", trace),
        xaxis_title=f"time ({trace.unit})",
        yaxis_title="MiB" if measured else "microbatches in flight",
        template="plotly_white",
    )
    return figure


def losses(
    values: Sequence[float], name: str = "loss", bar: float | None = None
) -> Any:
    """A loss curve by step; ``bar`` draws a level to beat."""
    go = _go()
    figure = go.Figure(go.Scatter(y=list(values), name=name, mode="lines"))
    if bar is not None:
        figure.add_hline(y=bar, line_dash="dash", annotation_text="unigram entropy")
    figure.update_layout(
        title="Training loss",
        xaxis_title="step",
        yaxis_title="nats per token",
        template="plotly_white",
    )
    return figure


def comparison(first: Trace, second: Trace) -> Any:
    """Two traces under one another on one time axis, rank by rank."""
    go = _go()
    figure = go.Figure()
    labels, places = [], []
    for offset, trace in ((0, first), (1, second)):
        rows = 2.5 * trace.rank + offset
        for bar in _bars(trace, rows):
            bar.showlegend = offset == 0
            figure.add_trace(bar)
        for rank in range(trace.num_ranks):
            labels.append(f"rank {rank}, {trace.source}")
            places.append(2.5 * rank + offset)
    figure.update_layout(
        title=f"{first.source} above {second.source}",
        barmode="overlay",
        xaxis_title=f"time ({second.unit})",
        yaxis=dict(tickvals=places, ticktext=labels, autorange="reversed"),
        height=200 + 80 * max(first.num_ranks, second.num_ranks),
        template="plotly_white",
    )
    return figure


def timelines(traces: Sequence[Trace]) -> Any:
    """Traces one below the other on one time axis, each under its name and bubble."""
    from plotly.subplots import make_subplots

    heights = [70 + 34 * trace.num_ranks for trace in traces]
    figure = make_subplots(
        rows=len(traces),
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=50 / (sum(heights) + 120),
        subplot_titles=[_caption(trace) for trace in traces],
    )
    shown: set[str] = set()
    for row, trace in enumerate(traces, 1):
        for bar in _bars(trace, trace.rank.astype(float)):
            bar.update(legendgroup=bar.name, showlegend=bar.name not in shown)
            shown.add(bar.name)
            figure.add_trace(bar, row=row, col=1)
        axis = dict(title="rank", autorange="reversed", dtick=1)
        figure.update_yaxes(axis, row=row, col=1)
    units = ", ".join(dict.fromkeys(trace.unit for trace in traces))
    figure.update_xaxes(title=f"time ({units})", row=len(traces), col=1)
    figure.update_layout(
        barmode="overlay",
        bargap=0.12,
        height=110 + sum(heights),
        margin=dict(t=50, b=60),
        template="plotly_white",
    )
    return figure


def _caption(trace: Trace) -> str:
    name = trace.metadata.get("schedule", trace.source)
    bubble = 100 * trace.bubbles().bubble_fraction
    return (
        f"{name} ({trace.source}): bubble {bubble:.1f} %, makespan "
        f"{trace.makespan:.6g} {trace.unit}"
    )
