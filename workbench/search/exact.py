"""Small cases exactly: the same problem for OR-Tools' CP-SAT solver, where it is
installed (Perron and Furnon; Apache-2.0; the extra ``search``).

One interval per action, none of a rank's overlapping; messages and the ascending order
of microbatches as precedences. A rank's memory is a reservoir, or, with one stage per
rank, precedences too.
"""

from __future__ import annotations

import os
from math import gcd
from typing import TYPE_CHECKING, Any

from .bounds import Bound
from .budget import Budget
from .problem import Problem, Rows

if TYPE_CHECKING:
    from .space import Space

_MISSING = "exact stage left out: OR-Tools is not installed (the extra 'search' has it)"


def solve(space: Space, budget: Budget) -> str | None:
    """Improves a space's rows and bound within the budget. Returns a note about what
    could not be done, or None."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return _MISSING
    model, starts, problem, unit = _model(cp_model, space)
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    if budget.iterations is None:
        parameters.max_time_in_seconds = max(0.01, budget.seconds)
        parameters.num_workers = max(1, min(8, len(os.sched_getaffinity(0))))
    else:
        # The same on every machine: work is counted, by one worker.
        parameters.max_deterministic_time = budget.iterations / 5000
        parameters.num_workers = 1
    parameters.random_seed = 0
    status = solver.solve(model)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        space.add(_rows(problem, [solver.value(s) for s in starts]))
    elif status != cp_model.UNKNOWN:
        return f"exact stage for {space.name}: the solver says {solver.status_name()}"
    space.raise_bound(problem.units(unit * round(solver.best_objective_bound)))
    if status == cp_model.OPTIMAL:
        # A span may need a rank to begin late, which a simulation does not do.
        space.proven = space.objective.name == "makespan"
        return None
    return (
        f"exact stage for {space.name}: no proof in its share of the time; bound "
        f"{space.bound:.6g}"
    )


def _model(cp_model: Any, space: Space) -> tuple[Any, list[Any], Problem, int]:
    """(the constraint model, its start variables, the problem rounded down, the ticks
    in the model's unit of time: simple costs make small numbers)."""
    bound = Bound(space.problem)
    problem, m = bound.problem, space.problem.num_microbatches
    unit = max(1, gcd(*problem.duration, *problem.lag))
    duration = [d // unit for d in problem.duration]
    heads, tails = ([t // unit for t in c] for c in (bound.heads(), bound.tails()))
    horizon = sum(duration) + sum(problem.lag) // unit
    model = cp_model.CpModel()
    by_makespan = space.objective.name == "makespan"
    hint = _hint(space, unit)
    if hint and by_makespan:
        horizon = max(h + d for h, d in zip(hint, duration, strict=True)) + 1
    starts, intervals = [], []
    for action in range(problem.size):
        latest = horizon - duration[action] - (tails[action] if by_makespan else 0)
        start = model.new_int_var(heads[action], max(heads[action], latest), "")
        starts.append(start)
        intervals.append(model.new_fixed_size_interval_var(start, duration[action], ""))
        if hint:
            model.add_hint(start, hint[action])
    for action, needs in enumerate(bound.needs):
        for need in needs:
            lag = bound.lag(need, action) // unit
            model.add(starts[action] >= starts[need] + duration[need] + lag)
    for own in bound.own:
        model.add_no_overlap([intervals[a] for a in own])
    _memory(model, problem, bound.own, starts, duration)
    goal = model.new_int_var(0, horizon, "")
    for own in bound.own:
        since = 0 if by_makespan else starts[own[0]]
        for last in own[m - 1 :: m]:
            model.add(goal >= starts[last] + duration[last] - since)
    model.minimize(goal)
    return model, starts, problem, unit


def _memory(
    model: Any,
    problem: Problem,
    owns: list[list[int]],
    starts: list[Any],
    duration: list[int],
) -> None:
    """What every rank holds, where it has several stages; for one stage the bound's
    graph has the limit as precedences."""
    if problem.capacity is None:
        return
    per_stage = len(problem.kinds) * problem.num_microbatches
    for own in owns:
        if len(own) == per_stage:
            continue
        moments, changes = [], []
        for action in own:
            change = problem.holds[action]
            if change:
                late = duration[action] if change < 0 else 0
                moments.append(starts[action] + late)
                changes.append(change)
        model.add_reservoir_constraint(moments, changes, 0, problem.capacity)


def _hint(space: Space, unit: int) -> list[int]:
    """Starts of the space's best rows."""
    if not space.pool:
        return []
    objective = space.objective
    times = objective.times(objective.order(space.pool[0][1]))
    return [int(t / space.problem.tick / unit + 0.5) for t in times.start]


def _rows(problem: Problem, starts: list[int]) -> Rows:
    """Rows in the order of their starts; where two start at once, the one that takes no
    time, and needs the other least, goes first."""
    rows: Rows = [[] for _ in range(problem.num_ranks)]

    def place(action: int) -> tuple[int, int, int, int]:
        stage, kind, microbatch = problem.about(action)
        return starts[action], problem.duration[action] > 0, kind, microbatch

    for action in sorted(range(problem.size), key=place):
        rows[problem.rank_of[action]].append(action)
    return rows
