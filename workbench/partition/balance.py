"""The exact split: contiguous stages whose largest cost is the least possible.

Works on whole numbers, so that ties are ties on every machine. Knows costs and nothing
of layers; which costs they are is said in ``measures.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

#: costs[stage][layer]: what a layer costs if it lies in that stage.
Costs = Sequence[Sequence[float]]


def whole_numbers(costs: Costs) -> list[list[int]]:
    """The same costs times one factor, exactly: every float is a fraction."""
    exact = [[Fraction(cost) for cost in row] for row in costs]
    factor = max((cost.denominator for row in exact for cost in row), default=1)
    return [[int(cost * factor) for cost in row] for row in exact]


def split_evenly(costs: Costs) -> tuple[int, ...]:
    """Boundaries of ``len(costs)`` non-empty stages over the layers.

    The largest stage's cost is the least possible; of all splits that reach it, the one
    with the least sum of squared costs (the evenest); of those, the one whose
    boundaries come first (lighter early stages, which hold the most activations under
    1F1B). Dynamic programming over (stage, boundary): O(stages * layers^2). Costs must
    be finite and not negative, and there must be at least as many layers as stages.
    """
    sums = [[0, *accumulate(row)] for row in whole_numbers(costs)]
    bottleneck = _least_bottleneck(sums)
    return _evenest(sums, bottleneck)


def _least_bottleneck(sums: list[list[int]]) -> int:
    """least[j]: the least largest cost of the stages so far over the first j layers."""
    num_layers = len(sums[0]) - 1
    least: list[int | None] = [0] + [None] * num_layers
    for row in sums:
        after: list[int | None] = [None] * (num_layers + 1)
        for end in range(1, num_layers + 1):
            best: int | None = None
            # Backwards the stage only grows, so past the best there is nothing to find.
            for begin in range(end - 1, -1, -1):
                size = row[end] - row[begin]
                if best is not None and size >= best:
                    break
                before = least[begin]
                if before is not None:
                    worst = max(before, size)
                    best = worst if best is None else min(best, worst)
            after[end] = best
        least = after
    found = least[num_layers]
    assert found is not None  # as many layers as stages: there is a split
    return found


def _evenest(sums: list[list[int]], bottleneck: int) -> tuple[int, ...]:
    """Least sum of squares with no stage above the bottleneck; then first boundaries.

    Goes from the last stage to the first, so that on a tie the smaller boundary can be
    taken from the front: rest[i] is the best over the stages from here on and the
    layers from i.
    """
    num_layers = len(sums[0]) - 1
    rest: list[int | None] = [None] * num_layers + [0]
    choices: list[list[int]] = []
    for row in reversed(sums):
        now: list[int | None] = [None] * (num_layers + 1)
        choice = [0] * (num_layers + 1)
        for begin in range(num_layers):
            for end in range(begin + 1, num_layers + 1):
                size = row[end] - row[begin]
                if size > bottleneck:
                    break
                after = rest[end]
                if after is None:
                    continue
                total, known = size * size + after, now[begin]
                if known is None or total < known:
                    now[begin], choice[begin] = total, end
        rest = now
        choices.append(choice)
    boundaries = [0]
    for choice in reversed(choices):
        boundaries.append(choice[boundaries[-1]])
    return tuple(boundaries)
