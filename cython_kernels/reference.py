"""A NumPy twin of every kernel: the same arguments, float64 arithmetic, clear formulas.

The twins are the oracle of the kernels' tests and the definition of what a kernel computes;
they write into the outputs they are given, of any float dtype, and check nothing. ``sum`` and
``sum_squares`` also state the canonical order of summation, so they agree with C bit for bit.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Tokens = NDArray[np.int32]

SUM_BLOCK = 4096
SUM_LANES = 16


def _f64(x: Array) -> NDArray[np.float64]:
    return np.asarray(x, dtype=np.float64)


def _rows(x: Array) -> NDArray[np.float64]:
    """x as (rows, width) in float64: leading dimensions together count rows."""
    return _f64(x).reshape(-1, x.shape[-1])


def _put(out: Array, value: Array) -> None:
    out[...] = value.reshape(out.shape)


# ---- matrix products -------------------------------------------------------------------


def gemm_workspace(m: int, n: int, k: int) -> int:
    """Bytes of workspace: NumPy needs none."""
    return 0


def gemm(
    c: Array,
    a: Array,
    b: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    accumulate: bool = False,
) -> None:
    """c = [c +] a b [+ bias] [+ residual]; a (m, k), b (k, n), bias (n)."""
    total = _f64(a) @ _f64(b)
    if accumulate:
        total = total + c
    if bias is not None:
        total = total + bias
    if residual is not None:
        total = total + residual
    _put(c, total)


def bias_backward(db: Array, dout: Array) -> None:
    """db += sum of dout's rows."""
    _put(db, db + _rows(dout).sum(axis=0))


# ---- norms -----------------------------------------------------------------------------


def layernorm_forward(
    out: Array,
    mean: Array,
    rstd: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float = 1e-5,
) -> None:
    """Ba, Kiros & Hinton 2016: y = (x - mean) rstd, out = y gamma + beta."""
    rows = _rows(x)
    mu = rows.mean(axis=1, keepdims=True)
    r = 1.0 / np.sqrt(rows.var(axis=1, keepdims=True) + eps)
    _put(out, (rows - mu) * r * gamma + beta)
    _put(mean, mu)
    _put(rstd, r)


def _norm_backward_input(
    dout: Array,
    y: Array,
    rstd: Array,
    gamma: Array,
    residual: Array | None,
    center: bool,
) -> NDArray[np.float64]:
    g = _rows(dout) * _f64(gamma)
    dx: NDArray[np.float64] = g - y * (g * y).mean(axis=1, keepdims=True)
    if center:
        dx = dx - g.mean(axis=1, keepdims=True)
    dx = dx * _f64(rstd)[:, None]
    return dx if residual is None else dx + _rows(residual)


def layernorm_backward_input(
    dx: Array,
    dout: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array,
    residual: Array | None = None,
) -> None:
    """dx = rstd (g - mean(g) - y mean(g y)) [+ residual] with g = dout gamma."""
    y = (_rows(x) - _f64(mean)[:, None]) * _f64(rstd)[:, None]
    _put(dx, _norm_backward_input(dout, y, rstd, gamma, residual, center=True))


def layernorm_backward_weight(
    dgamma: Array, dbeta: Array, dout: Array, x: Array, mean: Array, rstd: Array
) -> None:
    """dgamma += sum over rows of dout y; dbeta += sum of dout."""
    y = (_rows(x) - _f64(mean)[:, None]) * _f64(rstd)[:, None]
    _put(dgamma, dgamma + (_rows(dout) * y).sum(axis=0))
    _put(dbeta, dbeta + _rows(dout).sum(axis=0))


def rmsnorm_forward(
    out: Array, rstd: Array, x: Array, gamma: Array, eps: float = 1e-5
) -> None:
    """Zhang & Sennrich 2019: y = x rstd, out = y gamma."""
    rows = _rows(x)
    r = 1.0 / np.sqrt((rows**2).mean(axis=1, keepdims=True) + eps)
    _put(out, rows * r * gamma)
    _put(rstd, r)


def rmsnorm_backward_input(
    dx: Array,
    dout: Array,
    x: Array,
    rstd: Array,
    gamma: Array,
    residual: Array | None = None,
) -> None:
    """dx = rstd (g - y mean(g y)) [+ residual] with g = dout gamma."""
    y = _rows(x) * _f64(rstd)[:, None]
    _put(dx, _norm_backward_input(dout, y, rstd, gamma, residual, center=False))


def rmsnorm_backward_weight(dgamma: Array, dout: Array, x: Array, rstd: Array) -> None:
    """dgamma += sum over rows of dout y."""
    y = _rows(x) * _f64(rstd)[:, None]
    _put(dgamma, dgamma + (_rows(dout) * y).sum(axis=0))


# ---- activations -----------------------------------------------------------------------


def relu_forward(out: Array, x: Array) -> None:
    """out = max(x, 0)."""
    _put(out, np.maximum(_f64(x), 0.0))


def relu_backward(dx: Array, dout: Array, x: Array) -> None:
    """dx = dout where x > 0."""
    _put(dx, np.where(_f64(x) > 0, _f64(dout), 0.0))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def gelu_forward(out: Array, x: Array) -> None:
    """Hendrycks & Gimpel 2016, tanh form: x (1 + tanh u) / 2 = x sigmoid(2u)."""
    x = _f64(x)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    _put(out, x * _sigmoid(2 * u))


def gelu_backward(dx: Array, dout: Array, x: Array) -> None:
    """dx = dout gelu'(x)."""
    x = _f64(x)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    du = np.sqrt(2 / np.pi) * (1.0 + 3 * 0.044715 * x**2)
    s = _sigmoid(2 * u)
    _put(dx, _f64(dout) * (s + x * s * _sigmoid(-2 * u) * 2 * du))


def swiglu_forward(out: Array, gate_up: Array) -> None:
    """Shazeer 2020: out = gate sigmoid(gate) up, gate_up = [gate | up]."""
    gate, up = np.split(_rows(gate_up), 2, axis=1)
    _put(out, gate * _sigmoid(gate) * up)


def swiglu_backward(dgate_up: Array, dout: Array, gate_up: Array) -> None:
    """Gradients of both halves."""
    gate, up = np.split(_rows(gate_up), 2, axis=1)
    d, s = _rows(dout), _sigmoid(gate)
    dgate = d * up * (s + gate * s * _sigmoid(-gate))
    _put(dgate_up, np.concatenate([dgate, d * gate * s], axis=1))


def add(out: Array, a: Array, b: Array) -> None:
    """out = a + b."""
    _put(out, _f64(a) + _f64(b))


def exp(out: Array, x: Array) -> None:
    """out = exp(x)."""
    with np.errstate(over="ignore", under="ignore"):
        _put(out, np.exp(_f64(x)))


def log(out: Array, x: Array) -> None:
    """out = log(x)."""
    _put(out, np.log(_f64(x)))


def sigmoid(out: Array, x: Array) -> None:
    """out = 1 / (1 + exp(-x))."""
    _put(out, _sigmoid(_f64(x)))


# ---- embedding and rotary positions ----------------------------------------------------


def embedding_forward(
    out: Array, tokens: Tokens, token_table: Array, position_table: Array | None = None
) -> None:
    """out[b, t] = token_table[tokens[b, t]] [+ position_table[t]]."""
    rows = _f64(token_table)[tokens]
    if position_table is not None:
        rows = rows + _f64(position_table)
    _put(out, rows)


def embedding_backward_weight(
    dtoken_table: Array, dposition_table: Array | None, dout: Array, tokens: Tokens
) -> None:
    """dtoken_table[tokens] += dout; dposition_table[t] += sum over the batch."""
    d = _f64(dout).reshape(*tokens.shape, -1)
    total = _f64(dtoken_table).copy()
    np.add.at(total, tokens, d)
    _put(dtoken_table, total)
    if dposition_table is not None:
        _put(dposition_table, dposition_table + d.sum(axis=0))


def rope(x: Array, table: Array, heads: int, sign: float) -> None:
    """Su et al. 2021, halves convention: rotates (x_i, x_{i + head_dim/2}) in place."""
    batch, context, _ = x.shape
    half = table.shape[1]
    turned = x[:, :, : heads * 2 * half]
    v = _f64(turned).reshape(batch, context, heads, 2, half)
    low, high = v[:, :, :, 0], v[:, :, :, 1]
    cos = _f64(table)[None, :, None, :, 0]
    sin = sign * _f64(table)[None, :, None, :, 1]
    both = np.stack([low * cos - high * sin, high * cos + low * sin], axis=3)
    _put(turned, both)


# ---- causal attention ------------------------------------------------------------------


def attention_workspace(context: int, past: int, head_dim: int) -> int:
    """Bytes of workspace: NumPy needs none."""
    return 0


def _heads(
    qkv: Array, out: Array, lse: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """q (batch, heads, context, head_dim) of the last slice, and k, v of all slices,
    repeated to as many heads."""
    batch, heads, context = lse.shape
    head_dim = out.shape[-1] // heads
    sliced = _f64(qkv).reshape(-1, batch, context, qkv.shape[-1] // head_dim, head_dim)
    packed = sliced.transpose(1, 3, 0, 2, 4).reshape(
        batch, sliced.shape[3], -1, head_dim
    )
    kv_heads = (packed.shape[1] - heads) // 2
    q, k, v = np.split(packed, [heads, heads + kv_heads], axis=1)
    group = heads // kv_heads
    q = q[:, :, q.shape[2] - context :]
    return q, np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)


def _masked_scores(
    q: NDArray[np.float64], k: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    scores = scale * q @ k.swapaxes(-1, -2)
    past = k.shape[2] - q.shape[2]
    later = np.triu(np.ones(scores.shape[-2:], dtype=bool), 1 + past)
    return np.where(later, -np.inf, scores)


def attention_forward(out: Array, lse: Array, qkv: Array, scale: float) -> None:
    """softmax(scale q k^T, causal) v; lse (batch, heads, context) of the scores."""
    q, k, v = _heads(qkv, out, lse)
    scores = _masked_scores(q, k, scale)
    top = scores.max(axis=-1, keepdims=True)
    p = np.exp(scores - top)
    total = p.sum(axis=-1, keepdims=True)
    _put(lse, top + np.log(total))
    _put(out, ((p / total) @ v).transpose(0, 2, 1, 3))


def attention_backward(
    dqkv: Array,
    dout: Array,
    out: Array,
    lse: Array,
    qkv: Array,
    scale: float,
    accumulate: bool = False,
) -> None:
    """dq, dk and dv, packed as in qkv; heads that share a key head add up."""
    q, k, v = _heads(qkv, out, lse)
    batch, heads, context, head_dim = q.shape
    kv_heads = (qkv.shape[-1] // head_dim - heads) // 2
    p = np.exp(_masked_scores(q, k, scale) - _f64(lse)[..., None])
    d = _f64(dout).reshape(batch, context, heads, head_dim).transpose(0, 2, 1, 3)
    o = _f64(out).reshape(batch, context, heads, head_dim).transpose(0, 2, 1, 3)
    ds = p * (d @ v.swapaxes(-1, -2) - (d * o).sum(axis=-1, keepdims=True)) * scale

    def shared(x: NDArray[np.float64]) -> NDArray[np.float64]:
        grouped = x.reshape(batch, kv_heads, -1, k.shape[2], head_dim)
        return _f64(grouped.sum(axis=2))

    dk, dv = shared(ds.swapaxes(-1, -2) @ q), shared(p.swapaxes(-1, -2) @ d)
    given = dqkv.reshape(-1, batch, context, heads + 2 * kv_heads, head_dim)
    keys = np.concatenate([dk, dv], axis=1)
    keys = keys.reshape(batch, 2 * kv_heads, -1, context, head_dim)
    before = given[..., heads:, :] if accumulate else 0.0
    given[..., heads:, :] = before + keys.transpose(2, 0, 3, 1, 4)
    given[-1, ..., :heads, :] = (ds @ k).transpose(0, 2, 1, 3)


# ---- losses ----------------------------------------------------------------------------


def cross_entropy(
    losses: Array, dlogits: Array | None, logits: Array, targets: Tokens, scale: float
) -> None:
    """losses = log sum exp(x) - x[target]; dlogits = scale (softmax - onehot)."""
    x = _rows(logits)
    counted = targets >= 0
    row, column = np.arange(len(x))[counted], targets[counted]
    x = x - x.max(axis=1, keepdims=True)
    total = np.exp(x).sum(axis=1, keepdims=True)
    each = np.zeros(len(x))
    each[row] = np.log(total[row, 0]) - x[row, column]
    gradient = np.exp(x) / total
    gradient[row, column] -= 1.0
    _put(losses, each)
    if dlogits is not None:
        _put(dlogits, np.where(counted[:, None], scale * gradient, 0.0))


def mse(losses: Array, dx: Array, x: Array, target: Array, scale: float) -> None:
    """losses = mean over a row of (x - target)^2; dx = scale 2 / width (x - target)."""
    difference = _rows(x) - _rows(target)
    _put(losses, (difference**2).mean(axis=1))
    _put(dx, scale * 2.0 / x.shape[-1] * difference)


# ---- sums in canonical order -----------------------------------------------------------


def _canonical(
    x: Array, term: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> float:
    flat = term(_f64(x).reshape(-1))
    total = 0.0
    for start in range(0, flat.size, SUM_BLOCK):
        block = flat[start : start + SUM_BLOCK]
        lane = np.zeros(SUM_LANES)
        for row in range(0, block.size, SUM_LANES):
            part = block[row : row + SUM_LANES]
            lane[: part.size] += part
        while lane.size > 1:
            half = lane.size // 2
            lane = lane[:half] + lane[half:]
        total += float(lane[0])
    return total


def sum(x: Array) -> float:
    """The sum in the canonical order of docs/numerics.md, bit for bit."""
    return _canonical(x, lambda v: v)


def sum_squares(x: Array) -> float:
    """The sum of squares in the canonical order of docs/numerics.md, bit for bit."""
    return _canonical(x, lambda v: v * v)


# ---- optimizers ------------------------------------------------------------------------


def adamw(
    param: Array,
    m: Array,
    v: Array,
    grad: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
    grad_scale: float,
) -> None:
    """Loshchilov & Hutter 2019; correction_i = 1 - beta_i^step."""
    g = grad_scale * _f64(grad)
    new_m = beta1 * _f64(m) + (1 - beta1) * g
    new_v = beta2 * _f64(v) + (1 - beta2) * g**2
    update = new_m / correction1 / (np.sqrt(new_v / correction2) + eps)
    _put(param, param - lr * (update + weight_decay * _f64(param)))
    _put(m, new_m)
    _put(v, new_v)


def sgd(
    param: Array,
    buf: Array,
    grad: Array,
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_scale: float,
) -> None:
    """buf = momentum buf + g + weight_decay param; param -= lr buf."""
    new = momentum * _f64(buf) + grad_scale * _f64(grad) + weight_decay * _f64(param)
    _put(param, param - lr * new)
    _put(buf, new)
