"""Which sample a step takes: keyed by (seed, step, sample number) and by nothing
else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import Data, sample_hash, sample_offsets

MASK = 2**64 - 1
SEEDS = st.integers(0, 2**63 - 1)


def plain_hash(seed: int, step: int, sample: int) -> int:
    """The formula again, on Python's integers."""
    x = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9
    x = (x + sample * 0x94D049BB133111EB + 0x2545F4914F6CDD1D) & MASK
    for _ in range(2):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        x ^= x >> 31
    return x


@given(SEEDS, st.integers(0, 2**40), st.integers(0, 2**31))
def test_the_vectorised_hash_is_the_formula(seed: int, step: int, sample: int) -> None:
    assert int(sample_hash(seed, step, np.array([sample]))[0]) == plain_hash(
        seed, step, sample
    )


@given(SEEDS, st.integers(0, 2**31), st.integers(0, 40), st.integers(1, 2**32 - 1))
def test_offsets_are_windows_and_take_the_high_bits(
    seed: int, step: int, num_samples: int, windows: int
) -> None:
    offsets = sample_offsets(seed, step, num_samples, windows)
    expected = [
        ((plain_hash(seed, step, i) >> 32) * windows) >> 32 for i in range(num_samples)
    ]
    assert offsets.tolist() == expected
    assert all(0 <= offset < windows for offset in expected)


@given(SEEDS, st.integers(0, 1000), st.integers(1, 30), st.integers(0, 30))
def test_a_sample_does_not_depend_on_how_many_others_there_are(
    seed: int, step: int, few: int, more: int
) -> None:
    short = sample_offsets(seed, step, few, 10_007)
    long = sample_offsets(seed, step, few + more, 10_007)
    assert (long[:few] == short).all()


def test_offsets_are_spread_evenly_over_the_text() -> None:
    offsets = np.concatenate(
        [sample_offsets(3, step, 64, 1000) for step in range(1000)]
    )
    counts = np.histogram(offsets, bins=20, range=(0, 1000))[0]
    expected = len(offsets) / 20
    # Chi square with 19 degrees of freedom: above 50 once in ten thousand fair hashes.
    assert ((counts - expected) ** 2 / expected).sum() < 50


def test_neighbouring_steps_and_samples_are_uncorrelated() -> None:
    grid = np.stack([sample_offsets(0, step, 256, 2**31) for step in range(256)])
    values = grid / 2**31 - 0.5
    for shifted, base in ((values[1:], values[:-1]), (values[:, 1:], values[:, :-1])):
        correlation = (shifted * base).mean() / values.var()
        assert abs(correlation) < 4 / 256  # four standard deviations


def test_the_last_window_still_has_its_target() -> None:
    data = Data.tokens(np.arange(10) % 7, 7, holdout=0.5)
    seen = np.concatenate([data.offsets(0, step, 50, context=3) for step in range(20)])
    assert seen.min() == 0 and seen.max() == len(data.train) - 3 - 1
    inputs, targets = data.batch(0, 0, 50, context=3)
    assert (inputs[:, 1:] == targets[:, :-1]).all()


def test_rows_are_sampled_by_row() -> None:
    rows = np.arange(40.0).reshape(20, 2)
    data = Data.arrays(rows, -rows, holdout=0.25)
    inputs, targets = data.batch(1, 2, 8)
    begin = data.offsets(1, 2, 8)
    assert (inputs == data.train[begin]).all() and (targets == -inputs).all()
    assert begin.max() < len(data.train) == 15


@pytest.mark.parametrize("windows", [0, -5, 2**32])
def test_windows_that_the_hash_cannot_reach_are_refused(windows: int) -> None:
    with pytest.raises(ValueError, match=str(windows)):
        sample_offsets(0, 0, 1, windows)


@pytest.mark.parametrize("place", range(3))
def test_negative_arguments_are_refused(place: int) -> None:
    arguments = [1, 1, 1]
    arguments[place] = -3
    with pytest.raises(ValueError, match="-3"):
        sample_offsets(*arguments, 10)


def test_a_context_longer_than_the_text_is_told_with_both_numbers() -> None:
    data = Data.synthetic(8, 100, seed=0)
    with pytest.raises(ValueError, match=r"context 90 .* 90 tokens"):
        data.offsets(0, 0, 1, context=90)
    assert data.offsets(0, 0, 5, context=89).max() == 0
    with pytest.raises(ValueError, match="context"):
        data.offsets(0, 0, 1, context=0)
