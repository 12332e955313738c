"""Worst rounding errors of the kernels' arithmetic, from standard analysis.

A bound is against exact arithmetic on the same inputs: u = 2^-24 per operation, and a
sum of n terms in a chain of depth d errs by at most d u times the sum of magnitudes.
Depths are those of the narrowest vectors (4 lanes). Nothing here runs a kernel.
"""

from collections.abc import Callable

import numpy as np

U = 2.0**-24
Arrays = dict[str, np.ndarray]


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def relative(ulps: float, *names: str) -> Callable[[dict, Arrays], Arrays]:
    """Each output within `ulps` roundings of its own size."""

    def bound(a: dict, ref: Arrays) -> Arrays:
        return {name: ulps * U * np.abs(ref[name]) + 1e-44 for name in names}

    return bound


def bound_gemm(a, ref):
    total = np.abs(wide(a["a"])) @ np.abs(wide(a["b"]))
    for name in ("bias", "residual"):
        if a[name] is not None:
            total = total + np.abs(a[name])
    if a["accumulate"]:
        total = total + np.abs(a["c"])
    return {"c": (a["a"].shape[1] + 6) * U * total}


def bound_bias(a, ref):
    depth = a["dout"].shape[0] + 4
    return {"db": depth * U * (np.abs(a["db"]) + np.abs(wide(a["dout"])).sum(0))}


def bound_norm(a, ref):
    x = wide(a["x"])
    depth = x.shape[1] / 4 + 12
    mean = wide(ref["mean"])[:, None] if "mean" in a else 0.0 * x[:, :1]
    rstd = wide(ref["rstd"])[:, None]
    shift = depth * U * np.abs(x).mean(1, keepdims=True) if "mean" in a else 0.0
    # An error of the mean enters the variance squared, an error of a term linearly.
    spread = np.abs(x - mean)
    relative = (
        depth * U
        + (shift * rstd) ** 2
        + 2 * U * (np.abs(x) * rstd).max(1, keepdims=True)
    )
    y = rstd * (shift + U * (spread + np.abs(x)) + spread * relative)
    beta = np.abs(a["beta"]) if "beta" in a else 0.0
    out = np.abs(a["gamma"]) * y + 4 * U * (np.abs(ref["out"]) + beta)
    bounds = {"out": out, "rstd": (relative * rstd)[:, 0]}
    if "mean" in a:
        bounds["mean"] = np.broadcast_to(shift, rstd.shape)[:, 0]
    return bounds


def bound_norm_backward(a, ref):
    mean = wide(a["mean"])[:, None] if "mean" in a else 0.0
    y = np.abs((wide(a["x"]) - mean) * wide(a["rstd"])[:, None])
    g = np.abs(wide(a["dout"]) * a["gamma"])
    total = g + g.mean(1, keepdims=True) + y * (g * y).mean(1, keepdims=True)
    depth = g.shape[1] / 4 + 20
    residual = 0.0 if a["residual"] is None else np.abs(a["residual"])
    return {"dx": U * (depth * wide(a["rstd"])[:, None] * total + 2 * residual)}


def bound_norm_weight(a, ref):
    mean = wide(a["mean"])[:, None] if "mean" in a else 0.0
    y = (np.abs(wide(a["x"])) + np.abs(mean)) * wide(a["rstd"])[:, None]
    d = np.abs(wide(a["dout"]))
    depth = len(d) + 8
    bounds = {"dgamma": depth * U * (np.abs(a["dgamma"]) + (d * y).sum(0))}
    if "dbeta" in a:
        bounds["dbeta"] = depth * U * (np.abs(a["dbeta"]) + d.sum(0))
    return bounds


def gelu_argument(x):
    return 2 * np.sqrt(2 / np.pi) * np.abs(x) * (1 + 0.044715 * x**2)


def bound_gelu(a, ref):
    # The argument's relative error, 4 roundings, is multiplied by the argument.
    grown = 4 * gelu_argument(wide(a["x"])) + 6
    return {"out": U * grown * np.abs(ref["out"]) + 1e-38}


def bound_gelu_backward(a, ref):
    x = wide(a["x"])
    grown = 4 * gelu_argument(x) + 12
    s = 1 / (1 + np.exp(-np.sign(x) * gelu_argument(x)))
    slope = np.abs(x) * s * (1 - s) * 2 * np.sqrt(2 / np.pi) * (1 + 0.134145 * x**2)
    return {"dx": U * np.abs(a["dout"]) * (grown * (s + slope)) + 1e-35}


def bound_swiglu_backward(a, ref):
    gate, up = np.split(np.abs(wide(a["gate_up"])), 2, axis=1)
    d = np.abs(a["dout"])
    return {
        "dgate_up": 16 * U * np.concatenate([d * up * (1 + gate), d * gate], axis=1)
    }


def bound_embedding_backward(a, ref):
    batch, context = a["tokens"].shape
    d = np.abs(wide(a["dout"])).reshape(batch, context, -1)
    token = np.abs(wide(a["dtoken_table"]))
    np.add.at(token, a["tokens"], d)
    bounds = {"dtoken_table": (batch * context + 1) * U * token}
    if a["dposition_table"] is not None:
        position = np.abs(wide(a["dposition_table"])) + d.sum(0)
        bounds["dposition_table"] = (batch + 1) * U * position
    return bounds


def bound_rope(a, ref):
    heads, half = a["heads"], a["table"].shape[1]
    x = np.abs(wide(a["x"]))
    turned = x[:, :, : heads * 2 * half]
    v = turned.reshape(*x.shape[:2], heads, 2, half)
    turned[...] = np.repeat(v.sum(3, keepdims=True), 2, axis=3).reshape(turned.shape)
    x[:, :, heads * 2 * half :] = 0  # untouched
    return {"x": 3 * U * x}


def attention_magnitudes(a):
    """|q||k| and score errors (batch, heads, t, t), and |k|, |q|, |v| per query head."""
    batch, heads, context = a["lse"].shape
    head_dim = a["out"].shape[-1] // heads
    packed = np.abs(wide(a["qkv"])).reshape(batch, context, -1, head_dim).swapaxes(1, 2)
    kv_heads = (packed.shape[1] - heads) // 2
    q, k, v = np.split(packed, [heads, heads + kv_heads], axis=1)
    k, v = (np.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
    size = a["scale"] * q @ k.swapaxes(-1, -2)
    delta = ((head_dim + 8) * U * size).max(-1, keepdims=True)
    return q, k, v, delta


def probabilities(a):
    batch, heads, context = a["lse"].shape
    head_dim = a["out"].shape[-1] // heads
    packed = wide(a["qkv"]).reshape(batch, context, -1, head_dim).swapaxes(1, 2)
    kv_heads = (packed.shape[1] - heads) // 2
    q, k, _ = np.split(packed, [heads, heads + kv_heads], axis=1)
    scores = a["scale"] * q @ np.repeat(k, heads // kv_heads, axis=1).swapaxes(-1, -2)
    scores = np.where(np.triu(np.ones((context, context), bool), 1), -np.inf, scores)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def bound_attention(a, ref):
    _, _, v, delta = attention_magnitudes(a)
    context = a["lse"].shape[2]
    error = 2 * delta + (context + 16) * U
    out = error * (probabilities(a) @ v)
    return {
        "out": out.swapaxes(1, 2).reshape(ref["out"].shape),
        "lse": delta[..., 0] + (context / 4 + 16) * U + 2 * U * np.abs(ref["lse"]),
    }


def bound_attention_backward(a, ref):
    q, k, v, delta = attention_magnitudes(a)
    batch, heads, context, head_dim = q.shape
    kv_heads = (a["qkv"].shape[-1] // head_dim - heads) // 2
    d, o = (
        np.abs(wide(a[name])).reshape(batch, context, heads, head_dim).swapaxes(1, 2)
        for name in ("dout", "out")
    )
    p = probabilities(a)
    error = 2 * delta + (context + head_dim + 24) * U
    error = error + 2 * U * np.abs(wide(a["lse"]))[..., None]
    dp = d @ v.swapaxes(-1, -2) + (d * o).sum(-1, keepdims=True)
    ds = p * dp * error * a["scale"]

    def shared(x):
        return x.reshape(batch, kv_heads, -1, context, head_dim).sum(2)

    dk, dv = shared(ds.swapaxes(-1, -2) @ q), shared((p * error).swapaxes(-1, -2) @ d)
    packed = np.concatenate([ds @ k, dk, dv], axis=1)
    return {"dqkv": packed.swapaxes(1, 2).reshape(a["dqkv"].shape)}


def bound_cross_entropy(a, ref):
    x = wide(a["logits"])
    reach = x.max(1) - x.min(1)
    p = np.exp(x - x.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    depth = x.shape[1] / 4 + 16 + reach
    bounds = {"losses": U * (depth + reach + 2 * np.abs(ref["losses"]))}
    if a["dlogits"] is not None:
        bounds["dlogits"] = a["scale"] * U * (p * depth[:, None] + 1) + 1e-38
    return bounds


def bound_mse(a, ref):
    return {
        "losses": (a["x"].shape[1] / 4 + 8) * U * ref["losses"],
        "dx": 4 * U * np.abs(ref["dx"]),
    }


def bound_adamw(a, ref):
    g = np.abs(wide(a["grad"])) * a["grad_scale"]
    m = a["beta1"] * np.abs(wide(a["m"])) + (1 - a["beta1"]) * g
    v = np.sqrt(wide(ref["v"]) / a["correction2"]) + a["eps"]
    step = m / a["correction1"] / v + a["weight_decay"] * np.abs(a["param"])
    return {
        "m": 4 * U * m,
        "v": 6 * U * ref["v"],
        "param": U * (2 * np.abs(a["param"]) + 16 * a["lr"] * step),
    }


def bound_sgd(a, ref):
    buf = sum(
        np.abs(wide(a[name]) * a[factor])
        for name, factor in (
            ("buf", "momentum"),
            ("grad", "grad_scale"),
            ("param", "weight_decay"),
        )
    )
    return {
        "buf": 4 * U * buf,
        "param": U * (2 * np.abs(a["param"]) + 8 * a["lr"] * buf),
    }
