"""Simulated times against formulas and a discrete-event simulator in plain Python."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.schedule import Action, Kind, Schedule, ScheduleError
from workbench.simulator import CostModel, simulate
from workbench.trace import COMPUTE_LANE, WAIT_LANE, Trace

SIZES = [(p, m) for p in (1, 2, 3, 4, 7) for m in (1, 2, 3, 4, 8, 12)]


def make(name: str, p: int, m: int) -> Schedule:
    return Schedule.make(name, num_ranks=p, num_microbatches=m)


def bubble(schedule: Schedule, costs: CostModel) -> float:
    """Idle time of a rank; all ranks have the same."""
    trace = simulate(schedule, costs)
    report = trace.bubbles()
    total = sum(sum(row.values()) for row in report.ranks)
    assert total == pytest.approx(schedule.num_ranks * trace.makespan / trace.tick)
    return report.idle * trace.tick / schedule.num_ranks


# ---- closed forms --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("f", "i", "w"), [(1, 1, 1), (2, 3, 0.5), (0.25, 0, 7)])
def test_without_latency_makespan_and_bubble_are_the_closed_forms(
    name: str, f: float, i: float, w: float
) -> None:
    for p, m in SIZES:
        trace = simulate(make(name, p, m), CostModel.uniform(F=f, I=i, W=w))
        assert trace.makespan == pytest.approx((m + p - 1) * (f + i + w), abs=1e-7)
        assert trace.bubbles().bubble_fraction == pytest.approx(
            (p - 1) / (m + p - 1), abs=1e-9
        )


def test_single_has_no_bubble() -> None:
    schedule = Schedule.make("single", num_ranks=1, num_microbatches=5, num_stages=3)
    trace = simulate(schedule, CostModel.uniform(F=[1, 2, 3], I=1, W=2, hop=9))
    assert trace.makespan == pytest.approx(5 * (1 + 2 + 3 + 3 * 3))
    assert trace.bubbles().bubble_fraction == 0


@pytest.mark.parametrize("c", [0, 0.25, 0.5, 2, 30])
@pytest.mark.parametrize(("f", "b"), [(1, 2), (2, 1), (1, 1)])
def test_gpipe_pays_every_hop_twice_once(f: float, b: float, c: float) -> None:
    for p, m in SIZES:
        costs = CostModel.uniform(F=f, I=b, W=0, hop=c)
        assert bubble(make("gpipe", p, m), costs) == pytest.approx(
            (p - 1) * (f + b + 2 * c), abs=1e-6
        )


@pytest.mark.parametrize("c", [0, 0.25, 0.5])
@pytest.mark.parametrize(("f", "b"), [(1, 2), (1, 1), (2, 2)])
def test_1f1b_pays_hops_in_the_steady_state_too(f: float, b: float, c: float) -> None:
    for p in (2, 3, 4, 8):
        for m in (p, 2 * p, 4 * p):
            idle = (p - 1) * (f + b) + c * (2 * (p - 1) * m / p + 2 * (p - 2))
            costs = CostModel.uniform(F=f, I=b, W=0, hop=c)
            assert bubble(make("1f1b", p, m), costs) == pytest.approx(idle, abs=1e-6)


def test_the_bubbles_of_four_ranks_at_half_a_unit_of_latency() -> None:
    costs = CostModel.uniform(F=1, I=1, W=1, hop=0.5)
    assert bubble(make("1f1b", 4, 16), costs) == pytest.approx(23)
    assert bubble(make("gpipe", 4, 16), costs) == pytest.approx(12)


# ---- an independent simulator --------------------------------------------------------


@dataclass
class Channel:
    """Messages of one direction between two stages: when sent, how many taken."""

    sent: list[int] = field(default_factory=list)
    taken: int = 0


@dataclass
class Machine:
    """Ranks that run one operation after another on a clock of whole numbers."""

    schedule: Schedule
    price: dict[tuple[int, str, int], int]  # by stage, what, microbatch
    flight: dict[tuple[str, int], int]  # by F or B and the stage that sends
    capacity: int | None
    blocking: bool = False
    events: dict[tuple[str, int, int], tuple[int, int]] = field(default_factory=dict)

    def operations(self, rank: int) -> list[tuple[str, int, int]]:
        """(what, stage, microbatch); sends and receives only between ranks."""
        homes, found = self.schedule.stage_to_rank, []
        last = len(homes) - 1
        for action in self.schedule.ranks[rank]:
            assert isinstance(action, Action)
            s, kind, k, _ = action
            down, up = {"F": (-1, 1), "B": (1, -1), "I": (1, -1)}.get(kind, (0, 0))
            if down and 0 <= s + down <= last and homes[s + down] != rank:
                found.append((f"RECV_{'F' if kind == 'F' else 'B'}", s, k))
            found.append((str(kind), s, k))
            if up and 0 <= s + up <= last and homes[s + up] != rank:
                found.append((f"SEND_{'F' if kind == 'F' else 'B'}", s, k))
        return found

    def run(self) -> bool:
        """False when all ranks are stuck. Fills ``events`` with (begin, end)."""
        programs = [self.operations(r) for r in range(len(self.schedule.ranks))]
        at = [0] * len(programs)
        since = [0] * len(programs)  # when the rank came to its operation
        busy_until = [0] * len(programs)
        working = [False] * len(programs)
        channels: defaultdict[tuple[str, int], Channel] = defaultdict(Channel)
        alarms = [0]
        while alarms:
            now = heapq.heappop(alarms)
            moved = True
            while moved:
                moved = False
                for r, program in enumerate(programs):
                    if at[r] == len(program) or busy_until[r] > now:
                        continue
                    what, s, k = program[at[r]]
                    end = None
                    if what.startswith("SEND"):
                        key = (what[-1], s)
                        channel = channels[key]
                        if working[r]:  # a send that kept its rank is through
                            working[r] = False
                            channel.sent.append(now)
                            end = now
                        elif self.room(channel, key, programs, at, busy_until, now):
                            if self.blocking:
                                working[r] = True
                                busy_until[r] = now + self.flight[key]
                                heapq.heappush(alarms, busy_until[r])
                                moved = True
                                continue
                            channel.sent.append(now)
                            heapq.heappush(alarms, now + self.flight[key])
                            end = now
                    elif what.startswith("RECV"):
                        key = (what[-1], s - 1 if what[-1] == "F" else s + 1)
                        channel = channels[key]
                        n = channel.taken
                        under_way = 0 if self.blocking else self.flight[key]
                        if n < len(channel.sent) and channel.sent[n] + under_way <= now:
                            channel.taken += 1
                            end = now
                    elif working[r]:
                        working[r] = False
                        end = now
                    else:
                        working[r] = True
                        since[r] = now
                        busy_until[r] = now + self.price[s, what, k]
                        heapq.heappush(alarms, busy_until[r])
                        moved = True
                    if end is not None:
                        self.events[what, s, k] = (since[r], end)
                        since[r] = now
                        at[r] += 1
                        moved = True
        return all(at[r] == len(program) for r, program in enumerate(programs))

    def room(
        self,
        channel: Channel,
        key: tuple[str, int],
        programs: list[list[tuple[str, int, int]]],
        at: list[int],
        busy_until: list[int],
        now: int,
    ) -> bool:
        if self.capacity is None:
            return True
        if self.capacity:
            return len(channel.sent) - channel.taken < self.capacity
        letter, source = key
        stage = source + (1 if letter == "F" else -1)
        peer = self.schedule.stage_to_rank[stage]
        if at[peer] == len(programs[peer]) or busy_until[peer] > now:
            return False
        # The receiver stands at this very receive, all before it taken.
        there = programs[peer][at[peer]][:2] == (f"RECV_{letter}", stage)
        return there and channel.taken == len(channel.sent)


def loop(p: int, v: int, m: int) -> Schedule:
    """v stages per rank in a loop, all forwards before all backwards."""
    rows: list[list[Action]] = [[] for _ in range(p)]
    for s in range(p * v):
        rows[s % p] += [Action(s, Kind.F, k) for k in range(m)]
    for s in reversed(range(p * v)):
        rows[s % p] += [Action(s, Kind.B, k) for k in range(m)]
    return Schedule("loop", rows, [s % p for s in range(p * v)])


def zigzag(p: int, m: int) -> Schedule:
    """Down the ranks and up again, backwards split with all W at the end."""
    placed = [*range(p), *reversed(range(p))]
    rows: list[list[Action]] = [[] for _ in range(p)]
    for kind, order in ((Kind.F, 1), (Kind.I, -1), (Kind.W, 1)):
        for s in range(2 * p)[::order]:
            rows[placed[s]] += [Action(s, kind, k) for k in range(m)]
    return Schedule("zigzag", rows, placed)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    p, m = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["gpipe", "1f1b", "loop", "zigzag"]))
    if kind == "loop":
        return loop(p, 2, m)
    return zigzag(p, m) if kind == "zigzag" else make(kind, p, m)


@settings(deadline=None, max_examples=150)
@given(st.data(), schedules())
def test_every_event_is_where_the_discrete_event_simulator_puts_it(
    data: st.DataObject, schedule: Schedule
) -> None:
    stages, m = schedule.num_stages, schedule.num_microbatches
    column = st.lists(st.integers(0, 9), min_size=stages, max_size=stages)
    f, i, w = (data.draw(column) for _ in range(3))
    hop = data.draw(st.integers(0, 7))
    capacity = data.draw(st.sampled_from([None, 0, 1, 2, 5]))
    columns = zip("FIWB", (f, i, w, np.add(i, w).tolist()), strict=True)
    price = {
        (s, x, k): c[s] for x, c in columns for s in range(stages) for k in range(m)
    }
    flight = {(x, s): hop for x in "FB" for s in range(stages)}
    costs = CostModel.uniform(F=f, I=i, W=w, hop=hop)
    agree(Machine(schedule, price, flight, capacity), costs)


@settings(deadline=None, max_examples=150)
@given(st.data(), schedules(), st.integers(0, 2**32))
def test_links_speeds_and_microbatches_are_where_it_puts_them(
    data: st.DataObject, schedule: Schedule, seed: int
) -> None:
    stages, ranks = schedule.num_stages, schedule.num_ranks
    home, rng = schedule.stage_to_rank, np.random.default_rng(seed)
    times = rng.integers(0, 9, (stages, 6, schedule.num_microbatches))
    slowness = rng.choice([1, 2, 4], ranks)
    latency = rng.integers(0, 4, (ranks, ranks))
    sizes = rng.integers(0, 4, stages)
    price, flight = {}, {}
    for s in range(stages):
        for k in range(schedule.num_microbatches):
            a, i, w = (int(times[s, c, k] * slowness[home[s]]) for c in range(3))
            price |= {
                (s, "F", k): a,
                (s, "I", k): i,
                (s, "W", k): w,
                (s, "B", k): i + w,
            }
        if s + 1 < stages:
            there, back = (home[s], home[s + 1]), (home[s + 1], home[s])
            # One byte takes two units.
            flight["F", s] = int(latency[there] + 2 * sizes[s])
            flight["B", s + 1] = int(latency[back] + 2 * sizes[s])
    costs = CostModel(
        times,
        latency=latency,
        bandwidth=0.5,
        message_bytes=sizes,
        speed=1 / slowness,
        blocking=data.draw(st.booleans()),
    )
    capacity = data.draw(st.sampled_from([None, 0, 1, 2, 5]))
    agree(Machine(schedule, price, flight, capacity, costs.blocking), costs)


def agree(machine: Machine, costs: CostModel) -> None:
    """Both find every event at one time, or both find a deadlock."""
    schedule, capacity = machine.schedule, machine.capacity
    if not machine.run():
        with pytest.raises(ScheduleError) as caught:
            simulate(schedule, costs, channel_capacity=capacity, optimizer=False)
        assert caught.value.rule == "no deadlock"
        return
    trace = simulate(schedule, costs, channel_capacity=capacity, optimizer=False)
    ticks = round(1 / trace.tick)
    found = {
        (str(a.kind), a.stage, a.microbatch): (Fraction(s, ticks), Fraction(e, ticks))
        for a, s, e in zip(
            trace.actions(), trace.start.tolist(), trace.end.tolist(), strict=True
        )
    }
    assert found == machine.events


# ---- units and sizes -----------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e15, 1e100, 1e300])
def test_times_come_back_in_the_unit_given_however_large(scale: float) -> None:
    costs = CostModel.uniform(F=scale, I=scale, W=scale, hop=scale / 2)
    trace = simulate(make("gpipe", 3, 4), costs)
    assert trace.unit == "unit"
    wanted = scale * ((3 + 4 - 1) * 3 + 2 * 2 * 0.5)
    assert trace.makespan == pytest.approx(wanted, rel=1e-6)
    assert (trace.end >= trace.start).all()
    for kind, cost in ((Kind.F, scale), (Kind.B, 2 * scale)):
        assert trace.durations(kind, 1) == pytest.approx([cost] * 4, rel=1e-6)


def test_costs_whose_sum_is_no_number_are_refused() -> None:
    with pytest.raises(ValueError, match="add up"):
        simulate(make("gpipe", 2, 4), CostModel.uniform(F=1e308))


def test_a_model_in_seconds_gives_seconds() -> None:
    costs = CostModel(np.full((1, 6), 0.125), unit="s")
    trace = simulate(make("1f1b", 2, 2), costs, optimizer=False)
    assert (trace.unit, trace.source) == ("s", "simulated")
    assert trace.makespan == pytest.approx(3 * 3 * 0.125)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(1e-3, 1e6))
def test_scaling_all_costs_scales_the_makespan(p: int, m: int, scale: float) -> None:
    schedule = make("1f1b", p, m)
    one = simulate(schedule, CostModel.uniform(F=1, I=2, W=3, hop=0.5)).makespan
    many = CostModel.uniform(F=scale, I=2 * scale, W=3 * scale, hop=scale / 2)
    assert simulate(schedule, many).makespan == pytest.approx(scale * one, rel=1e-4)


# ---- what is recorded ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("p", "m"), [(1, 3), (3, 2), (4, 8)])
def test_live_peaks_at_in_flight_and_ends_at_zero(name: str, p: int, m: int) -> None:
    schedule = make(name, p, m)
    trace = simulate(schedule, CostModel.uniform(hop=0.25))
    for rank in range(p):
        own = trace.select((trace.rank == rank) & (trace.lane == COMPUTE_LANE))
        assert own.live.max() == schedule.in_flight(rank)
        assert own.live[-1] == 0


def test_the_trace_says_what_was_simulated() -> None:
    trace = simulate(make("1f1b", 3, 5), CostModel.uniform(), channel_capacity=2)
    assert dict(trace.metadata) == {
        "channel_capacity": 2,
        "schedule": "1f1b",
        "num_stages": 3,
        "num_microbatches": 5,
        "num_ranks": 3,
    }
    assert trace.steps == (0,)


def test_programs_are_simulated_as_their_schedule() -> None:
    schedule, costs = make("1f1b", 3, 4), CostModel.uniform(hop=0.5)
    a = simulate(schedule, costs)
    b = simulate(schedule.programs(optimizer=False), costs)
    assert a.end.tolist() == b.end.tolist()
    assert list(a.actions()) == list(b.actions())


def with_optimizer(reduce: float, optimizer: float) -> Trace:
    # Stage 0 ends at 9 (its F 0-1 and 1-2, its B 5-7 and 7-9), stage 1 at 7.
    costs = CostModel.uniform(reduce=reduce, optimizer=optimizer)
    return simulate(make("gpipe", 2, 2), costs)


def test_every_rank_waits_for_all_gradients_before_its_optimizer_step() -> None:
    trace = with_optimizer(0.5, 0.25)
    assert trace.makespan == pytest.approx(9 + 0.5 + 0.25)
    steps = trace.of_kind(Kind.OPT_STEP)
    work = trace.select(steps & (trace.lane != WAIT_LANE))
    assert (work.start * trace.tick).tolist() == pytest.approx([9.5, 9.5])
    waits = trace.select(steps & (trace.lane == WAIT_LANE))
    assert waits.rank.tolist() == [1]
    assert (waits.start[0] * trace.tick, waits.end[0] * trace.tick) == pytest.approx(
        (7.5, 9.5)
    )


def test_the_optimizer_is_there_when_it_costs_or_is_asked_for() -> None:
    schedule = make("gpipe", 2, 2)

    def has(trace: Trace) -> bool:
        return bool(trace.of_kind(Kind.OPT_STEP).any())

    assert has(with_optimizer(0, 1))
    assert not has(simulate(schedule, CostModel.uniform()))
    assert has(simulate(schedule, CostModel.uniform(), optimizer=True))
    priced = CostModel.uniform(optimizer=1)
    assert not has(simulate(schedule, priced, optimizer=False))


@pytest.mark.parametrize(("overlap", "total"), [(None, 3.0), (2.25, 2.25)])
def test_an_overlap_costs_its_own_price_or_the_sum(
    overlap: float | None, total: float
) -> None:
    rows = [["0F0", "(0F1;0B0)OVERLAP_F_B", "0B1"]]
    trace = simulate(Schedule("o", rows, (0,)), CostModel.uniform(overlap=overlap))
    assert trace.makespan == pytest.approx(1 + total + 2)
    assert trace.start[1] == trace.start[2]
    assert trace.end[1] == trace.end[2]


# ---- errors --------------------------------------------------------------------------


def test_costs_of_another_number_of_stages_are_refused() -> None:
    costs = CostModel.uniform(F=[1, 2])
    with pytest.raises(ValueError, match="for 2 stages but schedule 'gpipe' has 3"):
        simulate(make("gpipe", 3, 2), costs)
    with pytest.raises(ValueError, match="for 2 stages"):
        simulate(make("gpipe", 3, 2).programs(), costs)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -1e-9])
@pytest.mark.parametrize(
    "name", ["F", "I", "W", "R", "hop", "overlap", "reduce", "optimizer"]
)
def test_costs_that_are_no_durations_are_refused(name: str, value: float) -> None:
    costs: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="finite and not negative"):
        CostModel.uniform(**costs)


def test_cost_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one per stage"):
        CostModel.uniform(F=[1, 2], I=[1, 2, 3])
    with pytest.raises(ValueError, match="times must be"):
        CostModel(np.ones((2, 5)))


def test_a_deadlock_is_refused() -> None:
    with pytest.raises(ScheduleError) as caught:
        simulate(make("1f1b", 2, 2), CostModel.uniform(), channel_capacity=0)
    assert caught.value.rule == "no deadlock"


# ---- costs from traces ---------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 4), st.integers(1, 5), st.integers(0, 8))
def test_costs_taken_from_a_trace_simulate_to_the_same_trace(
    data: st.DataObject, p: int, m: int, hop: int
) -> None:
    column = st.lists(st.integers(1, 9), min_size=p, max_size=p)
    f, b = data.draw(column), data.draw(column)
    schedule = make(data.draw(st.sampled_from(["gpipe", "1f1b"])), p, m)
    first = simulate(schedule, CostModel.uniform(F=f, I=b, W=0, hop=hop))
    taken = CostModel.from_trace(first)
    assume(p == 1 or taken.hop == pytest.approx(hop))
    again = simulate(schedule, taken)
    assert again.makespan == pytest.approx(first.makespan)


def test_costs_need_a_forward_of_every_stage() -> None:
    trace = simulate(make("gpipe", 2, 2), CostModel.uniform())
    with pytest.raises(ValueError, match="no forward of stage 1"):
        CostModel.from_trace(trace.select(trace.stage == 0))
    with pytest.raises(ValueError, match="empty"):
        CostModel.from_trace(trace.select(trace.stage > 9))


def test_an_action_costs_what_its_stage_and_kind_say() -> None:
    costs = CostModel.uniform(F=[1, 2], I=3, W=[4, 5], R=6, reduce=7, optimizer=8)
    texts = {"1F0": 2, "0B3": 7, "1W0": 5, "0R0": 6, "1REDUCE_GRAD": 7, "0OPT_STEP": 8}
    for text, cost in texts.items():
        assert costs.seconds(Action.parse(text)) == cost
    assert costs.seconds(Action.parse("1SEND_F0")) == 0
    assert CostModel.uniform(F=[1, 2]).seconds(Action.parse("1R0")) == 2
    with pytest.raises(ValueError, match="2F0"):
        costs.seconds(Action.parse("2F0"))
