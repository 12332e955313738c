"""Every backward against finite differences of its forward, along random directions.

L = sum(weights * forward(inputs)) is differentiated numerically on the float64 twin of the
forward (which the kernel agrees with); the C backward must give the same directional
derivative. Central differences with h = 1e-5 err by about 1e-9, so fp32's own error rules.
"""

from collections.abc import Callable

import numpy as np
import pytest

from cython_kernels import _kernels, reference

RNG = np.random.default_rng(20)
ROWS, WIDTH = 9, 37
Vector = np.ndarray


def f32(*shape: int) -> Vector:
    return RNG.standard_normal(shape).astype(np.float32)


def slope(forward: Callable[[Vector], Vector], x: Vector, weights: Vector) -> tuple:
    """(direction, dL/d direction) of L = sum(weights * forward(x)) at x."""
    direction = RNG.standard_normal(x.shape)
    h = 1e-5
    above = forward(x.astype(np.float64) + h * direction)
    below = forward(x.astype(np.float64) - h * direction)
    return direction, float((weights * (above - below)).sum() / (2 * h))


def agree(gradient: Vector, direction: Vector, wanted: float) -> None:
    terms = gradient.astype(np.float64) * direction
    assert abs(terms.sum() - wanted) <= 2e-5 * (np.abs(terms).sum() + abs(wanted))


def out64(*shape: int) -> Vector:
    return np.zeros(shape)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_activation(name: str, isa: str) -> None:
    x, dout = 2 * f32(ROWS, WIDTH), f32(ROWS, WIDTH)
    x[np.abs(x) < 1e-3] = 1.0  # away from relu's corner

    def forward(x: Vector) -> Vector:
        out = np.empty_like(x)
        getattr(reference, f"{name}_forward")(out, x)
        return out

    dx = np.empty_like(x)
    getattr(_kernels, f"{name}_backward")(dx, dout, x)
    agree(dx, *slope(forward, x, dout))


def test_swiglu(isa: str) -> None:
    gate_up, dout = f32(ROWS, 2 * WIDTH), f32(ROWS, WIDTH)

    def forward(x: Vector) -> Vector:
        out = out64(ROWS, WIDTH)
        reference.swiglu_forward(out, x)
        return out

    dgate_up = np.empty_like(gate_up)
    _kernels.swiglu_backward(dgate_up, dout, gate_up)
    agree(dgate_up, *slope(forward, gate_up, dout))


def test_layernorm(isa: str) -> None:
    x, dout, gamma, beta = f32(ROWS, WIDTH), f32(ROWS, WIDTH), f32(WIDTH), f32(WIDTH)

    def forward(x: Vector, gamma: Vector, beta: Vector) -> Vector:
        out = out64(ROWS, WIDTH)
        reference.layernorm_forward(out, out64(ROWS), out64(ROWS), x, gamma, beta)
        return out

    out, mean, rstd = f32(ROWS, WIDTH), f32(ROWS), f32(ROWS)
    _kernels.layernorm_forward(out, mean, rstd, x, gamma, beta)
    dx, dgamma, dbeta = np.empty_like(x), np.zeros_like(gamma), np.zeros_like(beta)
    _kernels.layernorm_backward_input(dx, dout, x, mean, rstd, gamma)
    _kernels.layernorm_backward_weight(dgamma, dbeta, dout, x, mean, rstd)
    agree(dx, *slope(lambda v: forward(v, gamma, beta), x, dout))
    agree(dgamma, *slope(lambda v: forward(x, v, beta), gamma, dout))
    agree(dbeta, *slope(lambda v: forward(x, gamma, v), beta, dout))


def test_rmsnorm(isa: str) -> None:
    x, dout, gamma = f32(ROWS, WIDTH), f32(ROWS, WIDTH), f32(WIDTH)

    def forward(x: Vector, gamma: Vector) -> Vector:
        out = out64(ROWS, WIDTH)
        reference.rmsnorm_forward(out, out64(ROWS), x, gamma)
        return out

    out, rstd = f32(ROWS, WIDTH), f32(ROWS)
    _kernels.rmsnorm_forward(out, rstd, x, gamma)
    dx, dgamma = np.empty_like(x), np.zeros_like(gamma)
    _kernels.rmsnorm_backward_input(dx, dout, x, rstd, gamma)
    _kernels.rmsnorm_backward_weight(dgamma, dout, x, rstd)
    agree(dx, *slope(lambda v: forward(v, gamma), x, dout))
    agree(dgamma, *slope(lambda v: forward(x, v), gamma, dout))


def test_linear_with_bias(isa: str) -> None:
    """x: (rows, inner) and w: (inner, width), its three products and the bias gradient."""
    inner = 23
    x, w, bias, dout = f32(ROWS, inner), f32(inner, WIDTH), f32(WIDTH), f32(ROWS, WIDTH)

    def forward(x: Vector, w: Vector, bias: Vector) -> Vector:
        out = out64(ROWS, WIDTH)
        reference.gemm(out, x, w, bias)
        return out

    dx, dw, db = np.empty_like(x), np.zeros_like(w), np.zeros_like(bias)
    _kernels.gemm(dx, dout, w.T)
    _kernels.gemm(dw, x.T, dout, accumulate=True)
    _kernels.bias_backward(db, dout)
    agree(dx, *slope(lambda v: forward(v, w, bias), x, dout))
    agree(dw, *slope(lambda v: forward(x, v, bias), w, dout))
    agree(db, *slope(lambda v: forward(x, w, v), bias, dout))


def test_embedding(isa: str) -> None:
    tokens = RNG.integers(0, 5, (2, 7), dtype=np.int32)
    table, positions, dout = f32(5, WIDTH), f32(7, WIDTH), f32(14, WIDTH)

    def forward(table: Vector, positions: Vector) -> Vector:
        out = out64(14, WIDTH)
        reference.embedding_forward(out, tokens, table, positions)
        return out

    dtable, dpositions = np.zeros_like(table), np.zeros_like(positions)
    _kernels.embedding_backward_weight(dtable, dpositions, dout, tokens)
    agree(dtable, *slope(lambda v: forward(v, positions), table, dout))
    agree(dpositions, *slope(lambda v: forward(table, v), positions, dout))


def test_rope(isa: str) -> None:
    angle = RNG.uniform(0, 7, (5, 8))
    table = np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)
    x, dout = f32(2, 5, 40), f32(2, 5, 40)

    def forward(x: Vector) -> Vector:
        out = x.copy()
        reference.rope(out, table, 2, 1.0)
        return out

    dx = dout.copy()
    _kernels.rope(dx, table, 2, -1.0)
    agree(dx, *slope(forward, x, dout))


@pytest.mark.parametrize(("context", "heads", "kv_heads"), [(5, 2, 2), (70, 4, 2)])
def test_attention(context: int, heads: int, kv_heads: int, isa: str) -> None:
    head_dim, scale = 12, float(np.float32(12**-0.5))
    qkv, dout = (
        f32(context, (heads + 2 * kv_heads) * head_dim),
        f32(context, heads * head_dim),
    )

    def forward(qkv: Vector) -> Vector:
        out = out64(context, heads * head_dim)
        reference.attention_forward(out, out64(1, heads, context), qkv, scale)
        return out

    out, lse, dqkv = np.empty_like(dout), f32(1, heads, context), np.empty_like(qkv)
    _kernels.attention_forward(out, lse, qkv, scale)
    _kernels.attention_backward(dqkv, dout, out, lse, qkv, scale)
    agree(dqkv, *slope(forward, qkv, dout))


def test_losses(isa: str) -> None:
    scale = 0.25
    logits, target = 3 * f32(ROWS, WIDTH), f32(ROWS, WIDTH)
    targets = RNG.integers(-1, WIDTH, ROWS, dtype=np.int32)

    def cross_entropy(x: Vector) -> Vector:
        losses = out64(ROWS)
        reference.cross_entropy(losses, None, x, targets, 1.0)
        return losses

    def mse(x: Vector) -> Vector:
        losses = out64(ROWS)
        reference.mse(losses, out64(ROWS, WIDTH), x, target, 1.0)
        return losses

    losses, dx = f32(ROWS), np.empty_like(logits)
    _kernels.cross_entropy(losses, dx, logits, targets, scale)
    agree(dx, *slope(cross_entropy, logits, np.full(ROWS, scale)))
    _kernels.mse(losses, dx, logits, target, scale)
    agree(dx, *slope(mse, logits, np.full(ROWS, scale)))
