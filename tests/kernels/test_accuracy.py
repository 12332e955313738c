"""The elementary functions in units in the last place, and sums in canonical order."""

import math

import numpy as np
import pytest

from cython_kernels import _kernels, reference


def ulps(value: np.ndarray, exact: np.ndarray) -> float:
    """The largest error in units of the spacing of float32 at the exact value."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(value.astype(np.float64) - exact) / spacing))


def evaluate(name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    getattr(_kernels, name)(out, x)
    return out


def test_exp_is_within_one_ulp(isa: str) -> None:
    x = np.linspace(-87.33, 88.37, 1_000_003).astype(np.float32)
    x = np.concatenate([x, np.linspace(-0.4, 0.4, 300_001).astype(np.float32)])
    assert ulps(evaluate("exp", x), np.exp(x.astype(np.float64))) <= 1.0


def test_log_is_within_one_ulp(isa: str) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0x00800000, 0x7F800000, 1_000_000, dtype=np.int32)
    x = np.concatenate(
        [bits.view(np.float32), np.linspace(0.5, 2, 300_001).astype("f4")]
    )
    x = x[x != 1]
    assert ulps(evaluate("log", x), np.log(x.astype(np.float64))) <= 1.0
    assert evaluate("log", np.ones(1, np.float32))[0] == 0.0


def test_sigmoid_is_within_three_ulp(isa: str) -> None:
    x = np.linspace(-87.3, 100, 1_000_003).astype(np.float32)
    exact = np.empty(x.shape)
    reference.sigmoid(exact, x)
    assert ulps(evaluate("sigmoid", x), exact) <= 3.0


def test_exp_saturates_and_keeps_nan(isa: str) -> None:
    x = np.array([-np.inf, -1e30, -89.0, -87.8, 0.0, 88.5, 1e30, np.inf, np.nan], "f4")
    found = evaluate("exp", x)
    assert found[:5].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert found[5:8].tolist() == [math.inf] * 3 and math.isnan(found[8])


def test_gelu_is_the_tanh_form(isa: str) -> None:
    x = np.linspace(-4, 4, 10_001).astype(np.float32)
    wide = x.astype(np.float64)
    u = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    exact = 0.5 * wide * (1 + np.tanh(u))
    assert np.abs(evaluate("gelu_forward", x) - exact).max() < 1e-6


def test_activations_of_huge_arguments_saturate(isa: str) -> None:
    x = np.array([-1e4, -200.0, 200.0, 1e4], np.float32)
    assert evaluate("gelu_forward", x).tolist() == [0.0, 0.0, 200.0, 1e4]
    assert evaluate("sigmoid", x).tolist() == [0.0, 0.0, 1.0, 1.0]
    slope = np.empty_like(x)
    _kernels.gelu_backward(slope, np.ones_like(x), x)
    assert slope.tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["sum", "sum_squares"])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4096, 4097, 8192 + 23, 65537])
def test_sums_are_canonical_to_the_last_bit(name: str, n: int, isa: str) -> None:
    rng = np.random.default_rng(n)
    x = (rng.standard_normal(n) * np.exp(8 * rng.standard_normal(n))).astype(np.float32)
    assert getattr(_kernels, name)(x) == getattr(reference, name)(x)


def test_a_sum_is_near_the_exact_one(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal(100_003).astype(np.float32)
    exact = math.fsum(x.tolist())
    assert abs(_kernels.sum(x) - exact) <= 1e-15 * float(np.abs(x).sum())
    assert (
        abs(_kernels.sum_squares(x) - math.fsum((x.astype("f8") ** 2).tolist())) < 1e-9
    )


def test_cross_entropy_survives_huge_and_masked_logits(isa: str) -> None:
    logits = np.full((3, 19), -np.inf, np.float32)
    logits[:, 4] = [1e30, -1e30, 0.0]
    losses, dlogits = np.empty(3, np.float32), np.empty_like(logits)
    _kernels.cross_entropy(losses, dlogits, logits, np.full(3, 4, np.int32), 1.0)
    assert losses.tolist() == [0.0] * 3 and not dlogits.any()
