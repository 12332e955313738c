"""What is left when there is no kernel: a run or a trace as HTML without scripts.

The picture is bounded in size however long the run was: boxes where they can be told
apart, otherwise the share of time at work per column, never a colour that hides a
bubble.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from ..engine import Run
from ..schedule import KIND_CODE, Kind
from ..trace import COLUMNS, WAIT_LANE, BubbleReport, Trace
from ..trace.palette import KIND_COLOURS
from .ticks import REPLAY_EVENTS
from .timeline import Live, summary

STATIC_STEPS = 2
#: More boxes than this are no picture; they become shares per column.
MOST_BOXES = 800
#: Events of a trace whose idle time is told apart; beyond, the last whole steps.
REPORT_EVENTS = 100_000
_WIDTH, _LEFT, _POINTS = 1000, 60, 15_000

_GROUPS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("F", (Kind.F,)),
    ("B", (Kind.I, Kind.B)),
    ("W", (Kind.W,)),
    ("R", (Kind.R,)),
    ("OPT_STEP", (Kind.REDUCE_GRAD, Kind.OPT_STEP)),
)


def static_html(shown: Trace | Live) -> str:
    """The last steps, the bubbles and the losses of a run, or a trace, as HTML without
    scripts: what a saved notebook shows."""
    if isinstance(shown, Trace):
        title = str(shown.metadata.get("schedule", "Timeline"))
        text = f"makespan {shown.makespan:.6g} {shown.unit}, {len(shown)} events"
        return _page(title, shown.source, text, shown, None)
    text = summary(shown.progress(), shown.state)["text"]
    if isinstance(shown, Run):
        recent = shown.recent_trace(STATIC_STEPS) if shown.steps_done else None
        report = shown.report if shown.steps_done else None
        return _page(shown.title, shown.source_label, text, recent, report) + _more(
            shown
        )
    return _page(shown.title, shown.source_label, text, _recent(shown), None)


def _recent(live: Live) -> Trace | None:
    """The newest whole steps of a source that keeps no trace of its own."""
    cursor, _ = live.snapshot(2**62)
    begin = max(0, cursor - REPLAY_EVENTS)
    _, columns = live.snapshot(begin)
    count = len(columns["start"])
    if not count:
        return None
    blank = np.zeros(count, np.int64)
    known: dict[str, Any] = {name: columns.get(name, blank) for name in COLUMNS}
    trace = Trace(
        **known, source=live.source_label, metadata={"num_ranks": live.num_ranks}
    )
    if begin and len(trace.steps) > 1:  # the oldest step is cut
        trace = trace.step_range(trace.steps[1], trace.steps[-1] + 1)
    return trace


def _page(
    title: str,
    source: str,
    text: str,
    trace: Trace | None,
    report: BubbleReport | None,
) -> str:
    parts = [f"<p><b>{escape(title)}</b> ({escape(source)}): {escape(text)}</p>"]
    if trace is not None and len(trace):
        steps = trace.steps
        shown = trace.step_range(steps[-STATIC_STEPS:][0], steps[-1] + 1)
        told = f"steps {shown.steps[0]} to {steps[-1]}" if len(steps) > 1 else ""
        parts.append(f'<div style="overflow-x:auto">{picture(shown)}</div>')
        if told:
            parts.append(f"<p>The picture shows {told}.</p>")
        parts.append((report or _last(trace).bubbles())._repr_html_())
    return "".join(parts)


def _last(trace: Trace) -> Trace:
    """The last whole steps, as many as are soon worked out."""
    if len(trace) <= REPORT_EVENTS:
        return trace
    step = int(np.partition(trace.step, -REPORT_EVENTS)[-REPORT_EVENTS])
    last = trace.steps[-1]
    return trace.step_range(min(step + 1, last), last + 1)


def _more(run: Run) -> str:
    """What only a run knows: its losses and its folder."""
    told = []
    if run.steps_done:
        first, last = run.losses[0], run.losses[-1]
        told.append(
            f"loss {first:.4f} after step 1, {last:.4f} after step {run.steps_done}"
        )
    held_out = [
        f"{loss:.4f} after step {step}"
        for step, loss in list(run.evaluations.items())
        if np.isfinite(loss)
    ]
    if held_out:
        told.append("held-out loss " + ", ".join(held_out))
    if run.error is not None:
        told.append(escape(f"{type(run.error).__name__}: {run.error}"))
    told.append(f"files in <code>{escape(run.folder.name)}</code>")
    return f"<p>{'<br>'.join(told)}</p>"


def picture(trace: Trace) -> str:
    """The trace as an SVG of bounded size."""
    if int((trace.lane != WAIT_LANE).sum()) <= MOST_BOXES:
        return trace._repr_svg_()
    return _share_svg(trace)


def busy_share(
    start: np.ndarray, end: np.ndarray, edges: np.ndarray
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(columns,) share of each column [edges[c], edges[c + 1]) that the events cover.

    Events are sorted by start and do not overlap; times and edges are in one unit.
    """
    if not len(start):
        return np.zeros(len(edges) - 1)
    before = np.concatenate([[0], np.cumsum(end - start)]).astype(np.float64)
    at = np.searchsorted(start, edges, side="right")  # events begun by then
    open_since = np.maximum(at - 1, 0)
    within = np.clip(edges - start[open_since], 0, (end - start)[open_since])
    done = np.where(at > 0, before[open_since] + within, 0.0)
    return np.diff(done) / np.diff(edges)


def _share_svg(trace: Trace) -> str:
    """One row per rank; a column is as high as the share of time at work in it."""
    work = trace.select(trace.lane != WAIT_LANE)
    ranks = trace.num_ranks
    groups = [
        (name, np.isin(work.kind, [KIND_CODE[kind] for kind in kinds]))
        for name, kinds in _GROUPS
    ]
    groups = [(name, mask) for name, mask in groups if mask.any()]
    columns = int(np.clip(_POINTS // (ranks * len(groups)), 4, 600))
    low, high = int(work.start.min()), int(work.end.max())
    edges = np.linspace(low, max(high, low + 1), columns + 1)
    row, pitch = (24, 30) if ranks <= 16 else (12, 15)
    parts = []
    for rank in range(ranks):
        top = rank * pitch
        parts.append(
            f'<text x="2" y="{top + row - 2}" font-size="{min(12, row)}" '
            f'fill="currentColor">rank {rank}</text>'
            f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{row}" '
            'fill="currentColor" fill-opacity="0.07"/>'
        )
        foot = np.zeros(columns)
        for name, mask in groups:
            mine = mask & (work.rank == rank)
            order = np.argsort(work.start[mine], kind="stable")
            share = busy_share(work.start[mine][order], work.end[mine][order], edges)
            head = np.minimum(1.0, foot + share)
            parts.append(_band(foot, head, top, row, KIND_COLOURS[name]))
            foot = head
    told = (
        f"{trace.source}, makespan {trace.makespan:.6g} {trace.unit}, {len(trace)} "
        "events; height: share of time busy"
    )
    tall = ranks * pitch + 18
    parts.append(
        f'<text x="{_LEFT}" y="{tall - 4}" font-size="12" fill="currentColor">'
        f"{escape(told)}</text>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + _LEFT}" '
        f'height="{tall}" viewBox="0 0 {_WIDTH + _LEFT} {tall}" role="img" '
        f'aria-label="{escape(told)}" font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _band(foot: np.ndarray, head: np.ndarray, top: int, row: int, colour: str) -> str:
    """The area between two lines of steps, as one path."""
    width = _WIDTH / len(foot)
    upper = (top + row * (1 - head)).round(1)
    lower = (top + row * (1 - foot)).round(1)
    go = [f"M{_LEFT},{lower[0]:g}"]
    for c, y in enumerate(upper):
        go.append(f"V{y:g}H{_LEFT + (c + 1) * width:.1f}")
    for c in range(len(lower) - 1, -1, -1):
        go.append(f"V{lower[c]:g}H{_LEFT + c * width:.1f}")
    return f'<path d="{"".join(go)}Z" fill="{colour}"/>'
