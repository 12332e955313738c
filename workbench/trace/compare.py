"""Two traces beside one another: predicted and measured, or two runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .report import PARTS, BubbleReport
from .trace import Trace


@dataclass(frozen=True, eq=False)
class Comparison:
    """``first`` against ``second``: ``makespan_ratio`` is first / second. ``rows()``
    gives, for every rank and part of the bubble report, both values and their
    difference."""

    first: Trace
    second: Trace
    reports: tuple[BubbleReport, BubbleReport]

    @property
    def makespan_ratio(self) -> float:
        return self.first.makespan / self.second.makespan

    def rows(self) -> list[dict[str, Any]]:
        """One dict per rank and part; times in ``unit``."""
        a, b = self.reports
        return [
            {
                "rank": rank,
                "part": part,
                "first": a.ranks[rank][part] * a.tick,
                "second": b.ranks[rank][part] * b.tick,
                "difference": a.ranks[rank][part] * a.tick
                - b.ranks[rank][part] * b.tick,
            }
            for rank in range(len(a.ranks))
            for part in PARTS
        ]

    def figure(self) -> Any:
        """Both timelines on one axis, as a Plotly figure."""
        from .figures import comparison

        return comparison(self.first, self.second)

    def _head(self) -> str:
        return (
            f"makespan {self.first.makespan:.6g} {self.first.unit} ({self.first.source}) against "
            f"{self.second.makespan:.6g} ({self.second.source}): ratio {self.makespan_ratio:.4f}"
        )

    def __str__(self) -> str:
        lines = [self._head()]
        for row in self.rows():
            if row["first"] or row["second"]:
                lines.append(
                    f"rank {row['rank']:3}  {row['part']:22} {row['first']:12.6g} "
                    f"{row['second']:12.6g} {row['difference']:+12.6g}"
                )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        a, b = self.first.source, self.second.source
        body = "".join(
            f"<tr><td>{row['rank']}</td><td>{row['part'].replace('_', ' ')}</td>"
            f"<td>{row['first']:.6g}</td><td>{row['second']:.6g}</td>"
            f"<td>{row['difference']:+.6g}</td></tr>"
            for row in self.rows()
            if row["first"] or row["second"]
        )
        return (
            f"<p>{self._head()}</p><table><thead><tr><th>rank</th><th>part</th>"
            f"<th>{a}</th><th>{b}</th><th>difference</th></tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


def compare(first: Trace, second: Trace) -> Comparison:
    """Lays two traces beside one another.

    Raises ValueError when they have different ranks or units, or when one is empty.
    """
    if not len(first) or not len(second):
        raise ValueError("an empty trace cannot be compared")
    if first.num_ranks != second.num_ranks:
        raise ValueError(
            f"the traces have {first.num_ranks} and {second.num_ranks} ranks"
        )
    if first.unit != second.unit:
        raise ValueError(
            f"the traces' times are in {first.unit!r} and {second.unit!r}; simulate with "
            "CostModel.from_trace to predict in seconds"
        )
    return Comparison(first, second, (first.bubbles(), second.bubbles()))
