"""Plotly figures of traces and reports, for what is analysed rather than watched.

Plotly is imported when a figure is made. Every figure says in its title whether its
times were simulated, measured or assembled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schedule import KIND_CODE, Kind
from .palette import CAUSE_COLOURS, KIND_COLOURS, WAIT_COLOUR
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
    shift, height = _halves(trace)
    hatch = _hatch(trace)
    bars = []
    kinds = [
        (kind, trace.of_kind(kind) & (trace.lane != WAIT_LANE)) for kind in KIND_CODE
    ]
    for kind, mask in kinds:
        if not mask.any():
            continue
        bars.append(
            go.Bar(
                name=str(kind),
                orientation="h",
                base=starts[mask],
                x=lengths[mask],
                y=(rows + shift)[mask],
                width=height[mask],
                customdata=np.stack([names[mask], trace.step[mask]], axis=1),
                hovertemplate=(
                    "%{customdata[0]}, step %{customdata[1]}<br>"
                    f"from %{{base:.6g}} for %{{x:.6g}} {trace.unit}<extra></extra>"
                ),
                marker=dict(
                    color=KIND_COLOURS.get(kind, WAIT_COLOUR),
                    line=dict(width=0.5, color="#222"),
                    pattern=dict(
                        shape=hatch[mask], solidity=0.12, size=6, fgcolor="#222"
                    ),
                ),
                text=[
                    n if kind in (Kind.F, Kind.B, Kind.I, Kind.W) else ""
                    for n in names[mask]
                ],
                textposition="inside",
                insidetextanchor="middle",
            )
        )
    return bars


def _halves(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """(shift, height) of every event's bar: actions that run together share a row."""
    shift, height = np.zeros(len(trace)), np.full(len(trace), 0.85)
    work = np.flatnonzero(trace.lane == COMPUTE_LANE)
    about = np.stack([trace.rank[work], trace.start[work], trace.end[work]])
    _, first, where = np.unique(about, axis=1, return_index=True, return_inverse=True)
    where = where.reshape(-1)
    second = np.setdiff1d(np.arange(len(work)), first)
    second = second[trace.end[work[second]] > trace.start[work[second]]]
    for part, by in ((first[where[second]], -0.21), (second, 0.21)):
        shift[work[part]], height[work[part]] = by, 0.42
    return shift, height


def _hatch(trace: Trace) -> np.ndarray:
    """Patterns that tell a rank's stages apart, in ascending order; none for the
    first."""
    found = np.full(len(trace), "", dtype=object)
    for rank in range(trace.num_ranks):
        mine = trace.rank == rank
        stages = np.unique(trace.stage[mine])
        for stage, pattern in zip(stages[1:], cycle("/.x"), strict=False):
            found[mine & (trace.stage == stage)] = pattern
    return found


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
