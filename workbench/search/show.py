"""Tables as text and as HTML. In a row with fewer cells the last one takes the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def as_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the head first."""
    widths = [len(name) for name in head]
    for row in rows:
        whole = row if len(row) == len(head) else row[:-1]
        for i, cell in enumerate(whole):
            widths[i] = max(widths[i], len(cell))
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip()
        for row in (head, *rows)
    ]


def as_html(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table; texts are escaped."""
    body = []
    for row in rows:
        cells = [f"<td>{escape(cell)}</td>" for cell in row]
        rest = len(head) - len(row) + 1
        if rest > 1:
            cells[-1] = (
                f'<td colspan="{rest}" style="text-align:left">{escape(row[-1])}</td>'
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def options_text(options: Mapping[str, Any]) -> str:
    """What a schedule was made with, as ``name=value``."""
    shown = {k: f"{v:g}" if isinstance(v, float) else v for k, v in options.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
