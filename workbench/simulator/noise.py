"""Seeded noise that belongs to an action, not to a place in an array.

A factor is a pure function of (seed, draw, stage, kind, microbatch, slice), so two
schedules of the same stages meet the same luck, and a longer step is luckier in none of
its first microbatches. The hash is the finaliser of splitmix64 (Steele, Lea, Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _uniform(words: Words) -> Floats:
    """In (0, 1): the middle of one of 2**53 cells, so that a logarithm exists."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, draw: int, *fields: Ints) -> Floats:
    """Standard normal numbers, one per row of the integer arrays ``fields``."""
    with np.errstate(over="ignore"):  # wrapping round is what a hash is made of
        words = np.zeros(fields[0].shape, np.uint64)
        for field in (seed, draw, *fields):
            # Mixed one by one: a sum would make seed 3, draw 1 of seed 4, draw 0.
            words = _mixed(words + _STEP + np.asarray(field).astype(np.uint64))
        first, second = _mixed(words + _STEP), _mixed(words + _STEP + _STEP)
    radius = np.sqrt(-2.0 * np.log(_uniform(first)))
    return np.asarray(radius * np.cos(2.0 * np.pi * _uniform(second)))


def lognormal(spread: Floats, normals: Floats) -> Floats:
    """Factors of mean 1 whose standard deviation is ``spread``, from normal numbers."""
    variance = np.log1p(spread**2)
    return np.asarray(np.exp(np.sqrt(variance) * normals - variance / 2))
