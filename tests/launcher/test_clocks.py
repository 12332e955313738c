"""Clocks of ranks against made-up clocks, whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.launcher.clocks import Alignment, Clock, Estimate, Exchange, Skew, here

SECOND = 1_000_000_000
HOUR = 3600 * SECOND


class World:
    """A rank whose clock is rank(t) at the hub's time t, and a way that takes time."""

    def __init__(self, offset: int, drift: float, seed: int = 0) -> None:
        self.offset, self.drift = offset, drift
        self.rng = np.random.default_rng(seed)

    def rank(self, hub: int) -> int:
        return hub + self.offset + round(self.drift * hub)

    def way(self, least: float, noise: float) -> int:
        return round(least + self.rng.exponential(noise))

    def exchange(self, at: int, out: tuple[float, float], back: tuple) -> Exchange:
        there = at + self.way(*out)
        answered = there + self.way(1_000, 5_000)
        home = answered + self.way(*back)
        return Exchange(self.rank(at), there, answered, self.rank(home))

    def estimate(
        self,
        seconds: int,
        out: tuple[float, float] = (20_000, 40_000),
        back: tuple[float, float] = (20_000, 40_000),
        begin: int = 5 * HOUR,
    ) -> Estimate:
        found = Estimate()
        times = [begin + k * 1_000_000 for k in range(8)]
        times += [begin + k * SECOND for k in range(1, seconds)]
        for at in times:
            found.add(self.exchange(at, out, back))
        return found

    def errors(self, clock: Clock, hub: np.ndarray) -> np.ndarray:
        rank = np.array([self.rank(int(t)) for t in hub])
        return np.abs(clock.align(rank) - hub)


@pytest.mark.parametrize("seconds", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6])
@pytest.mark.parametrize("offset", [0, 7 * HOUR, -1900 * HOUR])
@pytest.mark.parametrize("back", [(20_000, 40_000), (150_000, 300_000)])
def test_the_residual_bounds_the_error(
    seconds: int, drift: float, offset: int, back: tuple[float, float]
) -> None:
    world = World(offset, drift, seed=seconds)
    clock = world.estimate(seconds, back=back).clock()
    # Up to the next ping, of the time that the exchanges cover.
    hub = np.linspace(5 * HOUR, 5 * HOUR + seconds * SECOND, 97).astype(np.int64)
    assert world.errors(clock, hub).max() <= clock.residual_ns
    assert clock.samples == 8 + seconds - 1


def test_with_symmetric_ways_the_error_is_far_below_the_round_trip() -> None:
    world = World(3 * HOUR, 50e-6, seed=1)
    clock = world.estimate(120).clock()
    hub = np.linspace(5 * HOUR, 5 * HOUR + 120 * SECOND, 97).astype(np.int64)
    assert world.errors(clock, hub).max() < 20_000  # half of the quickest round trip
    assert clock.drift == pytest.approx(-50e-6, abs=1e-6)
    # Less than what most exchanges took.
    assert clock.residual_ns < 100_000


def test_a_bad_hour_does_not_spoil_what_was_known() -> None:
    world = World(HOUR, 20e-6, seed=2)
    found = world.estimate(100)
    before = found.clock()
    for k in range(100, 130):  # the answers now wait in a queue for 30 ms
        at = 5 * HOUR + k * SECOND
        found.add(world.exchange(at, (20_000, 40_000), (30_000_000, 1_000_000)))
    hub = np.array([5 * HOUR + 129 * SECOND])
    assert world.errors(found.clock(), hub)[0] < 100_000
    assert world.errors(found.clock(), hub)[0] <= found.clock().residual_ns
    assert found.clock().residual_ns < before.residual_ns + 31 * SECOND * 100e-6


@settings(max_examples=50, deadline=None)
@given(
    offsets=st.tuples(*[st.integers(-HOUR, HOUR)] * 2),
    drifts=st.tuples(*[st.floats(-90e-6, 90e-6)] * 2),
    seed=st.integers(0, 2**31),
)
def test_nothing_is_received_before_it_was_sent(
    offsets: tuple[int, int], drifts: tuple[float, float], seed: int
) -> None:
    worlds = [World(offsets[i], drifts[i], seed + i) for i in range(2)]
    clocks = [w.estimate(20, back=(90_000, 90_000)).clock() for w in worlds]
    rng = np.random.default_rng(seed)
    for at in rng.integers(5 * HOUR, 5 * HOUR + 20 * SECOND, 50).tolist():
        sent = clocks[0].align(np.array(worlds[0].rank(at)))
        got = clocks[1].align(np.array(worlds[1].rank(at + 5_000)))
        assert got >= sent - clocks[0].residual_ns - clocks[1].residual_ns


def test_without_drift_times_after_days_keep_every_nanosecond() -> None:
    times = np.array([10**17, 10**17 + 1, 10**17 + 3])
    np.testing.assert_array_equal(Clock(offset_ns=-7).align(times), times - 7)


def test_impossible_exchanges_are_left_out() -> None:
    found = Estimate()
    for one in (Exchange(10, 5, 6, 9), Exchange(0, 9, 5, 20), Exchange(0, 0, 50, 20)):
        found.add(one)
    assert found.clock() == Clock()
    assert found.clock().samples == 0


def test_one_clock_is_never_contradicted_and_two_are() -> None:
    same, other = World(0, 0.0), World(10 * SECOND, 0.0)
    for world, wrong in ((same, False), (other, True)):
        one = world.exchange(HOUR, (1000, 500), (1000, 500))
        assert one.contradicts_zero == wrong


# ---- better and better estimates -----------------------------------------------------


def test_new_estimates_neither_move_the_past_nor_break_the_order() -> None:
    rng = np.random.default_rng(4)
    alignment = Alignment(Clock(offset_ns=10**15))
    times = np.cumsum(rng.integers(0, 2_000_000, 4000))
    found = []
    for i, part in enumerate(np.split(times, 40)):
        found.append(alignment.align(part))
        error = int(rng.integers(-3_000_000, 3_000_000))
        alignment.set(Clock(offset_ns=10**15 + error, drift=error * 1e-11))
        before = alignment.align(part)  # the same times, under the new estimate
        np.testing.assert_array_equal(before, found[i])
    steps = np.diff(np.concatenate(found)) / np.maximum(1, np.diff(times))
    assert (np.diff(np.concatenate(found)) >= 0).all()
    # Durations hold to a part in 500 even while 3 ms are made up for.
    long = np.diff(times) > 1_000_000
    np.testing.assert_allclose(steps[long], 1, atol=7e-3)


def test_a_new_estimate_holds_in_the_end_and_until_then_its_residual_says_so() -> None:
    alignment = Alignment(Clock(offset_ns=0, residual_ns=50))
    alignment.align(np.array([SECOND]))
    alignment.set(Clock(offset_ns=400_000, residual_ns=10))
    assert alignment.clock.residual_ns == 400_010
    late = np.array([SECOND + SECOND])
    np.testing.assert_array_equal(alignment.align(late), late + 400_000)
    assert alignment.clock.residual_ns == 10


# ---- what a process says of its clock ------------------------------------------------


def test_processes_of_one_boot_say_so() -> None:
    assert here() == here()


def test_a_skew_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_FAKE_SKEW", raising=False)
    assert Skew.from_environment() is None
    monkeypatch.setenv("WORKBENCH_FAKE_SKEW", "-5,100")
    skew = Skew.from_environment()
    assert skew is not None
    assert skew.apply(np.array([10_000])).tolist() == [10_000 - 5 + 1]
    monkeypatch.setenv("WORKBENCH_FAKE_SKEW", "fast")
    with pytest.raises(ValueError, match="fast.*offset_ns,drift_ppm"):
        Skew.from_environment()


def test_a_quick_beginning_does_not_hide_what_drifts_later() -> None:
    world = World(HOUR, 60e-6, seed=3)
    found = Estimate()
    for k in range(8):  # a burst on an idle machine, then ten minutes on a busy one
        at = 5 * HOUR + k * 1_000_000
        found.add(world.exchange(at, (10_000, 100), (10_000, 100)))
    for k in range(1, 580):
        at = 5 * HOUR + k * SECOND
        found.add(world.exchange(at, (400_000, 400_000), (400_000, 400_000)))
    hub = np.array([5 * HOUR + 580 * SECOND])
    assert world.errors(found.clock(), hub)[0] < 800_000
    assert world.errors(found.clock(), hub)[0] <= found.clock().residual_ns < 4_000_000
