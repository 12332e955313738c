"""Types of the compiled kernels. Arrays are C-contiguous float32 unless a docstring of
``_kernels.pyx`` says otherwise; tokens and targets are int32."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = NDArray[np.int32]
Work: TypeAlias = NDArray[np.uint8] | bytearray | None

def kernel_names() -> tuple[str, ...]: ...
def built_isas() -> tuple[str, ...]: ...
def available_isas() -> tuple[str, ...]: ...
def isa() -> str: ...
def lanes() -> int: ...
def select_isa(name: str) -> None: ...
def gemm_workspace(m: int, n: int, k: int) -> int: ...
def gemm(
    c: Array,
    a: Array,
    b: Array,
    bias: Array | None = ...,
    residual: Array | None = ...,
    accumulate: bool = ...,
    *,
    parts: int = ...,
    work: Work = ...,
) -> None: ...
def bias_backward(db: Array, dout: Array, *, parts: int = ...) -> None: ...
def layernorm_forward(
    out: Array,
    mean: Array,
    rstd: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    eps: float = ...,
    *,
    parts: int = ...,
) -> None: ...
def layernorm_backward_input(
    dx: Array,
    dout: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    gamma: Array,
    residual: Array | None = ...,
    *,
    parts: int = ...,
) -> None: ...
def layernorm_backward_weight(
    dgamma: Array,
    dbeta: Array,
    dout: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    *,
    parts: int = ...,
) -> None: ...
def rmsnorm_forward(
    out: Array,
    rstd: Array,
    x: Array,
    gamma: Array,
    eps: float = ...,
    *,
    parts: int = ...,
) -> None: ...
def rmsnorm_backward_input(
    dx: Array,
    dout: Array,
    x: Array,
    rstd: Array,
    gamma: Array,
    residual: Array | None = ...,
    *,
    parts: int = ...,
) -> None: ...
def rmsnorm_backward_weight(
    dgamma: Array, dout: Array, x: Array, rstd: Array, *, parts: int = ...
) -> None: ...
def relu_forward(out: Array, x: Array, *, parts: int = ...) -> None: ...
def relu_backward(dx: Array, dout: Array, x: Array, *, parts: int = ...) -> None: ...
def gelu_forward(out: Array, x: Array, *, parts: int = ...) -> None: ...
def gelu_backward(dx: Array, dout: Array, x: Array, *, parts: int = ...) -> None: ...
def swiglu_forward(out: Array, gate_up: Array, *, parts: int = ...) -> None: ...
def swiglu_backward(
    dgate_up: Array, dout: Array, gate_up: Array, *, parts: int = ...
) -> None: ...
def add(out: Array, a: Array, b: Array, *, parts: int = ...) -> None: ...
def exp(out: Array, x: Array, *, parts: int = ...) -> None: ...
def log(out: Array, x: Array, *, parts: int = ...) -> None: ...
def sigmoid(out: Array, x: Array, *, parts: int = ...) -> None: ...
def embedding_forward(
    out: Array,
    tokens: Tokens,
    token_table: Array,
    position_table: Array | None = ...,
    *,
    parts: int = ...,
) -> None: ...
def embedding_backward_weight(
    dtoken_table: Array,
    dposition_table: Array | None,
    dout: Array,
    tokens: Tokens,
    *,
    parts: int = ...,
) -> None: ...
def rope(
    x: Array, table: Array, heads: int, sign: float, *, parts: int = ...
) -> None: ...
def attention_workspace(context: int, past: int, head_dim: int) -> int: ...
def attention_forward(
    out: Array,
    lse: Array,
    qkv: Array,
    scale: float,
    *,
    parts: int = ...,
    work: Work = ...,
) -> None: ...
def attention_backward(
    dqkv: Array,
    dout: Array,
    out: Array,
    lse: Array,
    qkv: Array,
    scale: float,
    accumulate: bool = ...,
    *,
    parts: int = ...,
    work: Work = ...,
) -> None: ...
def cross_entropy(
    losses: Array,
    dlogits: Array | None,
    logits: Array,
    targets: Tokens,
    scale: float,
    *,
    parts: int = ...,
) -> None: ...
def mse(
    losses: Array, dx: Array, x: Array, target: Array, scale: float, *, parts: int = ...
) -> None: ...
def sum(x: Array) -> float: ...
def sum_squares(x: Array) -> float: ...
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
    *,
    parts: int = ...,
) -> None: ...
def sgd(
    param: Array,
    buf: Array,
    grad: Array,
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_scale: float,
    *,
    parts: int = ...,
) -> None: ...
