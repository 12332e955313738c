"""One case per kernel: arguments of odd shapes, which of them are written, and error bounds.

A bound is the worst rounding error of the kernel's arithmetic against exact arithmetic on the
same inputs, from standard analysis: u = 2^-24 per operation, a sum of n terms in a chain of
depth d errs by at most d u times the sum of magnitudes. Depths are those of the narrowest
vectors (4 lanes). Nothing here runs a kernel; test_kernels.py does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

U = 2.0**-24
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A kernel's arguments for a shape and what may be expected of the outputs."""

    make: Callable[..., dict]  # (rng, *shape) -> arguments by name, in order
    shapes: list[tuple]
    bound: Callable[[dict, Arrays], Arrays]  # (arguments, reference) -> absolute bounds
    overwritten: tuple[str, ...] = ()
    accumulated: tuple[str, ...] = ()  # read and written
    optional: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    views: tuple[str, ...] = ()  # arguments that may be strided

    @property
    def written(self) -> tuple[str, ...]:
        return self.overwritten + self.accumulated


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def empty(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, dtype=np.float32)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def relative(ulps: float, *names: str) -> Callable[[dict, Arrays], Arrays]:
    """Each output within `ulps` roundings of its own size."""

    def bound(a: dict, ref: Arrays) -> Arrays:
        return {name: ulps * U * np.abs(ref[name]) + 1e-44 for name in names}

    return bound


# ---- matrix products -------------------------------------------------------------------


def make_gemm(rng, m, n, k, accumulate=True):
    return {
        "c": normal(rng, m, n) if accumulate else empty(m, n),
        "a": normal(rng, m, k),
        "b": normal(rng, k, n),
        "bias": normal(rng, n),
        "residual": normal(rng, m, n),
        "accumulate": accumulate,
    }


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


# ---- norms -----------------------------------------------------------------------------


def make_norm(rng, rows, width, layer):
    a = {"out": empty(rows, width)}
    if layer:
        a["mean"] = empty(rows)
    a |= {"rstd": empty(rows), "x": normal(rng, rows, width) * 3 + 1}
    a["gamma"] = normal(rng, width)
    if layer:
        a["beta"] = normal(rng, width)
    return a | {"eps": 1e-5}


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


def make_norm_backward(rng, rows, width, layer):
    a = {"dx": empty(rows, width), "dout": normal(rng, rows, width)}
    a["x"] = normal(rng, rows, width) * 3 + 1
    if layer:
        a["mean"] = a["x"].mean(1)
    a["rstd"] = (1 / (np.abs(normal(rng, rows)) + 1)).astype(np.float32)
    return a | {"gamma": normal(rng, width), "residual": normal(rng, rows, width)}


def bound_norm_backward(a, ref):
    mean = wide(a["mean"])[:, None] if "mean" in a else 0.0
    y = np.abs((wide(a["x"]) - mean) * wide(a["rstd"])[:, None])
    g = np.abs(wide(a["dout"]) * a["gamma"])
    total = g + g.mean(1, keepdims=True) + y * (g * y).mean(1, keepdims=True)
    depth = g.shape[1] / 4 + 20
    residual = 0.0 if a["residual"] is None else np.abs(a["residual"])
    return {"dx": U * (depth * wide(a["rstd"])[:, None] * total + 2 * residual)}


def make_norm_weight(rng, rows, width, layer):
    a = {"dgamma": normal(rng, width)}
    if layer:
        a["dbeta"] = normal(rng, width)
    b = make_norm_backward(rng, rows, width, layer)
    for name in ("dout", "x", "mean", "rstd"):
        if name in b:
            a[name] = b[name]
    return a


def bound_norm_weight(a, ref):
    mean = wide(a["mean"])[:, None] if "mean" in a else 0.0
    y = (np.abs(wide(a["x"])) + np.abs(mean)) * wide(a["rstd"])[:, None]
    d = np.abs(wide(a["dout"]))
    depth = len(d) + 8
    bounds = {"dgamma": depth * U * (np.abs(a["dgamma"]) + (d * y).sum(0))}
    if "dbeta" in a:
        bounds["dbeta"] = depth * U * (np.abs(a["dbeta"]) + d.sum(0))
    return bounds


# ---- activations -----------------------------------------------------------------------


def make_unary(rng, *shape):
    return {"out": empty(*shape), "x": 4 * normal(rng, *shape)}


def make_unary_backward(rng, *shape):
    return {
        "dx": empty(*shape),
        "dout": normal(rng, *shape),
        "x": 4 * normal(rng, *shape),
    }


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


def make_swiglu(rng, rows, hidden):
    return {"out": empty(rows, hidden), "gate_up": 3 * normal(rng, rows, 2 * hidden)}


def make_swiglu_backward(rng, rows, hidden):
    return {
        "dgate_up": empty(rows, 2 * hidden),
        "dout": normal(rng, rows, hidden),
        "gate_up": 3 * normal(rng, rows, 2 * hidden),
    }


def bound_swiglu_backward(a, ref):
    gate, up = np.split(np.abs(wide(a["gate_up"])), 2, axis=1)
    d = np.abs(a["dout"])
    return {
        "dgate_up": 16 * U * np.concatenate([d * up * (1 + gate), d * gate], axis=1)
    }


# ---- embedding and rotary positions ----------------------------------------------------


def make_embedding(rng, batch, context, vocab, width):
    return {
        "out": empty(batch * context, width),
        "tokens": rng.integers(0, vocab, (batch, context), dtype=np.int32),
        "token_table": normal(rng, vocab, width),
        "position_table": normal(rng, context, width),
    }


def make_embedding_backward(rng, batch, context, vocab, width):
    return {
        "dtoken_table": normal(rng, vocab, width),
        "dposition_table": normal(rng, context, width),
        "dout": normal(rng, batch * context, width),
        "tokens": rng.integers(0, vocab, (batch, context), dtype=np.int32),
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


def make_rope(rng, batch, context, heads, head_dim, extra):
    angle = rng.uniform(0, 7, (context, head_dim // 2))
    table = np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)
    x = normal(rng, batch, context, heads * head_dim + extra)
    return {"x": x, "table": table, "heads": heads, "sign": -1.0 if extra else 1.0}


def bound_rope(a, ref):
    heads, half = a["heads"], a["table"].shape[1]
    x = np.abs(wide(a["x"]))
    turned = x[:, :, : heads * 2 * half]
    v = turned.reshape(*x.shape[:2], heads, 2, half)
    turned[...] = np.repeat(v.sum(3, keepdims=True), 2, axis=3).reshape(turned.shape)
    x[:, :, heads * 2 * half :] = 0  # untouched
    return {"x": 3 * U * x}


# ---- causal attention ------------------------------------------------------------------


def make_attention(rng, batch, context, heads, kv_heads, head_dim):
    rows = batch * context
    return {
        "out": empty(rows, heads * head_dim),
        "lse": empty(batch, heads, context),
        "qkv": normal(rng, rows, (heads + 2 * kv_heads) * head_dim),
        "scale": float(np.float32(head_dim**-0.5)),
    }


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
    batch, heads, context = a["lse"].shape
    error = 2 * delta + (context + 16) * U
    out = error * (probabilities(a) @ v)
    return {
        "out": out.swapaxes(1, 2).reshape(ref["out"].shape),
        "lse": delta[..., 0] + (context / 4 + 16) * U + 2 * U * np.abs(ref["lse"]),
    }


def make_attention_backward(rng, *shape):
    from cython_kernels import reference

    a = make_attention(rng, *shape)
    reference.attention_forward(*a.values())
    return {
        "dqkv": empty(*a["qkv"].shape),
        "dout": normal(rng, *a["out"].shape),
        "out": a["out"],
        "lse": a["lse"],
        "qkv": a["qkv"],
        "scale": a["scale"],
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


# ---- losses and optimizers -------------------------------------------------------------


def make_cross_entropy(rng, rows, vocab):
    targets = rng.integers(0, vocab, rows, dtype=np.int32)
    targets[::5] = -1 if rows > 1 else targets[::5]
    return {
        "losses": empty(rows),
        "dlogits": empty(rows, vocab),
        "logits": 5 * normal(rng, rows, vocab),
        "targets": targets,
        "scale": 0.125,
    }


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


def make_mse(rng, rows, width):
    return {
        "losses": empty(rows),
        "dx": empty(rows, width),
        "x": normal(rng, rows, width),
        "target": normal(rng, rows, width),
        "scale": 0.25,
    }


def bound_mse(a, ref):
    return {
        "losses": (a["x"].shape[1] / 4 + 8) * U * ref["losses"],
        "dx": 4 * U * np.abs(ref["dx"]),
    }


def float32s(**scalars):
    """Scalars as the C call rounds them, so that the reference sees the same numbers."""
    return {name: float(np.float32(value)) for name, value in scalars.items()}


def make_adamw(rng, n):
    return {
        "param": normal(rng, n),
        "m": 0.1 * normal(rng, n),
        "v": 0.01 * normal(rng, n) ** 2,
        "grad": normal(rng, n),
    } | float32s(
        lr=1e-2,
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        weight_decay=0.1,
        correction1=0.271,
        correction2=0.0297,
        grad_scale=0.7,
    )


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


def make_sgd(rng, n):
    arrays = {"param": normal(rng, n), "buf": normal(rng, n), "grad": normal(rng, n)}
    return arrays | float32s(lr=0.05, momentum=0.9, weight_decay=0.01, grad_scale=0.7)


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


ROWS = [(1, 1), (1, 7), (3, 16), (5, 31), (7, 64), (131, 67), (260, 192)]
FLAT = [(1,), (5,), (16,), (17,), (1023,), (4099,), (3, 5, 7), (0,)]


def unary(bound):
    return Case(make_unary, FLAT, bound, ("out",), aliases=(("out", "x"),))


def make_backward(bound):
    return Case(make_unary_backward, FLAT, bound, ("dx",), aliases=(("dx", "dout"),))


NORM = dict(aliases=(("out", "x"),))
NORM_BACKWARD = dict(
    overwritten=("dx",),
    optional=("residual",),
    aliases=(("dx", "dout"), ("dx", "residual")),
)
GEMM_SHAPES = [(1, 1, 1), (1, 7, 3), (6, 16, 1), (5, 3, 0), (7, 17, 13), (14, 32, 64)]
GEMM_SHAPES += [(61, 47, 331), (97, 130, 641), (3, 2100, 5), (347, 3, 2), (0, 3, 2)]
ATTENTION = [(1, 1, 1, 1, 1), (2, 7, 2, 1, 4), (1, 33, 3, 3, 8), (2, 67, 4, 2, 20)]
ATTENTION += [(1, 130, 2, 1, 48), (1, 257, 1, 1, 5)]

CASES: dict[str, Case] = {
    "gemm": Case(
        make_gemm,
        [(*s, accumulate) for s in GEMM_SHAPES for accumulate in (False, True)],
        bound_gemm,
        accumulated=("c",),
        optional=("bias", "residual"),
        views=("a", "b"),
    ),
    "bias_backward": Case(
        lambda r, m, n: {"db": normal(r, n), "dout": normal(r, m, n)},
        ROWS,
        bound_bias,
        accumulated=("db",),
    ),
    "layernorm_forward": Case(
        lambda r, *s: make_norm(r, *s, True),
        ROWS,
        bound_norm,
        ("out", "mean", "rstd"),
        **NORM,
    ),
    "rmsnorm_forward": Case(
        lambda r, *s: make_norm(r, *s, False), ROWS, bound_norm, ("out", "rstd"), **NORM
    ),
    "relu_forward": unary(relative(0, "out")),
    "relu_backward": make_backward(relative(0, "dx")),
    "gelu_forward": unary(bound_gelu),
    "gelu_backward": make_backward(bound_gelu_backward),
    "swiglu_forward": Case(make_swiglu, ROWS, relative(8, "out"), ("out",)),
    "swiglu_backward": Case(
        make_swiglu_backward,
        ROWS,
        bound_swiglu_backward,
        ("dgate_up",),
        aliases=(("dgate_up", "gate_up"),),
    ),
    "add": Case(
        lambda r, *s: {"out": empty(*s), "a": normal(r, *s), "b": normal(r, *s)},
        FLAT,
        relative(1, "out"),
        ("out",),
        aliases=(("out", "a"), ("out", "b")),
    ),
    "exp": unary(relative(2, "out")),
    "log": Case(
        lambda r, *s: {
            "out": empty(*s),
            "x": np.exp(r.uniform(-80, 80, s)).astype(np.float32),
        },
        FLAT,
        relative(2, "out"),
        ("out",),
        aliases=(("out", "x"),),
    ),
    "sigmoid": unary(relative(6, "out")),
    "embedding_forward": Case(
        make_embedding,
        [(1, 1, 1, 1), (2, 5, 7, 17), (3, 16, 3, 64)],
        relative(1, "out"),
        ("out",),
        optional=("position_table",),
    ),
    "embedding_backward_weight": Case(
        make_embedding_backward,
        [(1, 1, 1, 1), (2, 5, 7, 17), (3, 16, 3, 64)],
        bound_embedding_backward,
        accumulated=("dtoken_table", "dposition_table"),
        optional=("dposition_table",),
    ),
    "rope": Case(
        make_rope,
        [(1, 1, 1, 2, 0), (2, 7, 3, 10, 0), (1, 5, 2, 16, 33), (2, 3, 1, 64, 1)],
        bound_rope,
        accumulated=("x",),
    ),
    "attention_forward": Case(
        make_attention, ATTENTION, bound_attention, ("out", "lse")
    ),
    "attention_backward": Case(
        make_attention_backward, ATTENTION, bound_attention_backward, ("dqkv",)
    ),
    "cross_entropy": Case(
        make_cross_entropy,
        [(1, 1), (2, 7), (6, 256), (11, 1003), (0, 5)],
        bound_cross_entropy,
        ("losses", "dlogits"),
        optional=("dlogits",),
        aliases=(("dlogits", "logits"),),
    ),
    "mse": Case(make_mse, ROWS, bound_mse, ("losses", "dx"), aliases=(("dx", "x"),)),
    "adamw": Case(
        make_adamw,
        [(1,), (7,), (64,), (2051,), (0,)],
        bound_adamw,
        accumulated=("param", "m", "v"),
    ),
    "sgd": Case(
        make_sgd,
        [(1,), (7,), (64,), (2051,), (0,)],
        bound_sgd,
        accumulated=("param", "buf"),
    ),
}
for name, with_mean in (("layernorm", True), ("rmsnorm", False)):
    CASES[f"{name}_backward_input"] = Case(
        lambda r, *s, w=with_mean: make_norm_backward(r, *s, w),
        ROWS,
        bound_norm_backward,
        **NORM_BACKWARD,
    )
    CASES[f"{name}_backward_weight"] = Case(
        lambda r, *s, w=with_mean: make_norm_weight(r, *s, w),
        ROWS,
        bound_norm_weight,
        accumulated=("dgamma", "dbeta") if with_mean else ("dgamma",),
    )

# Kernels that have no array to write: their tests are in test_reduce.py and test_gemm.py.
OTHERS = {"gemm_workspace", "attention_workspace", "sum", "sum_squares"}
