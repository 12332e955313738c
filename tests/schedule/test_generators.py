"""Every generator on every legal shape of a grid: valid, with the bubble and the memory
that the papers state."""

from __future__ import annotations

import pytest

from workbench.schedule import Kind, Overlap, Schedule, ScheduleError
from workbench.simulator import CostModel, simulate

from .shapes import NAMES, Shape, shapes

CLOSE = 1e-6


def held(schedule: Schedule, rank: int) -> int:
    """Most activations of a stage on a rank, counted plainly: a set of what is held."""
    alive: set[tuple[int, int, int]] = set()
    most = 0
    again = {a[::2] for _, _, a in schedule.walk() if a.kind is Kind.R}
    for row in (schedule.ranks[rank],):
        for item in row:
            for a in item if isinstance(item, Overlap) else (item,):
                key = (a.stage, a.microbatch, a.slice)
                if a.kind is Kind.R or (a.kind is Kind.F and a[::2] not in again):
                    alive.add(key)
                elif a.kind in (Kind.W, Kind.B):
                    alive.remove(key)
                most = max(most, len(alive))
    return most


def test_the_grid_is_large_enough() -> None:
    assert sum(1 for name in NAMES for _ in shapes(name)) >= 2500


@pytest.mark.parametrize("name", NAMES)
def test_rules_are_kept_and_texts_and_csv_are_exact(name: str) -> None:
    for shape in shapes(name):
        schedule = shape.make()
        assert schedule.check() is schedule, shape
        assert (schedule.name, schedule.num_ranks) == (name, shape.p)
        assert schedule.num_microbatches == shape.m
        texts = [[str(item) for item in row] for row in schedule.ranks]
        again = Schedule(
            name,
            texts,
            schedule.stage_to_rank,
            num_slices=schedule.num_slices,
            copy_of=schedule.copy_of,
            route=schedule.route,
        )
        assert again == schedule
        kinds = {action.kind for _, _, action in schedule.walk()}
        if (
            schedule.num_slices == 1
            and schedule.copy_of is None
            and Kind.R not in kinds
        ):
            read = Schedule.from_csv(schedule.to_csv(), name=name)
            assert read == schedule, shape


#: Most activations of a stage in flight on rank r, and from which m on.
PEAKS = {
    "gpipe": lambda s, r: s.m,
    "1f1b": lambda s, r: min(s.p - r, s.m),
    "eager_1f1b": lambda s, r: min(2 * (s.p - r) - 1, s.m),
    "looped_bfs": lambda s, r: s.m * s.options["stages_per_rank"],
    "zb_h1": lambda s, r: min(s.p, s.m),
    "zb_h2": lambda s, r: min(2 * s.p - 1, s.m),
    "seq_1f1b": lambda s, r: min(
        s.p + s.options["num_slices"] - 1 - r, s.m * s.options["num_slices"]
    ),
    "1f1b_recompute": lambda s, r: 1,
    "dualpipe": lambda s, r: s.p + 1,
    "dualpipe_v": lambda s, r: 2 * s.p + 1,
}


@pytest.mark.parametrize("name", PEAKS)
def test_peak_in_flight_is_the_papers(name: str) -> None:
    for shape in shapes(name):
        schedule = shape.make()
        for rank in range(shape.p):
            assert schedule.in_flight(rank) == held(schedule, rank)
            assert held(schedule, rank) == PEAKS[name](shape, rank), (shape, rank)


#: The same for families that promise a limit.
LIMITS = {
    "zb_auto": lambda s: s.options.get("memory_limit", s.p),
    "interleaved_zb": lambda s: s.p * s.options["stages_per_rank"],
    "zb_v": lambda s: 2 * s.p,
    "zb_v_greedy": lambda s: 2 * s.p,
    "v_half": lambda s: 2 * ((s.p + 2) // 2),
    "v_min": lambda s: 2 * ((s.p + 4) // 3),
    # Two thirds of 1F1B's 2p stages; for p a multiple of 3 one stage more.
    "1f1b_v": lambda s: 2 * -(-2 * s.p // 3) + (s.p % 3 == 0),
    "chimera": lambda s: s.p,
    "hanayo": lambda s: 2 * s.options["num_waves"] * s.p * 3 // 2,
    "bitpipe": lambda s: 3 * s.p,
}


@pytest.mark.parametrize("name", LIMITS)
def test_peak_in_flight_keeps_the_promise(name: str) -> None:
    for shape in shapes(name):
        if name == "interleaved_zb" and shape.m % shape.p:
            continue  # groups larger than p hold more
        schedule = shape.make()
        peak = max(held(schedule, rank) for rank in range(shape.p))
        assert peak <= LIMITS[name](shape), shape
        assert peak == max(schedule.in_flight(rank) for rank in range(shape.p))
        schedule.check(memory_limit=peak)
        if peak > 1:
            with pytest.raises(ScheduleError, match="memory limit"):
                schedule.check(memory_limit=peak - 1)


def test_interleaved_holds_the_papers_peak_on_the_first_rank() -> None:
    for shape in shapes("interleaved_1f1b"):
        p, m, v = shape.p, shape.m, shape.options["stages_per_rank"]
        if m % p == 0:
            most = min((v + 1) * p - 1, m * v)
            assert held(shape.make(), 0) == most, shape


# ---- bubbles, in closed form -----------------------------------------------------------

COSTS = [(1.0, 1.0, 1.0, 0.0), (1.0, 1.25, 0.75, 0.0), (1.0, 1.0, 1.0, 0.125)]


def idle(shape: Shape, costs: CostModel, by: str) -> float:
    """Span, or makespan, beyond the work of a rank."""
    schedule = shape.make()
    trace = simulate(schedule, costs)
    work = trace.bubbles().busy * trace.tick / shape.p
    return getattr(trace, by) - work


def uniform(F: float, I: float, W: float, hop: float) -> CostModel:
    return CostModel.uniform(F=F, I=I, W=W, hop=hop)


def plain(shape: Shape, F: float, B: float, hop: float) -> float:
    return (shape.p - 1) * (F + B + 2 * hop)


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("name", ["gpipe", "eager_1f1b"])
def test_bubble_of_schedules_that_hide_the_hop(
    name: str, costs: tuple[float, ...]
) -> None:
    F, I, W, hop = costs
    for shape in shapes(name):
        expected = plain(shape, F, I + W, hop)
        assert idle(shape, uniform(*costs), "makespan") == pytest.approx(expected)


@pytest.mark.parametrize("costs", COSTS)
def test_bubble_of_1f1b_grows_with_the_hop(costs: tuple[float, ...]) -> None:
    F, I, W, hop = costs
    for shape in shapes("1f1b"):
        p, m = shape.p, shape.m
        if m % p == 0 and p > 1:
            expected = (p - 1) * (F + I + W) + hop * (
                2 * (p - 1) * m // p + 2 * (p - 2)
            )
            assert idle(shape, uniform(*costs), "makespan") == pytest.approx(expected)


@pytest.mark.parametrize("name", ["interleaved_1f1b", "looped_bfs"])
def test_bubble_of_loops_is_one_stages_share(name: str) -> None:
    for shape in shapes(name):
        whole = shape.m % shape.p == 0 if name != "looped_bfs" else shape.m >= shape.p
        if whole:
            expected = (shape.p - 1) * 3.0
            found = idle(shape, uniform(1, 1, 1, 0), "makespan")
            assert found == pytest.approx(expected), shape


@pytest.mark.parametrize("costs", COSTS)
def test_bubble_of_zb_h1(costs: tuple[float, ...]) -> None:
    F, I, W, hop = costs
    for shape in shapes("zb_h1"):
        if shape.m >= 2 * shape.p:
            expected = (shape.p - 1) * (F + I - W) + 4 * (shape.p - 1) * hop
            found = idle(shape, uniform(*costs), "span")
            assert found == pytest.approx(expected, abs=CLOSE), shape


@pytest.mark.parametrize(
    "costs", [(1.0, 1.0, 1.0, 0.0), (1.0, 1.25, 0.75, 0.0), (1.25, 1.25, 1.0, 0.125)]
)
def test_bubble_of_zb_h2(costs: tuple[float, ...]) -> None:
    F, I, W, hop = costs
    for shape in shapes("zb_h2"):
        p = shape.p
        if shape.m >= 2 * p - 1:
            expected = (p - 1) * (F + I - 2 * W) + 2 * (p - 1) * hop
            found = idle(shape, uniform(*costs), "span")
            assert found == pytest.approx(max(0.0, expected), abs=CLOSE), shape


@pytest.mark.parametrize("costs", COSTS)
def test_automatic_scheduler_meets_the_bound_at_1f1bs_memory(
    costs: tuple[float, ...],
) -> None:
    """No order of one stage per rank does better with p in flight (the bound is derived
    in docs/searching.md), and this one does as well."""
    F, I, W, hop = costs
    for p, m in [(2, 4), (3, 8), (4, 8), (4, 16), (8, 24)]:
        model = uniform(*costs)
        options = {"cost_model": model}
        found = idle(Shape("zb_auto", p, m, options), model, "span")
        bound = (p - 1) * (F + I - W) + 4 * (p - 1) * hop
        assert found == pytest.approx(bound, abs=CLOSE), (p, m)


def test_automatic_scheduler_gains_from_memory() -> None:
    last = None
    for limit in (1, 2, 3, 4, 6, 8):
        shape = Shape("zb_auto", 4, 12, {"memory_limit": limit})
        found = idle(shape, uniform(1, 1, 1, 0), "span")
        assert last is None or found <= last
        last = found
    assert last == pytest.approx(0.0, abs=CLOSE)


def test_zb_v_has_no_bubble_by_the_span() -> None:
    for name in ("zb_v", "zb_v_greedy"):
        for shape in shapes(name):
            if shape.m >= 2 * shape.p - 1:
                costs = uniform(1, 1, 1, 0)
                assert idle(shape, costs, "span") == pytest.approx(0, abs=CLOSE)
                found = idle(shape, costs, "makespan")
                assert found == pytest.approx(shape.p - 1), shape


@pytest.mark.parametrize(
    ("name", "most"), [("v_half", 0.5), ("v_min", 0.67), ("1f1b_v", 1.0)]
)
def test_schedules_of_less_memory_have_their_share_of_1f1bs_bubble(
    name: str, most: float
) -> None:
    for shape in shapes(name):
        if shape.p > 2 and shape.m >= 2 * shape.p:
            # 1F1B's, in times of half a stage.
            bubble = 2 * (shape.p - 1) * 3.0
            found = idle(shape, uniform(1, 1, 1, 0), "span")
            assert found <= most * bubble + CLOSE, shape


@pytest.mark.parametrize("pair", [3.0, 2.5])
def test_bubble_of_dualpipe(pair: float) -> None:
    """That of the idlest rank, for F = I = W; the pair costs as much or less than its
    halves."""
    for name, ranks in (
        ("dualpipe", lambda p: p // 2 - 1),
        ("dualpipe_v", lambda p: p - 1),
    ):
        for shape in shapes(name):
            costs = CostModel.uniform(F=1, I=1, W=1, overlap=pair)
            trace = simulate(shape.make(), costs)
            busy = [row["compute"] * trace.tick for row in trace.bubbles().ranks]
            found = trace.makespan - min(busy)
            assert found == pytest.approx(ranks(shape.p) * (pair + 2 - 3)), shape


def test_makespan_of_chimera() -> None:
    for shape in shapes("chimera"):
        if shape.m % shape.p == 0:
            trace = simulate(shape.make(), uniform(1, 0.5, 0.5, 0))
            assert trace.makespan == pytest.approx(2 * shape.m + shape.p - 2), shape


def test_bidirectional_and_wave_schedules_beat_1f1b() -> None:
    for name in ("bitpipe", "hanayo"):
        for shape in shapes(name):
            if shape.p > 1 and shape.m >= shape.p:
                stages = shape.make().chain_length // shape.p
                found = idle(shape, uniform(1, 1, 1, 0), "makespan")
                assert found <= stages * (shape.p - 1) * 3.0 + CLOSE, shape


def test_more_waves_make_hanayos_bubble_smaller() -> None:
    shares = []
    for w in (1, 2, 4):
        shape = Shape("hanayo", 4, 4, {"num_waves": w})
        shares.append(idle(shape, uniform(1, 1, 1, 0), "makespan") / w)
    assert shares == sorted(shares, reverse=True) and len(set(shares)) == 3


def test_slices_divide_the_bubble() -> None:
    for shape in shapes("seq_1f1b"):
        k = shape.options["num_slices"]
        expected = (shape.p - 1) * 3.0 / k
        found = idle(shape, uniform(1, 1, 1, 0), "makespan")
        assert found == pytest.approx(expected), shape


def test_recompute_costs_its_time_where_there_is_no_bubble() -> None:
    for shape in shapes("1f1b_recompute"):
        plain_shape = shape._replace(name="1f1b")
        costs = uniform(1, 1, 1, 0)
        again = simulate(shape.make(), costs)
        once = simulate(plain_shape.make(), costs)
        recomputed = sum(row["recompute"] for row in again.bubbles().ranks) * again.tick
        count = sum(1 for _, _, a in shape.make().walk() if a.kind is Kind.R)
        assert recomputed == pytest.approx(count)
        # Hoisted: less than a recomputation per microbatch on the way of the last.
        assert once.makespan <= again.makespan <= once.makespan + shape.m * 1.0 + CLOSE
