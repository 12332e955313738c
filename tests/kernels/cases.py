"""One case per kernel: arguments of odd shapes, and which of them are written.

Nothing here runs a kernel; test_kernels.py does. The error each output is allowed is in
bounds.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .bounds import (
    Arrays,
    bound_adamw,
    bound_attention,
    bound_attention_backward,
    bound_bias,
    bound_cross_entropy,
    bound_embedding_backward,
    bound_gelu,
    bound_gelu_backward,
    bound_gemm,
    bound_mse,
    bound_norm,
    bound_norm_backward,
    bound_norm_weight,
    bound_rope,
    bound_sgd,
    bound_swiglu_backward,
    relative,
)


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


def make_norm_backward(rng, rows, width, layer):
    a = {"dx": empty(rows, width), "dout": normal(rng, rows, width)}
    a["x"] = normal(rng, rows, width) * 3 + 1
    if layer:
        a["mean"] = a["x"].mean(1)
    a["rstd"] = (1 / (np.abs(normal(rng, rows)) + 1)).astype(np.float32)
    return a | {"gamma": normal(rng, width), "residual": normal(rng, rows, width)}


def make_norm_weight(rng, rows, width, layer):
    a = {"dgamma": normal(rng, width)}
    if layer:
        a["dbeta"] = normal(rng, width)
    b = make_norm_backward(rng, rows, width, layer)
    for name in ("dout", "x", "mean", "rstd"):
        if name in b:
            a[name] = b[name]
    return a


# ---- activations -----------------------------------------------------------------------


def make_unary(rng, *shape):
    return {"out": empty(*shape), "x": 4 * normal(rng, *shape)}


def make_unary_backward(rng, *shape):
    return {
        "dx": empty(*shape),
        "dout": normal(rng, *shape),
        "x": 4 * normal(rng, *shape),
    }


def make_swiglu(rng, rows, hidden):
    return {"out": empty(rows, hidden), "gate_up": 3 * normal(rng, rows, 2 * hidden)}


def make_swiglu_backward(rng, rows, hidden):
    return {
        "dgate_up": empty(rows, 2 * hidden),
        "dout": normal(rng, rows, hidden),
        "gate_up": 3 * normal(rng, rows, 2 * hidden),
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


def make_rope(rng, batch, context, heads, head_dim, extra):
    angle = rng.uniform(0, 7, (context, head_dim // 2))
    table = np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)
    x = normal(rng, batch, context, heads * head_dim + extra)
    return {"x": x, "table": table, "heads": heads, "sign": -1.0 if extra else 1.0}


# ---- causal attention ------------------------------------------------------------------


def make_attention(rng, batch, context, heads, kv_heads, head_dim):
    rows = batch * context
    return {
        "out": empty(rows, heads * head_dim),
        "lse": empty(batch, heads, context),
        "qkv": normal(rng, rows, (heads + 2 * kv_heads) * head_dim),
        "scale": float(np.float32(head_dim**-0.5)),
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
        "accumulate": False,
    }


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


def make_mse(rng, rows, width):
    return {
        "losses": empty(rows),
        "dx": empty(rows, width),
        "x": normal(rng, rows, width),
        "target": normal(rng, rows, width),
        "scale": 0.25,
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


def make_sgd(rng, n):
    arrays = {"param": normal(rng, n), "buf": normal(rng, n), "grad": normal(rng, n)}
    return arrays | float32s(lr=0.05, momentum=0.9, weight_decay=0.01, grad_scale=0.7)


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
