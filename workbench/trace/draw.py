"""A trace as a small static SVG: one row per rank, time to the right, letters in the
boxes. Actions that run together share the height of their row."""

from __future__ import annotations

from html import escape

from .cells import LOWER, WHOLE, colours, halves, stage_numbers
from .trace import WAIT_LANE, Trace

_WIDTH, _ROW, _GAP, _LEFT = 1100.0, 24, 4, 56
_MOST = 4000  # boxes; beyond that a picture of boxes says nothing


def svg(trace: Trace) -> str:
    """The first training steps of the trace, as many as can be drawn."""
    shown = trace.select(trace.lane != WAIT_LANE)
    if len(shown) > _MOST:
        shown = shown.select(shown.step <= shown.step[_MOST])
    tall = max(1, trace.num_ranks) * (_ROW + _GAP) + 18
    parts = []
    for rank in range(trace.num_ranks):
        y = rank * (_ROW + _GAP) + 16
        parts.append(
            f'<text x="2" y="{y}" font-size="12" fill="currentColor">rank {rank}</text>'
        )
    if len(shown):
        low = int(shown.start.min())
        scale = _WIDTH / max(1, int(shown.end.max()) - low)
        columns = (shown.rank, shown.start, shown.end, halves(shown), colours(shown))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        many = bool(stage_numbers(shown).any())
        for action, row in zip(shown.actions(), rows, strict=True):
            rank, start, end, half, colour = row
            x, width = _LEFT + (start - low) * scale, (end - start) * scale
            height = _ROW if half == WHOLE else _ROW // 2
            y = rank * (_ROW + _GAP) + (height if half == LOWER else 0)
            label = escape(f"{action} {(end - start) * trace.tick:.6g} {trace.unit}")
            parts.append(
                f'<g><title>{label}</title><rect x="{x:.2f}" y="{y}" width="{width:.2f}" '
                f'height="{height}" fill="{colour}" stroke="#222" stroke-width="0.4"/>'
            )
            text = str(action)[0 if many else len(str(action.stage)) :]
            if action.microbatch >= 0 and width > 7 * len(text):
                parts.append(
                    f'<text x="{x + width / 2:.2f}" y="{y + height / 2 + 4:g}" '
                    f'font-size="11" text-anchor="middle" fill="#000">{text}</text>'
                )
            parts.append("</g>")
    told = f"{trace.source}, makespan {trace.makespan:.6g} {trace.unit}"
    parts.append(
        f'<text x="{_LEFT}" y="{tall - 4}" font-size="12" fill="currentColor">{escape(told)}</text>'
    )
    total = _WIDTH + _LEFT + 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total:.0f}" height="{tall}" '
        f'viewBox="0 0 {total:.0f} {tall}" role="img" aria-label="{escape(told)}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )
