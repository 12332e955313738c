"""Where the time of every rank went: compute, and idle time by its first matching
cause.

The parts of all ranks add up to ranks x makespan exactly: everything is counted in
whole ticks, and every instant between the trace's first start and last end belongs to
one part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schedule import Kind
from .trace import COMPUTE_LANE, OPTIMIZER_LANE, WAIT_LANE, Trace

PARTS = (
    "compute",
    "recompute",
    "synchronisation",
    "exposed_communication",
    "warmup",
    "cooldown",
    "steady",
    "engine_overhead",
)
IDLE = PARTS[2:]
Ints = npt.NDArray[np.int64]

_BACKWARD = (Kind.I, Kind.B)
_SEND_OF = {Kind.RECV_F: (Kind.SEND_F, -1), Kind.RECV_B: (Kind.SEND_B, 1)}


@dataclass(frozen=True)
class BubbleReport:
    """Idle time by cause.

    makespan and span are in ``unit``; bubble_fraction is idle / (ranks x makespan),
    bubble_ratio idle / busy. ``ranks[r]`` gives rank r's parts in ticks of ``tick``
    units:

    compute, recompute: at work; the optimizer's own work is compute

    synchronisation: waiting for all ranks' gradients, and after the step's end

    exposed_communication: waiting for a message on its way, or for room to send

    warmup, cooldown, steady: waiting for a neighbour, before the rank's first backward
    of a step, after its last forward, or between

    engine_overhead: between two actions although nothing was waited for
    """

    makespan: float
    span: float
    ranks: tuple[Mapping[str, int], ...]
    tick: float
    unit: str
    source: str

    @property
    def busy(self) -> int:
        """Ticks at work, over all ranks."""
        return sum(row["compute"] + row["recompute"] for row in self.ranks)

    @property
    def idle(self) -> int:
        """Ticks not at work, over all ranks."""
        return sum(row[part] for row in self.ranks for part in IDLE)

    @property
    def bubble_fraction(self) -> float:
        """idle / (ranks x makespan); 0.0 for an empty trace."""
        total = self.busy + self.idle
        return self.idle / total if total else 0.0

    @property
    def bubble_ratio(self) -> float:
        """idle / busy; infinity when nothing was done."""
        if not self.busy:
            return float("inf") if self.idle else 0.0
        return self.idle / self.busy

    def rows(self) -> list[dict[str, float]]:
        """One dict per rank, parts in ``unit``."""
        return [
            {"rank": rank, **{part: row[part] * self.tick for part in PARTS}}
            for rank, row in enumerate(self.ranks)
        ]

    def share(self, part: str, rank: int | None = None) -> float:
        """The part as a fraction of the makespan, of one rank or of all."""
        rows = self.ranks if rank is None else (self.ranks[rank],)
        total = sum(sum(row.values()) for row in rows)
        return sum(row[part] for row in rows) / total if total else 0.0

    def figure(self) -> Any:
        """Stacked bars per rank as a Plotly figure."""
        from .figures import bubbles

        return bubbles(self)

    def _head(self) -> str:
        return (
            f"{self.source}: makespan {self.makespan:.6g} {self.unit}, span "
            f"{self.span:.6g} {self.unit}, bubble_fraction {self.bubble_fraction:.4f}, "
            f"bubble_ratio {self.bubble_ratio:.4f}"
        )

    def __str__(self) -> str:
        names = [part.replace("_", " ") for part in PARTS]
        lines = [self._head(), "rank " + "  ".join(names)]
        for rank in range(len(self.ranks)):
            cells = (
                f"{100 * self.share(part, rank):.1f} %".rjust(len(name))
                for part, name in zip(PARTS, names, strict=True)
            )
            lines.append(f"{rank:4} " + "  ".join(cells))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{part.replace('_', ' ')}</th>" for part in PARTS)
        body = "".join(
            f"<tr><td>{rank}</td>"
            + "".join(
                f"<td>{100 * self.share(part, rank):.1f} %</td>" for part in PARTS
            )
            + "</tr>"
            for rank in range(len(self.ranks))
        )
        return (
            f"<p>{escape(self._head())}</p><table><thead><tr><th>rank</th>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )


def is_busy(trace: Trace) -> npt.NDArray[np.bool_]:
    """A mask of the events that are work: compute and the optimizer's own."""
    return (trace.lane == COMPUTE_LANE) | (trace.lane == OPTIMIZER_LANE)


def busy_window(trace: Trace) -> tuple[Ints, Ints]:
    """(first start, last end) of the work of every rank that has any."""
    busy = is_busy(trace)
    firsts, lasts = [], []
    for rank in range(trace.num_ranks):
        mask = busy & (trace.rank == rank)
        if mask.any():
            firsts.append(trace.start[mask].min())
            lasts.append(trace.end[mask].max())
    return np.array(firsts, np.int64), np.array(lasts, np.int64)


# ---- accounting ----------------------------------------------------------------------


def send_ends(trace: Trace) -> Ints:
    """For every receive, when its message had been sent; elsewhere, and where the trace
    lacks the send, the event's own end: nothing is then called communication."""
    found = trace.end.copy()
    for receive, (send, shift) in _SEND_OF.items():
        here, there = trace.of_kind(receive), trace.of_kind(send)
        if not here.any() or not there.any():
            continue
        fields = ("step", "stage", "microbatch", "slice")
        sent = np.stack([getattr(trace, f)[there] for f in fields])
        got = np.stack([getattr(trace, f)[here] for f in fields])
        got[1] += shift
        both = np.concatenate([sent, got], axis=1)
        _, keys = np.unique(both, axis=1, return_inverse=True)
        keys = keys.reshape(-1)
        sent_keys, got_keys = keys[: sent.shape[1]], keys[sent.shape[1] :]
        end_of = np.full(keys.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(end_of, sent_keys, trace.end[there])
        ends = end_of[got_keys]
        own = trace.end[here]
        found[here] = np.where(ends == np.iinfo(np.int64).max, own, ends)
    return found


def _phase_ends(rank: Trace) -> dict[int, tuple[int, int]]:
    """Per step: (start of its first backward, end of its last forward) on one rank."""
    big = np.iinfo(np.int64).max
    steps, at = np.unique(rank.step, return_inverse=True)
    first, last = np.full(len(steps), big), np.full(len(steps), -big)
    backward, forward = rank.of_kind(*_BACKWARD), rank.of_kind(Kind.F)
    np.minimum.at(first, at[backward], rank.start[backward])
    np.maximum.at(last, at[forward], rank.end[forward])
    return dict(
        zip(
            steps.tolist(), zip(first.tolist(), last.tolist(), strict=True), strict=True
        )
    )


def _split(parts: dict[str, int], low: int, high: int, phase: tuple[int, int]) -> None:
    """Shares the idle interval [low, high) out over warmup, steady and cooldown."""
    first_backward, last_forward = phase
    warm = max(low, min(high, first_backward))
    parts["warmup"] += warm - low
    cool = min(high, max(warm, last_forward))
    parts["steady"] += cool - warm
    parts["cooldown"] += high - cool


class _Rank:
    """Walks one rank's events in time and gives every instant to one part."""

    def __init__(
        self,
        events: Trace,
        sent: Ints,
        low: int,
        high: int,
        steps: Mapping[int, tuple[int, int]] | None,
    ) -> None:
        """``steps``: first start and last end of every step over all ranks, where no
        event closes it."""
        self.parts = dict.fromkeys(PARTS, 0)
        self.phases = _phase_ends(events)
        self.clock = low
        self.steps = steps
        self.step: int | None = None
        order = np.lexsort((events.end, events.start))
        recompute = events.of_kind(Kind.R)
        sends = events.of_kind(Kind.SEND_F, Kind.SEND_B)
        sync = events.of_kind(Kind.OPT_STEP)
        columns = (events.start, events.end, events.step, events.lane, sent)
        for start, end, step, lane, sent_at, again, is_send, is_sync in zip(
            *(c[order].tolist() for c in (*columns, recompute, sends, sync)),
            strict=True,
        ):
            phase = self.phases[step]
            if start > self.clock:
                self._gap(start, phase, step)
            self.step = step
            begin, end = max(start, self.clock), max(end, self.clock)
            if lane != WAIT_LANE:
                self.parts["recompute" if again else "compute"] += end - begin
            elif is_sync:
                self.parts["synchronisation"] += end - begin
            elif is_send:
                self.parts["exposed_communication"] += end - begin
            else:
                arrived = min(max(sent_at, begin), end)
                _split(self.parts, begin, arrived, phase)
                self.parts["exposed_communication"] += end - arrived
            self.clock = end
        self._tail(high)

    def _gap(self, until: int, phase: tuple[int, int], step: int) -> None:
        """Nothing recorded up to ``until``: before a rank's first event it waits to
        begin."""
        if self.step is not None and (self.steps is None or self.step == step):
            self.parts["engine_overhead"] += until - self.clock
            self.clock = until
            return
        if self.step is not None and self.steps is not None:
            # The other ranks end their step; then what lies between steps; then, as at
            # the start, this rank waits to begin.
            ended = min(until, max(self.clock, self.steps[self.step][1]))
            begins = max(ended, min(until, self.steps[step][0]))
            self.parts["cooldown"] += ended - self.clock
            self.parts["engine_overhead"] += begins - ended
            self.clock = begins
        _split(self.parts, self.clock, until, phase)
        self.clock = until

    def _tail(self, high: int) -> None:
        part = "synchronisation" if self.steps is None else "cooldown"
        self.parts[part] += high - self.clock


def _steps(trace: Trace) -> dict[int, tuple[int, int]] | None:
    """(first start, last end) of every step; None where optimizer steps close them."""
    if trace.of_kind(Kind.OPT_STEP).any():
        return None
    found = {}
    for step in trace.steps:
        mask = trace.step == step
        found[step] = int(trace.start[mask].min()), int(trace.end[mask].max())
    return found


def report(trace: Trace) -> BubbleReport:
    """The bubble report of a trace. Events of one rank do not overlap; where measured
    ones do by a tick, the earlier keeps the instant."""
    if not len(trace):
        empty = tuple(dict.fromkeys(PARTS, 0) for _ in range(trace.num_ranks))
        return BubbleReport(0.0, 0.0, empty, trace.tick, trace.unit, trace.source)
    low, high = int(trace.start.min()), int(trace.end.max())
    sent = send_ends(trace)
    steps = _steps(trace)
    rows = []
    for rank in range(trace.num_ranks):
        mask = trace.rank == rank
        rows.append(_Rank(trace.select(mask), sent[mask], low, high, steps).parts)
    return BubbleReport(
        trace.makespan, trace.span, tuple(rows), trace.tick, trace.unit, trace.source
    )
