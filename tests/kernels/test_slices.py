"""Attention over a sequence cut into slices is attention over the sequence."""

from __future__ import annotations

import numpy as np
import pytest

from cython_kernels import _kernels, reference

#: batch, context of a slice, slices, heads, key heads, head_dim
SHAPES = [
    (1, 1, 3, 1, 1, 4),
    (2, 7, 2, 2, 1, 8),
    (1, 33, 3, 4, 2, 20),
    (2, 64, 2, 2, 2, 16),
    (1, 75, 4, 3, 1, 12),
    (1, 130, 2, 2, 2, 24),
]


def whole(x: np.ndarray, batch: int) -> np.ndarray:
    """(slices, batch * context, row) in the order of a whole batch's rows."""
    slices, rows, row = x.shape
    parts = x.reshape(slices, batch, rows // batch, row)
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(-1, row)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_slices_of_attention_are_the_whole(
    shape: tuple[int, ...], parts: int, isa: str
) -> None:
    batch, context, slices, heads, kv_heads, head_dim = shape
    rng = np.random.default_rng(shape)
    rows, row = batch * context, (heads + 2 * kv_heads) * head_dim
    scale = head_dim**-0.5

    def normal(width: int) -> np.ndarray:
        return rng.standard_normal((slices, rows, width)).astype(np.float32)

    qkv, dout = normal(row), normal(heads * head_dim)
    out, dqkv = np.full_like(dout, np.nan), np.full_like(qkv, np.nan)
    lse = np.full((slices, batch, heads, context), np.nan, np.float32)
    for j in range(slices):
        seen = qkv[: j + 1].reshape(-1, row)
        _kernels.attention_forward(out[j], lse[j], seen, scale, parts=parts)
    for j in reversed(range(slices)):
        seen, gradient = qkv[: j + 1].reshape(-1, row), dqkv[: j + 1].reshape(-1, row)
        last = j == slices - 1
        _kernels.attention_backward(
            gradient, dout[j], out[j], lse[j], seen, scale, not last, parts=parts
        )

    wide = {
        name: whole(x, batch).astype(np.float64)
        for name, x in (("qkv", qkv), ("dout", dout))
    }
    exact = np.empty((slices * rows, heads * head_dim))
    sums = np.empty((batch, heads, slices * context))
    gradient = np.empty((slices * rows, row))
    reference.attention_forward(exact, sums, wide["qkv"], scale)
    reference.attention_backward(
        gradient, wide["dout"], exact, sums, wide["qkv"], scale
    )
    found = lse.transpose(1, 2, 0, 3).reshape(sums.shape)
    np.testing.assert_allclose(found, sums, rtol=0, atol=2e-5)
    np.testing.assert_allclose(whole(out, batch), exact, rtol=0, atol=2e-5)
    size = np.abs(gradient).max()
    np.testing.assert_allclose(
        whole(dqkv, batch), gradient, rtol=0, atol=2e-5 * (1 + size)
    )


def test_a_slice_leaves_the_queries_of_earlier_slices_alone() -> None:
    qkv = np.ones((2 * 4, 3 * 4), np.float32)
    out, lse = np.empty((4, 4), np.float32), np.empty((1, 1, 4), np.float32)
    _kernels.attention_forward(out, lse, qkv, 0.5)
    dqkv = np.full_like(qkv, 7.0)
    _kernels.attention_backward(dqkv, np.ones_like(out), out, lse, qkv, 0.5)
    assert (dqkv[:4, :4] == 7.0).all()
    assert (dqkv[4:, :4] != 7.0).all() and (dqkv[:, 4:] != 7.0).all()


def test_rows_that_are_no_whole_slices_are_refused() -> None:
    out, lse = np.zeros((4, 4), np.float32), np.zeros((1, 1, 4), np.float32)
    with pytest.raises(ValueError, match=r"qkv is \(6, 12\)"):
        _kernels.attention_forward(out, lse, np.zeros((6, 12), np.float32), 1.0)
