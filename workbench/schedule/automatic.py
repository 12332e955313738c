"""The automatic zero-bubble scheduler (Qi et al. 2023, arXiv:2401.10241, section 3.1):
one stage per rank, backward split, the order found for given costs and memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from numbers import Real

from . import greedy
from .actions import Action, Kind, Row
from .greedy import Costs, Problem, Rule, Uniform
from .ir import Schedule
from .placement import waves
from .zero_bubble import delayed_weights

FILLS = (1.0, 0.5, 0.0)
#: How much longer than its work a rank may take, for ``_due``.
LATE = (0.0, 0.02)
#: Hand-made rows whose weight gradients are placed anew.
BEST = 2


def memory_slots(memory_limit: float | None, default: int) -> int:
    """Whole activations that fit. Raises ValueError for less than one."""
    if memory_limit is None:
        return default
    is_number = isinstance(memory_limit, Real) and not isinstance(memory_limit, bool)
    if not is_number or not isfinite(memory_limit) or memory_limit < 1:
        raise ValueError(
            f"memory_limit is {memory_limit!r}; it is counted in activations of one "
            "microbatch on one rank, and a rank needs at least 1"
        )
    return int(memory_limit + 1e-9)


def known_costs(cost_model: Costs | None, num_stages: int) -> Costs:
    """The costs to work with: by default all alike. Raises ValueError for what is no
    cost model, or one of another number of stages."""
    if cost_model is None:
        return Uniform()
    if not hasattr(cost_model, "seconds") or not hasattr(cost_model, "hop"):
        raise ValueError(
            f"cost_model must be a CostModel, got {cost_model!r}; "
            "CostModel.uniform(F=1, I=1, W=1) makes one"
        )
    given = getattr(cost_model, "num_stages", None)
    if given not in (None, num_stages):
        raise ValueError(
            f"cost_model has costs of {given} stages, but the schedule has {num_stages}; "
            "give a row for each, or one for all"
        )
    return cost_model


def _share(value: float) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:
        raise ValueError(
            f"weight_memory is {value!r}; it is the share of an activation that W needs, "
            "0 to 1"
        )
    return float(value)


def _depths(p: int, slots: int, costs: Costs) -> Iterator[tuple[int, ...]]:
    """Warm-up counts per rank, falling towards the last: from 1F1B's to as deep as
    memory allows, in steps of a quarter of a forward per rank; and those that just hide
    the first microbatch's round trip."""
    for quarter in range(4, 9):
        yield tuple(min(slots - 1, quarter * (p - 1 - r) // 4) for r in range(p))
    price = [
        [costs.seconds(Action(r, kind, 0)) for kind in (Kind.F, Kind.I)]
        for r in range(p)
    ]
    for extra in (0, 1):
        counts: list[int] = []
        for r in reversed(range(p)):
            way = sum(f + i for f, i in price[r + 1 :]) + 2 * costs.hop * (p - 1 - r)
            fits = int(way / price[r][0] + 1e-9) if price[r][0] > 0 else slots
            # Fewer than the next rank's and both would wait: it for a forward, this
            # one for a gradient.
            least = counts[-1] if counts else 0
            counts.append(max(least, min(slots - 1, fits + extra)))
        yield tuple(counts[::-1])


def _due(p: int, m: int, costs: Costs, late: float) -> list[list[float]]:
    """(ranks, microbatches): when I must begin for every rank to end no later than
    ``late`` of its work after it could, if each weight gradient follows its I."""
    due: list[list[float]] = []
    begin = 0.0
    for r in range(p):
        f, i, w = (costs.seconds(Action(r, k, 0)) for k in (Kind.F, Kind.I, Kind.W))
        end = begin + (1 + late) * m * (f + i + w)
        own = [end - (m - k) * (i + w) for k in range(m)]
        if due:
            own = [min(x, y - i - costs.hop) for x, y in zip(own, due[-1], strict=True)]
        due.append(own)
        begin += f + costs.hop
    return due


def zb_auto(
    num_ranks: int,
    num_microbatches: int,
    cost_model: Costs | None = None,
    memory_limit: float | None = None,
    weight_memory: float = 1.0,
) -> Schedule:
    """The order with the shortest span that was found for ``cost_model`` (by default F
    = I = W) with at most ``memory_limit`` activations in flight per rank (by default p:
    ZB-1p; 2p gives ZB-2p).

    weight_memory: the share of an activation that stays from the end of I to the end of
    W. With 1 the limit is that of ``Schedule.in_flight`` and ``check``. The paper's
    ZB-2p needs less than 1: its transformers keep 32h of 34h + 5as bytes per token
    (width h, a heads, s tokens), 0.37 to 0.52, and where all of it is kept no order
    with 2p activations comes near a bubble of zero.

    The paper's heuristics are followed in kind, not letter by letter: warm-ups of
    several depths, weight gradients in gaps, when memory is short, or where the next
    input gradient can wait; each is timed and the best kept. Bound for one stage per
    rank and a limit of p: (p - 1)(F + I - W) + 4 (p - 1) hop.

    Raises ValueError for a limit below 1, and a share that is none.
    """
    p, m = num_ranks, num_microbatches
    slots, kept = memory_slots(memory_limit, p), _share(weight_memory)
    costs = known_costs(cost_model, p)
    placed = waves(p, 1)
    problem = Problem(placed, p, ((range(p), range(m)),), [slots] * p, costs, kept=kept)

    def delay(places: int) -> int:
        """Weight gradients that may wait in so many places."""
        return int(places / kept + 1e-9) if places < m * kept else m

    def hand(counts: tuple[int, ...]) -> tuple[Row, ...]:
        return tuple(
            delayed_weights([r] * m, [r] * m, counts[r], delay(slots - 1 - counts[r]))
            for r in range(p)
        )

    def schedule(rows: tuple[Row, ...]) -> Schedule:
        return Schedule("zb_auto", rows, placed)

    made = [
        schedule(hand(counts)) for counts in dict.fromkeys(_depths(p, slots, costs))
    ]
    made.sort(key=lambda one: greedy.measure(one, costs))
    rules = [Rule(fill=fill, alternate=x) for fill in FILLS for x in (False, True)]
    for one in made[:BEST]:
        order = greedy.without_weights(one.ranks)
        rules += [Rule(order=order, due=_due(p, m, costs, late)) for late in LATE]
    found = (greedy.rows(problem, rule) for rule in rules)
    made[1:] = [schedule(rows) for rows in found if rows is not None]
    return greedy.best(made, costs)
