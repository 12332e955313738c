"""Clocks of different machines, set by the messages between them.

A receive cannot end before its send has begun. Every message so bounds the difference
of two clocks from one side, and messages both ways give an interval that it must lie
in; the middle is taken, and over all pairs of ranks the least squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..schedule import COMPUTE, Kind
from .imports import Event, Message, homes, sent_by, taken_by

_SENDS = (Kind.SEND_F, Kind.SEND_B)


@dataclass(frozen=True)
class Clocks:
    """What is added to each rank's times; ``residual`` is by how much a message would
    still arrive before it was sent (0: none does), ``uncertainty`` how far a clock may
    be off with no message contradicting; in ticks, None where no message binds it."""

    offsets: dict[int, int]
    residual: int
    uncertainty: int | None

    def metadata(self, tick: float) -> dict[str, Any]:
        """For ``Trace.metadata``, in units of time."""
        unsure = None if self.uncertainty is None else self.uncertainty * tick
        return {
            "clock_offsets": [self.offsets[r] * tick for r in sorted(self.offsets)],
            "clock_residual": self.residual * tick,
            "clock_uncertainty": unsure,
        }

    def apply(self, events: Sequence[Event]) -> list[Event]:
        """The events on one clock."""
        moved = []
        for event in events:
            offset = self.offsets[event.rank]
            moved.append(
                event._replace(start=event.start + offset, end=event.end + offset)
            )
        return moved


#: (sender, receiver) -> the least time from a send's start to its message's arrival, on
#: the receiver's clock minus the sender's.
Bounds = dict[tuple[int, int], int]


def message_bounds(events: Sequence[Event]) -> Bounds:
    """The tightest bound of every pair of ranks. A message was there when its receive
    ended or, without one, when what took it began; it was sent no sooner than its send
    began or, without one, what made it ended."""
    home = homes(events)
    sent: dict[Message, tuple[int, int]] = {}
    got: dict[Message, tuple[int, int]] = {}
    for event in sorted(events, key=lambda e: e.action.kind not in COMPUTE):
        kind = event.action.kind
        made = sent_by(event.action)
        if made is not None:
            # Overwritten by the send itself, which comes later in this order.
            at = event.start if kind in _SENDS else event.end
            sent[Message(event.step, made)] = event.rank, at
        taken = taken_by(event.action)
        if kind in (Kind.RECV_F, Kind.RECV_B):
            taken = event.action
        if taken is not None:
            at = event.end if taken is event.action else event.start
            got[Message(event.step, taken)] = event.rank, at
    bounds: Bounds = {}
    for message, (rank, at) in got.items():
        if message not in sent:
            continue
        source, began = sent[message]
        if source == rank or home.get(message.receive.stage) != rank:
            continue
        least = bounds.get((source, rank), at - began)
        bounds[source, rank] = min(least, at - began)
    return bounds


def _residual(bounds: Bounds, offsets: Mapping[int, int]) -> int:
    early = [-(b + offsets[t] - offsets[s]) for (s, t), b in bounds.items()]
    return max([0, *early])


def _least_squares(
    pairs: Sequence[tuple[int, int]], doubled: Sequence[int], count: int
) -> list[int]:
    """Whole numbers x, x[0] = 0, with 2(x[i] - x[j]) near ``doubled`` over all pairs."""
    found = [0] * count
    if not pairs:
        return found
    matrix = np.zeros((len(pairs), count))
    for row, (one, other) in enumerate(pairs):
        matrix[row, one], matrix[row, other] = 1, -1
    # Clocks count from 1970: in doubles their differences have no nanoseconds. What is
    # left after a first solution has.
    for _ in range(2):
        left = [
            (d - 2 * (found[i] - found[j])) / 2
            for d, (i, j) in zip(doubled, pairs, strict=True)
        ]
        more = np.linalg.lstsq(matrix[:, 1:], np.array(left), rcond=None)[0]
        found[1:] = [x + round(by) for x, by in zip(found[1:], more, strict=True)]
    return found


def _solve(bounds: Bounds, ranks: Sequence[int], group: Mapping[int, str]) -> Clocks:
    """One offset per group of ranks that share a clock; the first one's is 0."""
    names = list(dict.fromkeys(group[rank] for rank in ranks))
    merged: dict[tuple[int, int], int] = {}
    for (source, target), bound in bounds.items():
        pair = names.index(group[source]), names.index(group[target])
        if pair[0] != pair[1]:
            merged[pair] = min(merged.get(pair, bound), bound)
    pairs, doubled, widths = [], [], []
    for (one, other), bound in merged.items():
        back = merged.get((other, one))
        if back is not None and one > other:
            continue
        # offset[one] - offset[other] lies in [-back, bound]; the middle, times two.
        pairs.append((one, other))
        doubled.append(2 * min(bound, 0) if back is None else bound - back)
        widths.append(None if back is None else max(0, bound + back) / 2)
    found = _least_squares(pairs, doubled, len(names))
    offsets = {r: found[names.index(group[r])] for r in ranks}
    bound_all = all(w is not None for w in widths) and len(widths) >= len(names) - 1
    widest = max((w for w in widths if w is not None), default=0)
    return Clocks(
        offsets, _residual(bounds, offsets), int(widest) if bound_all else None
    )


def align(
    events: Sequence[Event], hosts: Mapping[int, str] | None = None, slack: int = 0
) -> Clocks:
    """Offsets for all ranks' clocks. Ranks with one entry in ``hosts`` share a clock,
    unless messages within that host contradict by more than ``slack`` ticks."""
    ranks = sorted({event.rank for event in events})
    bounds = message_bounds(events)
    group = {rank: (hosts or {}).get(rank) or f"rank {rank}" for rank in ranks}
    inside = {pair: b for pair, b in bounds.items() if group[pair[0]] == group[pair[1]]}
    if any(bound < -slack for bound in inside.values()):
        group = {rank: f"rank {rank}" for rank in ranks}
    return _solve(bounds, ranks, group)
