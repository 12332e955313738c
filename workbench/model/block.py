"""The transformer block: causal attention and an MLP, each behind a norm, on a residual
stream.

One class covers GPT (LayerNorm, biases, GELU) and Llama (RMSNorm, rotary positions,
grouped queries, SwiGLU). Shapes in comments: N = batch * context rows, C = width, H =
hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cython_kernels import _kernels

from .layers import Layer, LayerCost, Norm, Parameter
from .tape import Emitter, Ref


def rotary_table(context: int, head_dim: int, theta: float) -> np.ndarray:
    """(context, head_dim/2, 2) cosines and sines (Su et al. 2021), computed in
    float64."""
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(context)[:, None] * frequencies[None, :]
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Block(Layer):
    """x + attention(norm(x)), then that + mlp(norm(that))."""

    context: int
    width: int
    num_heads: int
    num_kv_heads: int
    hidden: int
    norm: str = "layernorm"  # "rmsnorm"
    mlp: str = "gelu"  # "swiglu"
    bias: bool = True
    rope_theta: float | None = None
    residual_std: float = 0.02

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def qkv_width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def up_width(self) -> int:
        return 2 * self.hidden if self.mlp == "swiglu" else self.hidden

    @property
    def _norms(self) -> tuple[Norm, Norm]:
        make = (Norm(self.norm, f"norm{i}", self.width) for i in (1, 2))
        return next(make), next(make)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        first, second = self._norms
        c, std = self.width, 0.02

        def linear(name: str, n_out: int, n_in: int, std: float) -> list[Parameter]:
            weight = Parameter(f"{name}.weight", (n_out, n_in), std)
            bias = Parameter(f"{name}.bias", (n_out,), 0.0, decay=False)
            return [weight, bias] if self.bias else [weight]

        return (
            *first.parameters,
            *linear("qkv", self.qkv_width, c, std),
            *linear("proj", c, c, self.residual_std),
            *second.parameters,
            *linear("up", self.up_width, c, std),
            *linear("down", c, self.hidden, self.residual_std),
        )

    @property
    def cost(self) -> LayerCost:
        """Matrix products and the causal half of attention (2 products forward, 4
        backward; recomputed scores are not counted)."""
        c = self.width
        weights = c * (self.qkv_width + c + self.up_width + self.hidden)
        products = 2.0 * self.context * weights
        attention = 2.0 * self.context**2 * c
        return LayerCost(products + attention, products + 2 * attention, products)

    @property
    def input_elements(self) -> int:
        return self.context * self.width

    @property
    def output_elements(self) -> int:
        return self.context * self.width

    # ---- tapes -----------------------------------------------------------------------

    def _b(self, name: str) -> str | None:
        return f"{name}.bias" if self.bias else None

    def _rows(self, e: Emitter) -> int:
        return e.batch * e.positions(self.context)

    def _qkv(self, e: Emitter, region: str = "SAVED") -> tuple[Ref, Ref]:
        """Queries, keys and values, which later slices look back at, or in "HELD" their
        gradients, which later slices add to: of all slices, and of this one."""
        return e.of_sequence(region, "qkv", self._rows(e) * self.qkv_width)

    def _saved(self, e: Emitter, name: str) -> Ref:
        rows = self._rows(e)
        elements = {
            "norm1": rows * self.width,
            "attention": rows * self.width,
            "lse": rows * self.num_heads,
            "middle": rows * self.width,
            "norm2": rows * self.width,
            "up": rows * self.up_width,
            "active": rows * self.hidden,
        }
        return e.saved(name, elements[name])

    def _held(self, e: Emitter, name: str) -> Ref:
        rows = self._rows(e)
        elements = {
            "dup": rows * self.up_width,
            "dnorm2": rows * self.width,
            "dmiddle": rows * self.width,
            "dnorm1": rows * self.width,
        }
        return e.held(name, elements[name])

    def _attention_sizes(self, e: Emitter) -> tuple[int, ...]:
        heads = (self.num_heads, self.num_kv_heads, self.head_dim)
        return (e.batch, e.positions(self.context), e.slice, *heads)

    def _attention_work(self, e: Emitter) -> Ref:
        positions = e.positions(self.context)
        size = _kernels.attention_workspace(positions, e.slice, self.head_dim)
        return e.scratch(e.threads * size)

    def _rotate(self, e: Emitter, x: Ref, sign: float) -> None:
        """Turns the queries and keys in place; the backward turns their gradients
        back."""
        if self.rope_theta is None:
            return
        table = rotary_table(self.context, self.head_dim, self.rope_theta)
        heads, positions = (
            self.num_heads + self.num_kv_heads,
            e.positions(self.context),
        )
        sizes = (e.batch, positions, self.qkv_width, heads, self.head_dim)
        angles = e.constant("rotary", table).at(e.slice * positions * self.head_dim)
        e.call("rope", (x, angles), sizes, sign)

    def _activate(self, e: Emitter, backward: Ref | None = None) -> None:
        """Forward: active from up. Backward: dup from the gradient of active."""
        rows, up = self._rows(e), self._saved(e, "up")
        sizes = (rows, self.hidden) if self.mlp == "swiglu" else (rows * self.hidden,)
        if backward is None:
            e.call(f"{self.mlp}_forward", (self._saved(e, "active"), up), sizes)
        else:
            e.call(f"{self.mlp}_backward", (self._held(e, "dup"), backward, up), sizes)

    def forward(self, e: Emitter) -> None:
        assert e.x is not None and e.y is not None
        rows, c = self._rows(e), self.width
        first, second = self._norms
        norm1, (sequence, qkv) = self._saved(e, "norm1"), self._qkv(e)
        attention, middle = self._saved(e, "attention"), self._saved(e, "middle")
        norm2, up = self._saved(e, "norm2"), self._saved(e, "up")
        scale = self.head_dim**-0.5

        first.forward(e, norm1, e.x, rows)
        e.linear(qkv, norm1, "qkv.weight", (rows, c, self.qkv_width), self._b("qkv"))
        self._rotate(e, qkv, 1.0)
        operands = (attention, self._saved(e, "lse"), sequence, self._attention_work(e))
        e.call("attention_forward", operands, self._attention_sizes(e), scale)
        e.linear(middle, attention, "proj.weight", (rows, c, c), self._b("proj"), e.x)
        second.forward(e, norm2, middle, rows)
        e.linear(up, norm2, "up.weight", (rows, c, self.up_width), self._b("up"))
        self._activate(e)
        active = self._saved(e, "active")
        shape = (rows, self.hidden, c)
        e.linear(e.y, active, "down.weight", shape, self._b("down"), middle)

    def backward_input(self, e: Emitter) -> None:
        assert e.x is not None and e.dx is not None and e.dy is not None
        rows, c = self._rows(e), self.width
        first, second = self._norms
        dup, dnorm2 = self._held(e, "dup"), self._held(e, "dnorm2")
        dmiddle, (dsequence, dqkv) = self._held(e, "dmiddle"), self._qkv(e, "HELD")
        dnorm1, (sequence, _) = self._held(e, "dnorm1"), self._qkv(e)

        dactive = e.scratch(4 * rows * self.hidden)
        e.linear_backward_input(dactive, e.dy, "down.weight", (rows, self.hidden, c))
        self._activate(e, backward=dactive)
        e.linear_backward_input(dnorm2, dup, "up.weight", (rows, c, self.up_width))
        second.backward_input(e, dmiddle, dnorm2, self._saved(e, "middle"), rows, e.dy)
        dattention = e.scratch(4 * rows * c)
        e.linear_backward_input(dattention, dmiddle, "proj.weight", (rows, c, c))
        operands = (
            dsequence,
            dattention,
            self._saved(e, "attention"),
            self._saved(e, "lse"),
            sequence,
            self._attention_work(e),
        )
        accumulate = int(e.slice + 1 < e.num_slices)
        sizes = (*self._attention_sizes(e), accumulate)
        e.call("attention_backward", operands, sizes, self.head_dim**-0.5)
        self._rotate(e, dqkv, -1.0)
        e.linear_backward_input(dnorm1, dqkv, "qkv.weight", (rows, c, self.qkv_width))
        first.backward_input(e, e.dx, dnorm1, e.x, rows, dmiddle)

    def backward_weight(self, e: Emitter) -> None:
        assert e.x is not None and e.dy is not None
        rows, c = self._rows(e), self.width
        first, second = self._norms

        def linear(dout: Ref, x: Ref, name: str, n_in: int, n_out: int) -> None:
            shape = (rows, n_in, n_out)
            e.linear_backward_weight(dout, x, f"{name}.weight", shape, self._b(name))

        linear(e.dy, self._saved(e, "active"), "down", self.hidden, c)
        dup, dmiddle = self._held(e, "dup"), self._held(e, "dmiddle")
        linear(dup, self._saved(e, "norm2"), "up", c, self.up_width)
        second.backward_weight(
            e, self._held(e, "dnorm2"), self._saved(e, "middle"), rows
        )
        linear(dmiddle, self._saved(e, "attention"), "proj", c, c)
        _, dqkv = self._qkv(e, "HELD")
        linear(dqkv, self._saved(e, "norm1"), "qkv", c, self.qkv_width)
        first.backward_weight(e, self._held(e, "dnorm1"), e.x, rows)
