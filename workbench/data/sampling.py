"""Which sample a step takes: a hash of (seed, step, sample number) and of nothing else.

So it depends neither on the split, nor on the rank that asks, nor on what was asked
before. The engine's C code (``sample_start`` in ``tape.c``) states the same formula;
tests hold the two together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_SEED = 0x9E3779B97F4A7C15
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_OFFSET = 0x2545F4914F6CDD1D
MAX_WINDOWS = 1 << 32


def finalise(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of SplitMix64's finaliser (Steele, Lea and Flood 2014). x: uint64."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def sample_hash(seed: int, step: int, samples: np.ndarray) -> np.ndarray:
    """(n,) uint64 random bits for the sample numbers (n,) of a step.

    x = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9
      + sample * 0x94D049BB133111EB + 0x2545F4914F6CDD1D    (mod 2^64),
    then two rounds of ``finalise``.
    """
    base = (seed * _SEED + step * int(_MIX_1) + _OFFSET) & _MASK
    x = np.asarray(samples).astype(np.uint64) * _MIX_2 + np.uint64(base)
    return finalise(finalise(x))


def sample_offsets(
    seed: int, step: int, num_samples: int, num_windows: int
) -> np.ndarray:
    """(num_samples,) int64: where each sample of a step's global batch begins.

    ``num_windows``: positions a sample may begin at; each is 0..num_windows-1, taken as
    (high 32 bits of the hash * num_windows) >> 32. Raises ValueError for a negative
    seed, step or number of samples, and for num_windows outside 1..2^32-1.
    """
    for name, value in (("seed", seed), ("step", step), ("num_samples", num_samples)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if not 1 <= num_windows < MAX_WINDOWS:
        raise ValueError(
            f"there are {num_windows} positions at which a sample could begin; "
            "sampling needs at least 1 and fewer than 2^32: give a text of fewer "
            "tokens"
        )
    high = sample_hash(seed, step, np.arange(num_samples)) >> np.uint64(32)
    return ((high * np.uint64(num_windows)) >> np.uint64(32)).astype(np.int64)
