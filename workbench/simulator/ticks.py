"""Ticks: times as whole numbers, so that sums and comparisons are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Whole numbers up to here are exact in a double, too: int64 and SIMD lanes of doubles
#: give one result.
_MOST = 2.0**53


def tick_for(total: float) -> float:
    """A billionth of a unit, or coarser where the sum of all costs, ``total``, would be
    too many ticks. Raises ValueError for a total that is no number."""
    if not total < np.inf:
        raise ValueError("the costs add up to more than a float can hold")
    tick = 1e-9
    while total / tick > _MOST:
        tick *= 10
    return tick


def in_ticks(values: npt.NDArray[np.float64], tick: float) -> npt.NDArray[np.int64]:
    """Times rounded to whole ticks."""
    return np.asarray(np.rint(values / tick).astype(np.int64))
