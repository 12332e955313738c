"""SearchResult: what a search found, how good it can be at most, and what was tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ..schedule import Schedule
from ..simulator import CostModel
from ..trace import Trace
from .show import as_html, as_text

_COLUMNS = ("name", "options", "makespan", "span", "bubble_fraction", "peak_memory")


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best schedule found.

    schedule: passes ``check``, and the memory limit. trace: its simulation under
    ``cost_model``, the costs of its own stages (those given, or a rank's share cut into
    ``stages_per_rank`` equal ones). makespan, span, lower_bound: in the costs' unit;
    ``lower_bound`` is of the ``objective``, which no schedule of these stages under the
    same limit can beat, in any placement that was searched. peak_memory: of the fullest
    rank, in one microbatch's activations of one rank. table: a row for everything that
    was tried, the best first. notes: what the search left out, and why. median, p90: of
    the objective over ``draws`` draws of uncertain costs, None without them.
    boundaries: the split that was chosen, by ``search_splits`` alone.
    """

    schedule: Schedule
    trace: Trace = field(repr=False)
    cost_model: CostModel = field(repr=False)
    objective: str
    makespan: float
    span: float
    lower_bound: float
    peak_memory: float
    table: tuple[Mapping[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    trials: int = 0
    seconds: float = 0.0
    draws: int = 0
    median: float | None = None
    p90: float | None = None
    boundaries: tuple[int, ...] | None = None

    @property
    def value(self) -> float:
        """The objective: the makespan or the span."""
        return self.makespan if self.objective == "makespan" else self.span

    @property
    def gap(self) -> float:
        """value / lower_bound - 1: 0.0 is proof that nothing is better."""
        return self.value / self.lower_bound - 1 if self.lower_bound else 0.0

    @property
    def bubble_fraction(self) -> float:
        """idle / (ranks x makespan)."""
        return self.trace.bubbles().bubble_fraction

    def _head(self) -> str:
        unit = self.trace.unit
        proof = (
            "the best there is" if self.gap < 1e-9 else f"gap {100 * self.gap:.2f} %"
        )
        text = (
            f"{self.schedule.name}: {self.objective} {self.value:.6g} {unit}, lower bound "
            f"{self.lower_bound:.6g} ({proof}), peak memory {self.peak_memory:g}"
        )
        if self.boundaries is not None:
            text += f", split {list(self.boundaries)}"
        if self.median is not None:
            text += (
                f"; over {self.draws} draws median {self.median:.6g}, 90th percentile "
                f"{self.p90:.6g}"
            )
        return text

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        cells = []
        for column in self._columns():
            value = row.get(column)
            if isinstance(value, float):
                cells.append(f"{value:.5g}")
            else:
                cells.append("" if value is None else str(value))
        if not row["feasible"] and row["makespan"] is None:
            return [*cells[:2], str(row["problem"])]
        return [*cells, "" if row["feasible"] else str(row["problem"])]

    def _columns(self) -> tuple[str, ...]:
        return _COLUMNS if self.median is None else (*_COLUMNS, "median", "p90")

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = [*(c.replace("_", " ") for c in self._columns()), "not taken because"]
        return head, [self._cells(row) for row in self.table]

    def __str__(self) -> str:
        return "\n".join([self._head(), *as_text(*self._table()), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        table = as_html(*self._table(), self._head())
        return f"{self.schedule._repr_svg_()}{table}{notes}"
