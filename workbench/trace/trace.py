"""Trace: what every rank did when, as columns. Simulated and measured runs yield the
same type.

It holds events and answers questions about them; bubbles are in report.py, files in
export.py, pictures in figures.py. Times are int64 counts of ``tick`` units, so sums are
exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schedule import KIND_CODE, KINDS, Action, Kind, Schedule

if TYPE_CHECKING:
    from .report import BubbleReport

Column = npt.NDArray[np.int64]

COMPUTE_LANE, WAIT_LANE, OPTIMIZER_LANE = 0, 1, 2
COLUMNS = (
    "rank",
    "stage",
    "kind",
    "microbatch",
    "slice",
    "step",
    "start",
    "end",
    "lane",
    "bytes",
    "live",
)
SOURCES = ("simulated", "measured", "assembled", "imported")


def _column(values: Any) -> Column:
    column = np.array(values, dtype=np.int64)
    column.flags.writeable = False
    return column


@dataclass(frozen=True, eq=False)
class Trace:
    """Events as int64 columns of one length.

    rank, stage, kind (a code of ``schedule.KIND_CODE``), microbatch and slice say what;
    step is the training step; start and end are in ticks; lane is 0 for compute, 1 for
    waiting and communication, 2 for the optimizer; bytes is what a message carries,
    live what the rank holds when the event ends (bytes, or activations in a simulation
    without sizes).

    ``tick`` is the length of one count in ``unit`` ("s", or "unit" where costs were
    given in any unit); ``source`` is "simulated", "measured" (wall clock), "assembled"
    (measured durations under the virtual clock) or "imported".
    """

    rank: Column
    stage: Column
    kind: Column
    microbatch: Column
    slice: Column
    step: Column
    start: Column
    end: Column
    lane: Column
    bytes: Column
    live: Column
    tick: float = 1e-9
    unit: str = "s"
    source: str = "measured"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = set()
        for name in COLUMNS:
            column = _column(getattr(self, name))
            object.__setattr__(self, name, column)
            lengths.add(column.shape)
        if len(lengths) != 1 or len(next(iter(lengths))) != 1:
            raise ValueError(f"columns must have one length, got {sorted(lengths)}")
        if self.source not in SOURCES:
            raise ValueError(
                f"source must be one of {', '.join(SOURCES)}, got {self.source!r}"
            )
        if len(self) and (self.end < self.start).any():
            bad = int(np.argmax(self.end < self.start))
            raise ValueError(f"event {bad} ends before it starts")

    # ---- making one ------------------------------------------------------------------

    @classmethod
    def from_events(
        cls,
        events: np.ndarray,
        *,
        source: str = "measured",
        metadata: Mapping[str, Any] | None = None,
        tick: float = 1e-9,
        unit: str = "s",
    ) -> Trace:
        """From a structured array with the columns as fields (what the recorder
        gives)."""
        columns = {name: events[name] for name in COLUMNS}
        return cls(
            **columns, tick=tick, unit=unit, source=source, metadata=metadata or {}
        )

    @classmethod
    def concat(cls, traces: Sequence[Trace]) -> Trace:
        """The events of several traces of one kind, in the given order."""
        if not traces:
            raise ValueError("there are no traces to put together")
        first = traces[0]
        for other in traces[1:]:
            if (other.tick, other.unit, other.source) != (
                first.tick,
                first.unit,
                first.source,
            ):
                raise ValueError("traces of different clocks cannot be put together")
        columns: dict[str, Any] = {
            n: np.concatenate([getattr(t, n) for t in traces]) for n in COLUMNS
        }
        return replace(first, **columns)

    @classmethod
    def from_torch_profiler(
        cls,
        source: str | Path | Iterable[str | Path],
        *,
        ranks: Iterable[int] | None = None,
    ) -> Trace:
        """A pipeline's run from PyTorch's profiler: a folder with a JSON or .json.gz file
        per rank, or the files. Times in seconds; ``source`` "imported".

        Read are the ranges ``PP:<action>``, of the device where all ranks have them,
        else of the host, without the waits inside. Clocks are set by the messages
        between ranks; ``metadata`` has ``clock_offsets``, and in ``clock_residual`` the
        seconds by which a message would still arrive before it was sent. ``ranks``
        chooses one pipeline among replicas.

        Raises ValueError for files that cannot be read, without ranges, without a rank,
        with a rank twice, or when a stage is on two ranks or on none.
        """
        from .imports_torch import from_torch_profiler

        return from_torch_profiler(source, ranks)

    @classmethod
    def from_rows(
        cls, table: Any, *, unit: str = "s", align_clocks: bool = False
    ) -> Trace:
        """From a table with rank, stage, kind, microbatch, start and end, and optionally
        slice and step: rows in this order, dicts, a dict of columns, or a data frame.

        kind is one of ours (F, B, I, W ...), or a name such as "forward-compute" of
        Megatron's timers. Times are in ``unit``: "s", "ms", "us", "ns", or "unit" for
        no unit of time. Waits and sends may be left out; they are derived.
        ``align_clocks`` sets the ranks' clocks by their messages. Raises ValueError
        naming the row for what is missing, unknown, twice there, or ends too early.
        """
        from .imports_rows import from_rows

        return from_rows(table, unit, align_clocks)

    # ---- what is in it ---------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def num_ranks(self) -> int:
        told = self.metadata.get("num_ranks")
        return int(told) if told else int(self.rank.max()) + 1 if len(self) else 0

    @property
    def steps(self) -> tuple[int, ...]:
        """The training steps in it, ascending."""
        return tuple(int(s) for s in np.unique(self.step))

    def select(self, mask: npt.NDArray[np.bool_]) -> Trace:
        """The events where ``mask`` is true."""
        columns: dict[str, Any] = {n: getattr(self, n)[mask] for n in COLUMNS}
        return replace(self, **columns)

    def step_range(self, first: int, last: int) -> Trace:
        """The events of the training steps first to last - 1."""
        return self.select((self.step >= first) & (self.step < last))

    def actions(self) -> Iterator[Action]:
        """The events as actions, in the order of the columns."""
        for s, k, m, p in zip(
            self.stage, self.kind, self.microbatch, self.slice, strict=True
        ):
            yield Action(int(s), KINDS[int(k)], int(m), int(p))

    def of_kind(self, *kinds: Kind) -> npt.NDArray[np.bool_]:
        """A mask of the events of these kinds."""
        return np.isin(self.kind, [KIND_CODE[kind] for kind in kinds])

    @property
    def makespan(self) -> float:
        """First start to last end over all ranks, in ``unit``; 0.0 when empty."""
        if not len(self):
            return 0.0
        return float(self.end.max() - self.start.min()) * self.tick

    @property
    def span(self) -> float:
        """The longest rank, from its own first busy event to its last, in ``unit``."""
        from .report import busy_window

        starts, ends = busy_window(self)
        return float((ends - starts).max()) * self.tick if len(starts) else 0.0

    def durations(self, kind: Kind, stage: int) -> npt.NDArray[np.float64]:
        """Durations of the stage's actions of this kind, in ``unit``, waits left
        out."""
        mask = self.of_kind(kind) & (self.stage == stage) & (self.lane != WAIT_LANE)
        return (self.end - self.start)[mask] * self.tick

    # ---- what can be made of it ------------------------------------------------------

    def schedule(self, step: int | None = None) -> Schedule:
        """The compute actions of one training step (the last one) in the order in which
        they began, as a schedule to check, simulate or export. Raises ValueError for a
        step that is not there, or that lacks a stage."""
        from .imports import schedule_of

        return schedule_of(self, step)

    def bubbles(self) -> BubbleReport:
        """Where the idle time is, and why."""
        from .report import report

        return report(self)

    def to_perfetto(self, path: str | Path) -> None:
        """Writes trace-event JSON, which Perfetto and chrome://tracing open."""
        from .export import write_perfetto

        write_perfetto(self, path)

    def to_csv(self, path: str | Path) -> None:
        """Writes one row per event, times in ticks."""
        from .export import write_csv

        write_csv(self, path)

    def to_html(self, path: str | Path) -> None:
        """Writes a self-contained page with the timeline; it needs no network."""
        from .html import write_timeline

        write_timeline(self, path)

    def figure(self) -> Any:
        """The timeline as a Plotly figure."""
        from .figures import timeline

        return timeline(self)

    def memory_figure(self) -> Any:
        """Live memory over time, per rank, as a Plotly figure."""
        from .figures import memory

        return memory(self)

    def __repr__(self) -> str:
        return (
            f"Trace({self.source}, {len(self)} events, {self.num_ranks} ranks, "
            f"{len(self.steps)} steps, makespan {self.makespan:.6g} {self.unit})"
        )

    def _repr_svg_(self) -> str:
        from .draw import svg

        return svg(self)
