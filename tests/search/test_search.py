"""search_schedules: never worse than the catalogue, never better than the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.schedule import halves
from workbench.search.catalogue import _SLOW, _stages_per_rank

from .orders import every_order


def search(costs: wb.CostModel, **options: Any) -> wb.SearchResult:
    settings = dict(num_ranks=4, num_microbatches=6, iterations=300, exact=False)
    return wb.search_schedules(costs, **(settings | options))


def catalogue(found: wb.SearchResult) -> list[float]:
    """The objective of every entry of the catalogue that may be taken, made and timed
    here."""
    return [
        row[found.objective]
        for row in found.table
        if row["feasible"] and row["name"] != "searched"
    ]


@given(
    p=st.integers(1, 4),
    m=st.integers(1, 7),
    v=st.integers(1, 2),
    limit=st.sampled_from([None, 1, 1.5, 2, 3, 4]),
    objective=st.sampled_from(["makespan", "span"]),
    seed=st.integers(0, 99),
    split=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_between_the_bound_and_the_catalogue(
    p: int, m: int, v: int, limit: float | None, objective: str, seed: int, split: bool
) -> None:
    times = np.random.default_rng(seed).uniform(0.3, 2.0, (3, p * v)).round(2)
    costs = wb.CostModel.uniform(F=times[0], I=times[1], W=times[2], hop=0.1)
    found = search(
        costs,
        num_ranks=p,
        num_microbatches=m,
        memory_limit=limit,
        objective=objective,
        split_backward=split,
        iterations=60,
    )
    found.schedule.check()
    again = wb.simulate(found.schedule, costs)
    assert (again.makespan, again.span) == (found.makespan, found.span)
    assert found.lower_bound <= found.value
    assert found.gap >= 0
    for row in found.table:
        if row["feasible"]:
            assert found.value <= row[objective]
            assert found.lower_bound <= row[objective]
    if limit is not None:
        held = max(found.schedule.in_flight(r) for r in range(p)) / v
        assert held <= limit
        assert found.peak_memory == pytest.approx(held)
    if not split:
        kinds = {a.kind for _, _, a in found.schedule.walk()}
        assert kinds.isdisjoint({wb.Kind.I, wb.Kind.W})


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb_h1", "eager_1f1b", "zb_h2"])
def test_never_worse_than_a_family_made_by_hand(name: str) -> None:
    costs = wb.CostModel.uniform(
        F=[1, 3, 2, 2], I=[2, 2, 1, 3], W=[1, 1, 2, 1], hop=0.5
    )
    other = wb.Schedule.make(name, num_ranks=4, num_microbatches=7)
    limit = max(other.in_flight(rank) for rank in range(4))
    found = search(costs, num_microbatches=7, memory_limit=limit, iterations=0)
    assert found.makespan <= wb.simulate(other, costs).makespan


@pytest.mark.parametrize(("v", "m", "limit"), [(1, 8, 4), (1, 8, 3), (2, 6, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_better_than_the_catalogue_on_unequal_stages(
    v: int, m: int, limit: int, seed: int
) -> None:
    times = np.random.default_rng(seed).uniform(0.5, 1.5, (3, 4 * v)).round(2)
    costs = wb.CostModel.uniform(F=times[0], I=times[1], W=times[2], hop=0.1)
    found = search(costs, num_microbatches=m, memory_limit=limit, iterations=3000)
    assert found.schedule.name == "searched"
    assert found.makespan < 0.99 * min(catalogue(found))


@pytest.mark.parametrize(("split", "m"), [(True, 2), (False, 2), (False, 3)])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_the_best_of_every_order_of_a_tiny_step(
    split: bool, m: int, limit: int | None
) -> None:
    costs = wb.CostModel.uniform(F=[1, 2], I=[1.5, 1], W=[0.5, 1.25], hop=0.25)
    orders = list(every_order((0, 1), m, costs, split, limit))
    for objective in ("makespan", "span"):
        best = min(getattr(order, objective) for order in orders)
        found = search(
            costs,
            num_ranks=2,
            num_microbatches=m,
            memory_limit=limit,
            split_backward=split,
            objective=objective,
            iterations=400,
        )
        assert found.value == pytest.approx(best)


def test_links_and_ranks_that_differ_are_searched_for() -> None:
    latency = np.full((3, 3), 0.1)
    latency[0, 1] = latency[1, 0] = 1.5
    costs = wb.CostModel.uniform(F=1, I=1, W=1, latency=latency, speed=[1, 0.5, 1])
    found = search(costs, num_ranks=3, stages_per_rank=1, memory_limit=3)
    again = wb.simulate(found.schedule, costs)
    assert again.makespan == found.makespan
    assert found.makespan <= min(catalogue(found))
    # The slow rank alone takes six microbatches at half speed.
    assert found.lower_bound >= 6 * 3 * 2
    assert found.lower_bound <= found.makespan


def test_costs_that_depend_on_the_microbatch() -> None:
    rng = np.random.default_rng(5)
    costs = wb.CostModel.uniform(F=rng.uniform(0.5, 2, (3, 5)), I=1, W=1)
    found = search(costs, num_ranks=3, num_microbatches=5, memory_limit=3)
    assert wb.simulate(found.schedule, costs).makespan == found.makespan
    assert found.lower_bound <= found.makespan <= min(catalogue(found))


def test_overlapping_pairs_that_are_cheap_do_not_break_the_bound() -> None:
    costs = wb.CostModel.uniform(F=1, I=1, W=1, overlap=2.0)
    found = search(costs, num_ranks=2, num_microbatches=8, stages_per_rank=2)
    rows = [row for row in found.table if row["name"] == "dualpipe_v"]
    assert rows
    assert all(found.lower_bound <= row["makespan"] for row in rows)


def test_two_copies_are_taken_only_where_allowed() -> None:
    costs = wb.CostModel.uniform(F=1, I=1, W=1)
    options = dict(num_microbatches=8, stages_per_rank=1, iterations=0)
    alone, both = search(costs, **options), search(costs, **options, parameter_copies=2)
    rows = {row["name"]: row for row in alone.table}
    assert "parameter_copies=2" in rows["dualpipe"]["problem"]
    rows = {row["name"]: row for row in both.table}
    assert rows["dualpipe"]["feasible"]
    assert both.lower_bound <= min(r["makespan"] for r in both.table if r["feasible"])


def test_recomputing_is_taken_only_where_allowed() -> None:
    costs = wb.CostModel.uniform(F=[1, 2, 1, 1], I=1, W=1)
    options = dict(num_microbatches=8, memory_limit=2, iterations=0)
    alone, both = search(costs, **options), search(costs, **options, recompute=True)
    rows = {row["name"]: row for row in alone.table}
    assert "recompute=True allows" in rows["1f1b_recompute"]["problem"]
    again = wb.Schedule.make("1f1b_recompute", num_ranks=4, num_microbatches=8)
    assert max(again.in_flight(rank) for rank in range(4)) <= 2
    assert both.makespan <= wb.simulate(again, costs).makespan
    rows = {row["name"]: row for row in both.table}
    assert rows["1f1b_recompute"]["feasible"]
    assert both.lower_bound <= min(r["makespan"] for r in both.table if r["feasible"])


def test_what_there_is_no_time_for_is_left_out_and_said() -> None:
    costs = wb.CostModel.uniform(F=np.linspace(1, 2, 16), hop=0.1)
    options = dict(num_ranks=16, num_microbatches=96, memory_limit=16)
    found = wb.search_schedules(costs, **options, seconds=0.01)
    rows = {row["name"]: row for row in found.table}
    assert rows["zb_auto"]["problem"].startswith("left out")
    assert any("zb_auto" in note for note in found.notes)
    assert any("a sharper one" in note for note in found.notes)
    found.schedule.check(memory_limit=16)
    assert found.lower_bound <= found.makespan
    for row in found.table:
        assert not row["feasible"] or found.makespan <= row["makespan"]
    again = wb.simulate(found.schedule, costs)
    assert (again.makespan, again.span) == (found.makespan, found.span)


def test_something_that_fits_is_found_in_no_time() -> None:
    costs = wb.CostModel.uniform(F=np.linspace(1, 2, 32))
    options = dict(num_ranks=16, num_microbatches=64, memory_limit=5)
    found = wb.search_schedules(costs, **options, seconds=0.01, families=["looped_bfs"])
    assert max(found.schedule.in_flight(rank) for rank in range(16)) <= 10


@pytest.mark.parametrize("name", sorted(_SLOW))
def test_the_stages_of_families_that_take_long_are_known(name: str) -> None:
    made = wb.Schedule.make(name, num_ranks=4, num_microbatches=8)
    length = made.num_stages // made.num_copies
    assert _stages_per_rank(name, {"num_waves": 1}) == length // 4


def test_the_same_seed_and_iterations_give_the_same_result() -> None:
    costs = wb.CostModel.uniform(F=[1, 1.3, 0.7, 1.9], hop=0.3)
    options = dict(memory_limit=3, iterations=500)
    one, two = search(costs, seed=3, **options), search(costs, seed=3, **options)
    assert one.schedule == two.schedule
    assert one.table == two.table
    assert one.trials == two.trials <= 500


def test_one_row_is_a_ranks_share_whatever_the_stages() -> None:
    costs = wb.CostModel.uniform(F=1, I=1, W=1)
    found = search(costs, num_microbatches=8, stages_per_rank=(1, 2), memory_limit=4)
    for row in found.table:
        if row["feasible"]:
            # 8 microbatches x 3 units of work on every rank.
            busy = (1 - row["bubble_fraction"]) * row["makespan"]
            repeats = 4 / 3 if "recompute" in row["name"] else 1
            assert busy == pytest.approx(24, rel=0.35 if repeats > 1 else 1e-6)
    per_rank = found.cost_model.times[0, 0] * found.schedule.num_stages / 4
    assert per_rank == pytest.approx(1)
    assert wb.simulate(found.schedule, found.cost_model).makespan == found.makespan


def test_weights_of_activations_count_against_the_limit() -> None:
    costs = wb.CostModel.uniform(F=[1, 1, 1], I=1, W=1)
    sizes = [2.0, 0.5, 0.5]
    found = search(
        costs, num_ranks=3, num_microbatches=5, memory_limit=4, activations=sizes
    )
    assert found.schedule.in_flight(0) <= 2
    held = [found.schedule.in_flight(rank) * sizes[rank] for rank in range(3)]
    assert found.peak_memory == pytest.approx(max(held))
    assert found.lower_bound <= found.makespan


def test_uncertain_costs_give_a_median_and_a_percentile() -> None:
    costs = wb.CostModel.uniform(F=[1, 2, 1, 1], hop=0.2)
    found = search(costs, draws=32, jitter=0.1, rank_by="p90", memory_limit=4)
    assert found.draws == 32
    assert found.median is not None and found.p90 is not None
    assert found.median <= found.p90
    drawn = [row["p90"] for row in found.table if row["p90"] is not None]
    assert len(drawn) > 1
    assert found.p90 == min(drawn)
    calm = search(costs, draws=4, jitter=0.0, memory_limit=4)
    assert calm.median == calm.p90 == calm.makespan
    assert search(costs, memory_limit=4).median is None


def test_placements_can_be_given() -> None:
    costs = wb.CostModel.uniform(F=[1, 2, 1, 2], hop=0.5)
    found = search(costs, num_ranks=2, placements=[(1, 0, 0, 1)], families=["gpipe"])
    assert found.schedule.stage_to_rank == (1, 0, 0, 1)
    # Stages 1 and 2 share a rank: their actions stand in one row.
    stages = {a.stage for item in found.schedule.ranks[0] for a in halves(item)}
    assert stages == {1, 2}


def test_it_shows_itself() -> None:
    found = search(wb.CostModel.uniform(F=[1, 2, 1, 1]), memory_limit=2)
    text, page = str(found), found._repr_html_()
    assert f"{found.makespan:.6g}" in text.partition("\n")[0]
    assert "gpipe" in text and "more than the limit of 2" in text
    assert "<svg" in page and "<table>" in page
    assert "0x" not in text + repr(found)


BAD = [
    (dict(seconds=-1), "seconds must be 0 or more"),
    (dict(seconds=float("nan")), "seconds must be 0 or more"),
    (dict(objective="speed"), "objective must be one of makespan, span"),
    (dict(memory_limit=0.5), "memory_limit must be at least 1"),
    (dict(memory_limit=float("inf")), "memory_limit must be at least 1"),
    (dict(num_ranks=3), "no multiple of num_ranks=3"),
    (dict(num_ranks=0), "num_ranks must be a whole number of at least 1"),
    (dict(num_microbatches=2.5), "num_microbatches must be a whole number"),
    (dict(stages_per_rank=2), "costs for 4 stages on 4 ranks make it 1"),
    (dict(families=["zb9"]), "no schedule named 'zb9'"),
    (dict(activations=[1, 1]), "activations has 2 entries; give one per stage, 4"),
    (dict(placements=[(0, 1, 2, 2)]), "must name a rank, 0 to 3"),
    (dict(memory_limit=1.5, activations=[2, 1, 1, 1]), "one microbatch takes 2"),
    (dict(rank_by="p90"), "needs draws"),
    (dict(rank_by="best", draws=3), "rank_by must be one of"),
    (dict(draws=3, jitter=-0.1), "jitter must be a number of 0 or more"),
    (dict(iterations=-1), "iterations must be a whole number of at least 0"),
]


@pytest.mark.parametrize(("options", "told"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        search(wb.CostModel.uniform(F=[1, 1, 1, 1]), **options)


def test_costs_must_be_costs() -> None:
    with pytest.raises(ValueError, match="must be a CostModel"):
        search([1, 2, 3])  # type: ignore[arg-type]


def test_it_ends_in_time() -> None:
    costs = wb.CostModel.uniform(F=[1, 1.3, 0.7, 1.9], hop=0.3)
    found = wb.search_schedules(
        costs, num_ranks=4, num_microbatches=8, memory_limit=2, seconds=0.2
    )
    assert found.lower_bound <= found.makespan <= min(catalogue(found))
