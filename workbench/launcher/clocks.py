"""Clocks of different hosts, set by pings.

A ping leaves a rank at t1 and reaches the hub at t2, its answer leaves at t3 and is back
at t4; t1 and t4 by the rank's clock, t2 and t3 by the hub's. As in NTP (RFC 5905,
section 8) the hub's clock is ahead by about ((t2 - t1) + (t3 - t4)) / 2, and that is off
by at most half the round trip (t4 - t1) - (t3 - t2), however unequal the two ways are.
So the exchanges with the smallest round trips say most (Cristian, Probabilistic clock
synchronization, Distributed Computing 3, 1989), and a line through those of several
minutes gives the drift.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

#: Exchanges kept: at one a second, of the last ten minutes.
KEPT = 600
#: A line is laid through the quickest exchange of each of so many equal times.
_BINS = 40
#: What crystals differ by, in the usual case: what is not known of a drift, at most.
TYPICAL_DRIFT = 100e-6
#: More than this is no drift but a clock that was set (NTP's limit, RFC 5905 MAXFREQ).
MOST_DRIFT = 500e-6
#: How old the newest exchange may be when events are aligned by it.
_AHEAD = 1e9
#: A better estimate is taken on over a second, or as slowly as this, ns per ns, so that
#: a rank's events neither jump nor change their order.
_SLEW_NS, _SLEW = 1_000_000_000, 1e-3


def here() -> str:
    """What two processes have in common when they read one CLOCK_MONOTONIC: the same
    boot of the same kernel and, for containers, the same time namespace."""
    parts = []
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        parts.append(boot.strip())
        parts.append(str(Path("/proc/self/ns/time").readlink()))
    except OSError:
        pass
    # Unknown: like nobody else, so the pings decide.
    return " ".join(parts) or f"unknown-{os.urandom(8).hex()}"


@dataclass(frozen=True)
class Skew:
    """A clock that is wrong on purpose, for tests: ``WORKBENCH_FAKE_SKEW`` is
    "offset_ns,drift_ppm"."""

    offset_ns: int = 0
    drift_ppm: float = 0.0

    @classmethod
    def from_environment(cls) -> Skew | None:
        text = os.environ.get("WORKBENCH_FAKE_SKEW")
        if not text:
            return None
        try:
            offset, drift = text.split(",")
            return cls(int(offset), float(drift))
        except ValueError:
            raise ValueError(
                f'WORKBENCH_FAKE_SKEW={text!r}: "offset_ns,drift_ppm" is wanted, '
                'such as "3600000000000,50"'
            ) from None

    def apply(self, times: np.ndarray) -> np.ndarray:
        """int64 ns of the true clock -> of the wrong one."""
        drift = np.rint(times * (self.drift_ppm * 1e-6)).astype(np.int64)
        return times + self.offset_ns + drift

    def now(self) -> int:
        return int(self.apply(np.array(time.monotonic_ns())))


@dataclass(frozen=True)
class Clock:
    """The hub's time is a rank's time + ``offset_ns`` + ``drift`` x (the rank's time -
    ``reference_ns``).

    ``residual_ns``: by how much it may be off, half of a round trip and what the
    exchanges contradict one another by; for the time covered by the exchanges it is a
    bound if the drift was constant. ``samples``: exchanges known.
    """

    offset_ns: int = 0
    drift: float = 0.0
    residual_ns: int = 0
    samples: int = 0
    reference_ns: int = 0

    def align(self, times: np.ndarray) -> np.ndarray:
        """int64 ns by the rank's clock -> by the hub's. Exact where drift is 0."""
        aligned = times + np.int64(self.offset_ns)
        if self.drift:
            since = (times - np.int64(self.reference_ns)).astype(np.float64)
            aligned += np.rint(self.drift * since).astype(np.int64)
        return aligned


@dataclass(frozen=True)
class _Part:
    """How times from ``since`` on are aligned: by ``clock``, and by what is left of
    ``gap`` between it and the estimate before."""

    since: int
    clock: Clock
    gap: int

    def left(self, times: np.ndarray) -> np.ndarray:
        slew = max(_SLEW_NS, abs(self.gap) / _SLEW)
        share = 1 - (times - np.int64(self.since)) / slew
        return np.rint(self.gap * np.clip(share, 0, 1)).astype(np.int64)

    def align(self, times: np.ndarray) -> np.ndarray:
        aligned = self.clock.align(times)
        return aligned + self.left(times) if self.gap else aligned


class Alignment:
    """One rank's times on the hub's clock, while the estimate of its clock changes:
    continuous and in order."""

    def __init__(self, clock: Clock) -> None:
        self._parts = [_Part(0, clock, 0)]
        self._latest: int | None = None  # of the rank's times, so far

    def set(self, clock: Clock) -> None:
        """A better estimate, for times later than those aligned so far."""
        if self._latest is None:
            self._parts = [_Part(0, clock, 0)]
            return
        at = np.array(self._latest)
        gap = int(self._parts[-1].align(at)) - int(clock.align(at))
        # Of a step's events the longest may have begun an estimate or two ago.
        self._parts = [*self._parts[-7:], _Part(self._latest, clock, gap)]

    @property
    def clock(self) -> Clock:
        """The newest estimate; its residual has what it differs by from what is done
        with the newest times."""
        part = self._parts[-1]
        gap = 0 if self._latest is None else int(part.left(np.array(self._latest)))
        return replace(part.clock, residual_ns=part.clock.residual_ns + abs(gap))

    def align(self, times: np.ndarray) -> np.ndarray:
        """(n,) int64 ns by the rank's clock -> by the hub's."""
        if not len(times):
            return times
        latest = int(times.max())
        newest = self._parts[-1]
        if len(self._parts) == 1 or times.min() >= newest.since:
            aligned = newest.align(times)
        else:
            begins = np.array([part.since for part in self._parts[1:]], np.int64)
            which = np.searchsorted(begins, times, "right")
            aligned = np.empty_like(times)
            for i in np.unique(which):
                mine = which == i
                aligned[mine] = self._parts[i].align(times[mine])
        self._latest = latest if self._latest is None else max(self._latest, latest)
        return aligned


@dataclass(frozen=True)
class Exchange:
    """A ping and its answer, in ns: t1 and t4 by the rank's clock."""

    t1: int
    t2: int
    t3: int
    t4: int

    @property
    def round_trip(self) -> int:
        return (self.t4 - self.t1) - (self.t3 - self.t2)

    @property
    def doubled(self) -> int:
        """Twice the offset: whole numbers, for clocks may be hours apart."""
        return (self.t2 - self.t1) + (self.t3 - self.t4)

    @property
    def plausible(self) -> bool:
        return self.t1 <= self.t4 and self.t2 <= self.t3 and self.round_trip >= 0

    @property
    def contradicts_zero(self) -> bool:
        """Whether the two clocks cannot be one: an answer before its question."""
        return self.t2 < self.t1 or self.t4 < self.t3


class Estimate:
    """Exchanges of one rank, and the clock that follows from them."""

    def __init__(self) -> None:
        self._kept: deque[Exchange] = deque(maxlen=KEPT)
        self.samples = 0

    def add(self, exchange: Exchange) -> None:
        """Takes one; impossible ones (a negative round trip) are left out."""
        if exchange.plausible:
            self._kept.append(exchange)
            self.samples += 1

    def clock(self) -> Clock:
        """The best guess; a Clock of 0 samples when there is none yet."""
        if not self._kept:
            return Clock()
        chosen = self._chosen()
        base = min(self._kept, key=lambda e: e.round_trip)
        x = np.array([(e.t1 + e.t4) / 2 - base.t1 for e in chosen])
        theta = np.array([(e.doubled - base.doubled) / 2 for e in chosen])
        half = np.array([e.round_trip / 2 for e in chosen])
        offset, drift = _line(x, theta, half)
        spread = np.abs(theta - offset - drift * x)
        newest = self._kept[-1].t4 - base.t1
        residual = _worst(x, half + spread, newest + _AHEAD)
        whole, odd = divmod(base.doubled, 2)
        return Clock(
            offset_ns=whole + round(offset + odd / 2),
            drift=float(drift),
            residual_ns=int(np.ceil(residual)),
            samples=self.samples,
            reference_ns=base.t1,
        )

    def _chosen(self) -> list[Exchange]:
        """The quickest exchange of each part of the time, but none that took so much
        longer than the quickest of all that a drift since then would be less."""
        first, last = self._kept[0].t1, self._kept[-1].t1
        width = max(1, last - first + 1)
        best: dict[int, Exchange] = {}
        for exchange in self._kept:
            part = _BINS * (exchange.t1 - first) // width
            if part not in best or exchange.round_trip < best[part].round_trip:
                best[part] = exchange
        base = min(best.values(), key=lambda e: e.round_trip)
        chosen = []
        for _, one in sorted(best.items()):
            drifted = TYPICAL_DRIFT * abs(one.t1 - base.t1)
            if one.round_trip <= 2 * (base.round_trip + drifted):
                chosen.append(one)
        return chosen


def _worst(x: np.ndarray, bound: np.ndarray, end: float) -> float:
    """The most that a straight error can be between the first of ``x`` and ``end``,
    when at each of ``x`` it is at most ``bound`` and its slope is a usual drift's: a
    straight line is largest at an end, and every two bounds bound its slope."""
    apart = np.abs(x[:, None] - x[None, :])
    slopes = (bound[:, None] + bound[None, :]) / np.where(apart > 0, apart, np.nan)
    steepest = np.nanmin(np.fmin(slopes, TYPICAL_DRIFT), axis=1)
    return max(np.min(bound + steepest * np.abs(t - x)) for t in (x[0], end))


def _line(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> tuple[float, float]:
    """(a, b) of y = a + b x by weighted least squares, where b is 0 give or take
    ``TYPICAL_DRIFT`` until the exchanges know better."""
    weight = 1 / np.maximum(sigma, 1.0) ** 2
    mean_x = np.sum(weight * x) / np.sum(weight)
    mean_y = np.sum(weight * y) / np.sum(weight)
    across = np.sum(weight * (x - mean_x) * (y - mean_y))
    along = np.sum(weight * (x - mean_x) ** 2) + TYPICAL_DRIFT**-2
    slope = float(np.clip(across / along, -MOST_DRIFT, MOST_DRIFT))
    return float(mean_y - slope * mean_x), slope
