"""The bound is never beaten: by no order of a tiny step, by nothing that is found."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.search.bounds import Bound, lower_bound
from workbench.search.evaluate import Objective
from workbench.search.greedy import greedy, some_rules
from workbench.search.problem import Problem, memory_units

from .orders import every_order

SHORT = settings(max_examples=25, deadline=None)
TIMES = st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 3.1])


@st.composite
def models(draw: st.DrawFn, stages: int) -> wb.CostModel:
    times = {
        kind: [draw(TIMES) for _ in range(stages)] for kind in ("F", "I", "W", "reduce")
    }
    if draw(st.booleans()):
        times["reduce"] = [0.0] * stages
    return wb.CostModel.uniform(**times, hop=draw(TIMES))


def problem_of(
    costs: wb.CostModel,
    placement: tuple[int, ...],
    num_microbatches: int,
    limit: float | None,
    split: bool = True,
) -> Problem:
    p = max(placement) + 1
    units = memory_units([p / len(placement)] * len(placement), limit)
    return Problem(costs, placement, p, num_microbatches, split, *units)


def bounds(problem: Problem) -> tuple[float, float]:
    return lower_bound(problem, "makespan"), lower_bound(problem, "span")


TINY = [
    # placement, microbatches, whether backwards are split
    ((0, 1), 2, True),
    ((0, 1), 3, False),
    ((0, 1, 0, 1), 2, False),
    ((0, 1, 1, 0), 2, False),
]


@pytest.mark.parametrize(("placement", "m", "split"), TINY, ids=str)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_no_order_of_a_tiny_step_beats_the_bound(
    placement: tuple[int, ...], m: int, split: bool, data: st.DataObject
) -> None:
    costs = data.draw(models(len(placement)))
    limit = data.draw(st.sampled_from([None, 1, 2]))
    low, low_span = bounds(problem_of(costs, placement, m, limit, split))
    # The oracle knows no reductions: they only make a step longer.
    bare = wb.CostModel(costs.times * [1, 1, 1, 1, 0, 0], costs.hop)
    floor, floor_span = bounds(problem_of(bare, placement, m, limit, split))
    rough = problem_of(bare, placement, m, limit, split)
    assert lower_bound(rough, "makespan", rough=True) <= floor
    assert lower_bound(rough, "span", rough=True) <= floor_span
    assert floor <= low + 1e-9
    assert floor_span <= low_span + 1e-9
    orders = list(every_order(placement, m, bare, split, limit))
    assert orders
    assert floor <= min(o.makespan for o in orders) + 1e-9
    assert floor_span <= min(o.span for o in orders) + 1e-9


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_list_schedule_beats_the_bound(data: st.DataObject) -> None:
    p = data.draw(st.integers(1, 4), "p")
    v = data.draw(st.integers(1, 3), "v")
    m = data.draw(st.integers(1, 6), "m")
    folded = data.draw(st.booleans(), "folded")
    placement = tuple(
        p - 1 - s % p if folded and (s // p) % 2 else s % p for s in range(p * v)
    )
    costs = data.draw(models(p * v))
    limit = data.draw(st.sampled_from([None, 1, 1.5, 2, p]), "limit")
    split = data.draw(st.booleans(), "split")
    problem = problem_of(costs, placement, m, limit, split)
    low, low_span = bounds(problem)
    random = Random(data.draw(st.integers(0, 1000), "seed"))
    for _ in range(5):
        rows = greedy(problem, some_rules(problem, random))
        if rows is None:
            continue
        schedule = problem.to_schedule(rows, "greedy")
        trace = wb.simulate(schedule.check(), costs)
        assert trace.makespan >= low
        assert trace.span >= low_span
        if limit is not None:
            # What check counts: stages' activations, v to a rank's.
            schedule.check(memory_limit=max(1, int(limit * v)))
        whole = Objective(problem, "makespan")
        assert whole.value(whole.order(rows)) == trace.makespan
        if not costs.has_optimizer:
            longest = Objective(problem, "span")
            value = longest.value(longest.order(rows))
            assert value == pytest.approx(trace.span, abs=1e-9)


@given(
    p=st.integers(2, 6),
    extra=st.integers(0, 6),
    f=st.integers(1, 4),
    i=st.integers(1, 4),
    w=st.integers(1, 4),
    hop=st.integers(0, 2),
)
@SHORT
def test_the_bound_is_the_published_one_for_equal_stages(
    p: int, extra: int, f: int, i: int, w: int, hop: int
) -> None:
    # arXiv:2401.10241's bound at a memory limit of p, with hops: for W no longer than F.
    w = min(w, f)
    m = p + 1 + extra
    costs = wb.CostModel.uniform(F=f, I=i, W=w, hop=hop)
    _, span = bounds(problem_of(costs, tuple(range(p)), m, p))
    assert span >= m * (f + i + w) + (p - 1) * (f + i - w) + 4 * (p - 1) * hop


def test_whole_backwards_without_limit_have_the_bubble_of_gpipe() -> None:
    costs = wb.CostModel.uniform(F=1, I=1, W=1)
    problem = problem_of(costs, (0, 1, 2, 3), 8, None, split=False)
    assert bounds(problem)[0] == 8 * 3 + 3 * 3


@given(data=st.data())
@SHORT
def test_less_memory_never_lowers_the_bound(data: st.DataObject) -> None:
    costs = data.draw(models(6))
    problems = [
        problem_of(costs, (0, 1, 2, 2, 1, 0), 5, limit) for limit in (1, 2, 3.5, None)
    ]
    found = [bounds(problem) for problem in problems]
    for tight, loose in itertools.pairwise(found):
        assert tight[0] >= loose[0] - 1e-9
        assert tight[1] >= loose[1] - 1e-9


def test_many_jobs_at_once_give_the_bound_of_a_few() -> None:
    """Arrays and lists work out the same heads and tails."""
    costs = wb.CostModel.uniform(F=[1, 0.3, 2, 0.7], I=[0, 1, 1.7, 1], W=1, hop=0.3)
    for limit in (None, 2, 3):
        problem = problem_of(costs, (0, 1, 1, 0), 20, limit)
        many, few = Bound(problem), Bound(problem)
        few.__dict__["_many"] = False
        assert many._many
        for one, other in zip(
            (many.heads(), many.tails()), (few.heads(), few.tails()), strict=True
        ):
            assert one == other
        source = problem.action(1, 0, 3)
        assert many.heads(source) == few.heads(source)
        assert many.tails(1) == few.tails(1)
