"""``search_schedules``: arguments checked, the search run, its result put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from numbers import Real
from typing import Any, NamedTuple

from ..schedule import SCHEDULES
from ..schedule.ir import whole
from ..simulator import CostModel
from .budget import Budget
from .catalogue import known_names
from .result import SearchResult
from .robust import RANKINGS, spread
from .search import OBJECTIVES, Search, Setup


def search_schedules(
    cost_model: CostModel,
    num_ranks: int,
    num_microbatches: int,
    memory_limit: float | None = None,
    seconds: float = 5.0,
    *,
    objective: str = "makespan",
    seed: int = 0,
    iterations: int | None = None,
    stages_per_rank: int | Iterable[int] | None = None,
    split_backward: bool = True,
    parameter_copies: int = 1,
    recompute: bool = False,
    activations: Sequence[float] | None = None,
    families: Iterable[str] | None = None,
    placements: Iterable[Sequence[int]] | None = None,
    exact: bool = True,
    draws: int = 0,
    jitter: float = 0.05,
    rank_by: str = "nominal",
) -> SearchResult:
    """The best schedule that can be found in ``seconds``, with a bound on how good any
    can be.

    First every family of the catalogue that these numbers allow, then list schedules by
    many rules, then local search; small cases exactly, where OR-Tools is installed (the
    extra ``search``). Never worse than the catalogue's best within the limit.

    cost_model: one row per stage, a multiple of ``num_ranks`` stages, which are so many
    stages per rank. A model of one row gives the costs of a *rank's share* of the
    model: with v stages per rank each is taken to cost 1/v of it, and
    ``SearchResult.cost_model`` has the costs of the stages that were chosen.
    stages_per_rank: for a model of one row, the numbers to try, such as (1, 2); by
    default 1, and the row is then a stage's.

    memory_limit: the most that a rank may hold, in one microbatch's activations of one
    rank (None: any amount); held from F to the end of W or B. activations: what a
    microbatch takes on each stage, in that unit; by default 1 / stages per rank.

    objective: "makespan" or "span". split_backward: whether backwards may be I and W.
    parameter_copies: 2 lets schedules with two copies of the parameters in. recompute:
    True lets the catalogue's schedules in that run forwards again (R), whose activations
    are held from R on; a memory limit then bounds nothing. families: keys of
    ``SCHEDULES``, by default all. placements: ``stage_to_rank`` tuples to search instead
    of the loop, the waves and the catalogue's.

    seconds: the search ends about then; 0 tries the catalogue alone, all of it. Families
    whose order takes too long to work out in that time are left out, and a note says so;
    the bound is then a rougher one.

    seed, iterations: with ``iterations``, the number of orders tried, in place of
    ``seconds`` the same call gives the same result on every machine.

    draws: with uncertain costs, how many draws of them the best few schedules are timed
    under, after the search; every action's cost is multiplied by its own log-normal
    factor of mean 1 and standard deviation ``jitter``. The result then has median and
    90th percentile of the objective; rank_by "median" or "p90" takes the best few's
    best by that, else "nominal" by the costs as given.

    Raises ValueError for arguments out of range, saying what is allowed.
    """
    luck = _luck(draws, jitter, rank_by)
    setup = make_setup(
        cost_model,
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        memory_limit=memory_limit,
        objective=objective,
        stages_per_rank=stages_per_rank,
        split_backward=split_backward,
        parameter_copies=parameter_copies,
        recompute=recompute,
        activations=activations,
        families=families,
        placements=placements,
        exact=exact,
    )
    budget = Budget(check_seconds(seconds), check_iterations(iterations))
    search = Search(setup, budget, whole(seed, "seed", 0))
    if luck:
        search.keep = 3
    search.run()
    if cost_model.num_stages is None and stages_per_rank is None:
        search.notes.append(
            "one stage per rank; stages_per_rank=(1, 2) also tries two, each half a rank's"
        )
    return result(search, luck)


def result(search: Search, luck: Luck | None = None) -> SearchResult:
    """The best candidate, checked, as a result. Raises ValueError without any."""
    ranked = search.ranked()
    if luck:
        ranked = spread(
            ranked, search.setup.objective, luck.draws, luck.jitter, search.seed
        )
        if luck.rank_by != "nominal":
            ranked.sort(key=lambda c: getattr(c, luck.rank_by) or float("inf"))
    best = ranked[0]
    if best.feasible and best.trace is None:
        best = best.simulated()
        ranked[0] = best
    if not best.feasible or best.trace is None or best.schedule is None:
        raise ValueError(
            f"no schedule was found within memory_limit={search.setup.memory_limit}; "
            "allow more memory, seconds or families"
        )
    assert best.costs is not None and best.peak_memory is not None
    best.schedule.check()
    return SearchResult(
        schedule=best.schedule,
        trace=best.trace,
        cost_model=best.costs,
        objective=search.setup.objective,
        makespan=best.trace.makespan,
        span=best.trace.span,
        lower_bound=search.lower_bound(),
        peak_memory=best.peak_memory,
        table=tuple(candidate.row() for candidate in ranked),
        notes=tuple(search.notes),
        trials=search.budget.trials,
        seconds=search.budget.elapsed,
        draws=luck.draws if luck else 0,
        median=best.median,
        p90=best.p90,
    )


class Luck(NamedTuple):
    """How uncertain costs are treated."""

    draws: int
    jitter: float
    rank_by: str


# ---- arguments -----------------------------------------------------------------------


def check_seconds(seconds: Any) -> float:
    known = isinstance(seconds, Real) and not isinstance(seconds, bool)
    if not known or not seconds >= 0:
        raise ValueError(
            f"seconds must be 0 or more, got {seconds!r}; 0 tries the catalogue alone"
        )
    return float(seconds)


def _luck(draws: Any, jitter: Any, rank_by: str) -> Luck | None:
    if rank_by not in RANKINGS:
        raise ValueError(
            f"rank_by must be one of {', '.join(RANKINGS)}, got {rank_by!r}"
        )
    count = whole(draws, "draws", 0)
    known = isinstance(jitter, Real) and not isinstance(jitter, bool)
    if not known or not 0 <= jitter < inf:
        raise ValueError(f"jitter must be a number of 0 or more, got {jitter!r}")
    if not count and rank_by != "nominal":
        raise ValueError(f"rank_by={rank_by!r} needs draws, such as draws=64")
    return Luck(count, float(jitter), rank_by) if count else None


def check_iterations(iterations: Any) -> int | None:
    return None if iterations is None else whole(iterations, "iterations", 0)


def make_setup(
    cost_model: CostModel,
    *,
    num_ranks: int,
    num_microbatches: int,
    memory_limit: float | None = None,
    objective: str = "makespan",
    stages_per_rank: int | Iterable[int] | None = None,
    split_backward: bool = True,
    parameter_copies: int = 1,
    recompute: bool = False,
    activations: Sequence[float] | None = None,
    families: Iterable[str] | None = None,
    placements: Iterable[Sequence[int]] | None = None,
    exact: bool = True,
) -> Setup:
    """The arguments of ``search_schedules`` checked. Raises ValueError."""
    if not isinstance(cost_model, CostModel):
        raise ValueError(
            f"cost_model must be a CostModel, got {cost_model!r}; "
            "CostModel.uniform(F=1, I=1, W=1) makes one"
        )
    p = whole(num_ranks, "num_ranks", 1)
    m = whole(num_microbatches, "num_microbatches", 1)
    if objective not in OBJECTIVES:
        raise ValueError(
            f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}"
        )
    parts = _parts(cost_model, p, stages_per_rank)
    return Setup(
        costs=cost_model,
        num_ranks=p,
        num_microbatches=m,
        parts=parts,
        memory_limit=_limit(memory_limit),
        objective=objective,
        split=bool(split_backward),
        parameter_copies=whole(parameter_copies, "parameter_copies", 1),
        activations=_activations(activations, p, parts),
        families=tuple(SCHEDULES) if families is None else known_names(families),
        placements=_placements(placements, p, parts),
        exact=bool(exact),
        recompute=bool(recompute),
    )


def _limit(limit: Any) -> float | None:
    if limit is None:
        return None
    known = isinstance(limit, Real) and not isinstance(limit, bool)
    if not known or not isfinite(limit) or limit < 1:
        raise ValueError(
            f"memory_limit must be at least 1, got {limit!r}: it counts one "
            "microbatch's activations of one rank; None is no limit"
        )
    return float(limit)


def _parts(
    costs: CostModel, p: int, given: int | Iterable[int] | None
) -> tuple[int, ...]:
    """Stages per rank to try."""
    wanted: tuple[int, ...] | None = None
    if given is not None:
        values = given if isinstance(given, Iterable) else (given,)
        wanted = tuple(dict.fromkeys(whole(v, "stages_per_rank", 1) for v in values))
        if not wanted:
            raise ValueError("stages_per_rank is empty; give 1, or several numbers")
    if costs.num_stages is None:
        return wanted or (1,)
    if costs.num_stages % p:
        raise ValueError(
            f"the costs are for {costs.num_stages} stages, which is no multiple of "
            f"num_ranks={p}; give a row for each of {p} or {2 * p} stages, or one row"
        )
    parts = costs.num_stages // p
    if wanted not in (None, (parts,)):
        raise ValueError(
            f"stages_per_rank is {given!r}, but costs for {costs.num_stages} stages on "
            f"{p} ranks make it {parts}; leave it out, or give costs of one row"
        )
    return (parts,)


def _activations(
    given: Sequence[float] | None, p: int, parts: tuple[int, ...]
) -> tuple[float, ...] | None:
    if given is None:
        return None
    found = tuple(float(a) for a in given)
    if len(parts) > 1 or len(found) != p * parts[0]:
        raise ValueError(
            f"activations has {len(found)} entries; give one per stage, "
            f"{' or '.join(str(p * v) for v in parts)}, and one number of stages_per_rank"
        )
    if not all(isfinite(a) and a >= 0 for a in found):
        raise ValueError(f"activations must be finite and not negative, got {found}")
    return found


def _placements(
    given: Iterable[Sequence[int]] | None, p: int, parts: tuple[int, ...]
) -> tuple[tuple[int, ...], ...] | None:
    if given is None:
        return None
    found = tuple(tuple(whole(r, "a rank") for r in placement) for placement in given)
    sizes = {p * v for v in parts}
    for placement in found:
        if len(placement) not in sizes or set(placement) != set(range(p)):
            raise ValueError(
                f"the placement {placement} must name a rank, 0 to {p - 1}, for each of "
                f"{' or '.join(map(str, sorted(sizes)))} stages, and every rank"
            )
    if not found:
        raise ValueError("placements is empty; leave it out for the usual ones")
    return found
