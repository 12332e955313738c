"""Layers: parameters, the three tapes, and costs; shapes only, nothing is allocated.

A layer states its forward, its input-gradient backward and its weight-gradient backward
as kernel calls; there is no autograd. Transformer blocks are in ``block.py``. Costs are
per sequence (one sample); FLOPs count a multiply-add as two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar, NamedTuple

from .tape import FLOAT, Emitter, Ref


class Parameter(NamedTuple):
    """A tensor that is trained. std: of its initial normal values; 0: all ``fill``.

    tied_to: the parameter of an earlier layer whose values this one has, as
    "embedding.token"; it is then that parameter's std, fill and decay that count. Each
    use has a gradient of its own; the sum over all, in layer order, updates all.
    """

    name: str
    shape: tuple[int, ...]
    std: float
    fill: float = 0.0
    decay: bool = True
    tied_to: str | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)


class LayerCost(NamedTuple):
    """FLOPs of F, I and W for one sequence."""

    forward: float
    backward_input: float
    backward_weight: float

    @property
    def total(self) -> float:
        return self.forward + self.backward_input + self.backward_weight


@dataclass(frozen=True)
class Layer(ABC):
    """Base of all layers.

    Subclasses give ``parameters``, ``cost``, ``input_elements`` and ``output_elements``
    (per sequence), and emit their calls in ``forward``, ``backward_input`` and
    ``backward_weight``. A layer that is not ``executable`` can be costed only.
    """

    name: str

    executable: ClassVar[bool] = True

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """What is trained, in the order in which it is saved and hashed."""

    @property
    @abstractmethod
    def cost(self) -> LayerCost:
        """FLOPs of one sequence."""

    @property
    @abstractmethod
    def input_elements(self) -> int:
        """Numbers that come in for one sequence."""

    @property
    @abstractmethod
    def output_elements(self) -> int:
        """Numbers that go out for one sequence."""

    def forward(self, e: Emitter) -> None:
        """Emits the calls of F."""
        raise self._no_kernels()

    def backward_input(self, e: Emitter) -> None:
        """Emits the calls of I: the gradient of the input."""
        raise self._no_kernels()

    def backward_weight(self, e: Emitter) -> None:
        """Emits the calls of W: the gradients of the parameters, added to what is there."""
        raise self._no_kernels()

    def _no_kernels(self) -> ValueError:
        return ValueError(f"layer {self.name!r} can be costed only: it has no kernels")

    @property
    def params(self) -> int:
        """Number of parameters that the layer holds, tied ones among them."""
        return sum(p.size for p in self.parameters)

    @property
    def flops(self) -> float:
        """Forward FLOPs of one sequence."""
        return self.cost.forward


def matmul_cost(rows: int, weights: int) -> LayerCost:
    """FLOPs of a product of (rows, n_in) with ``weights`` = n_in * n_out weights."""
    return LayerCost(2.0 * rows * weights, 2.0 * rows * weights, 2.0 * rows * weights)


@dataclass(frozen=True)
class Embedding(Layer):
    """Token embedding, plus learned positions unless ``positions`` is False."""

    vocab_size: int
    context: int
    width: int
    positions: bool = True

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        token = Parameter("token", (self.vocab_size, self.width), 0.02, decay=False)
        if not self.positions:
            return (token,)
        position = Parameter("position", (self.context, self.width), 0.02, decay=False)
        return (token, position)

    @property
    def cost(self) -> LayerCost:
        return LayerCost(0.0, 0.0, float(self.context * self.width))

    @property
    def input_elements(self) -> int:
        return self.context

    @property
    def output_elements(self) -> int:
        return self.context * self.width

    def _sizes(self, e: Emitter) -> tuple[int, int, int]:
        return (e.batch, e.positions(self.context), self.width)

    def _tokens(self, e: Emitter) -> Ref:
        return e.saved("tokens", e.batch * e.positions(self.context))

    def _from_slice(self, e: Emitter, position: Ref) -> Ref:
        """The rows of the position table, or its gradient, that the slice has."""
        return position.at(e.slice * e.positions(self.context) * self.width)

    def forward(self, e: Emitter) -> None:
        tokens, position = self._tokens(e), None
        e.gather(tokens, e.positions(self.context), targets=False)
        if self.positions:
            position = self._from_slice(e, e.param("position"))
        operands = (e.y, tokens, e.param("token"), position)
        e.call("embedding_forward", operands, self._sizes(e))

    def backward_input(self, e: Emitter) -> None:
        """Tokens have no gradient."""

    def backward_weight(self, e: Emitter) -> None:
        tokens, position = self._tokens(e), None
        if self.positions:
            position = self._from_slice(e, e.grad("position"))
        operands = (e.grad("token"), position, e.dy, tokens)
        e.call("embedding_backward_weight", operands, self._sizes(e))


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm of rows, as a part of a layer. Not a layer itself."""

    kind: str  # "layernorm" | "rmsnorm"
    name: str
    width: int
    epsilon: float = 1e-5

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        gamma = Parameter(f"{self.name}.weight", (self.width,), 0.0, 1.0, decay=False)
        beta = Parameter(f"{self.name}.bias", (self.width,), 0.0, 0.0, decay=False)
        return (gamma, beta) if self.kind == "layernorm" else (gamma,)

    def _statistics(self, e: Emitter, rows: int) -> tuple[Ref, ...]:
        rstd = e.saved(f"{self.name}.rstd", rows)
        if self.kind == "rmsnorm":
            return (rstd,)
        return (e.saved(f"{self.name}.mean", rows), rstd)

    def forward(self, e: Emitter, out: Ref, x: Ref, rows: int) -> None:
        weights = [e.param(p.name) for p in self.parameters]
        operands = (out, *self._statistics(e, rows), x, *weights)
        e.call(f"{self.kind}_forward", operands, (rows, self.width), self.epsilon)

    def backward_input(
        self, e: Emitter, dx: Ref, dout: Ref, x: Ref, rows: int, residual: Ref | None
    ) -> None:
        gamma = e.param(f"{self.name}.weight")
        operands = (dx, dout, x, *self._statistics(e, rows), gamma, residual)
        e.call(f"{self.kind}_backward_input", operands, (rows, self.width))

    def backward_weight(self, e: Emitter, dout: Ref, x: Ref, rows: int) -> None:
        grads = [e.grad(p.name) for p in self.parameters]
        operands = (*grads, dout, x, *self._statistics(e, rows))
        e.call(f"{self.kind}_backward_weight", operands, (rows, self.width))


@dataclass(frozen=True)
class Head(Layer):
    """Final norm, projection to the vocabulary, and softmax cross-entropy on the next
    token. ``tied_to``: the embedding whose rows the projection has, if it has none of
    its own."""

    vocab_size: int
    context: int
    width: int
    norm: str = "layernorm"
    tied_to: str | None = None

    @property
    def _norm(self) -> Norm:
        return Norm(self.norm, "norm", self.width)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        shape = (self.vocab_size, self.width)
        weight = Parameter("weight", shape, 0.02, tied_to=self.tied_to)
        return (*self._norm.parameters, weight)

    @property
    def cost(self) -> LayerCost:
        return matmul_cost(self.context, self.vocab_size * self.width)

    @property
    def input_elements(self) -> int:
        return self.context * self.width

    @property
    def output_elements(self) -> int:
        return self.context * self.vocab_size

    def _rows(self, e: Emitter) -> int:
        return e.batch * e.positions(self.context)

    def _shape(self, e: Emitter) -> tuple[int, int, int]:
        return (self._rows(e), self.width, self.vocab_size)

    def _buffers(self, e: Emitter) -> tuple[Ref, Ref]:
        rows = self._rows(e)
        return e.saved("norm", rows * self.width), e.saved(
            "logits", rows * self.vocab_size
        )

    def forward(self, e: Emitter) -> None:
        assert e.x is not None
        rows = self._rows(e)
        norm, logits = self._buffers(e)
        self._norm.forward(e, norm, e.x, rows)
        e.linear(logits, norm, "weight", self._shape(e))
        e.logits = logits
        if not e.with_loss:
            return
        targets, losses = e.scratch(FLOAT * rows), e.scratch(FLOAT * rows)
        e.gather(targets, e.positions(self.context), targets=True)
        scale = 1.0 / (self.context * e.loss_scale_denominator)
        operands = (losses, logits, logits, targets)
        e.call("cross_entropy", operands, (rows, self.vocab_size), scale)
        e.mean_loss(losses, rows)

    def backward_input(self, e: Emitter) -> None:
        """The forward has left the gradient of the loss where the logits were."""
        assert e.x is not None and e.dx is not None
        rows = self._rows(e)
        _, dlogits = self._buffers(e)
        dnorm = e.held("dnorm", rows * self.width)
        e.linear_backward_input(dnorm, dlogits, "weight", self._shape(e))
        self._norm.backward_input(e, e.dx, dnorm, e.x, rows, None)

    def backward_weight(self, e: Emitter) -> None:
        assert e.x is not None
        rows = self._rows(e)
        norm, dlogits = self._buffers(e)
        e.linear_backward_weight(dlogits, norm, "weight", self._shape(e))
        self._norm.backward_weight(e, e.held("dnorm", rows * self.width), e.x, rows)


@dataclass(frozen=True)
class Dense(Layer):
    """A linear layer with bias and, unless ``relu`` is False, ReLU; one row per sample.

    The model's first layer reads its rows from the data; with ``loss="mse"`` (the
    model's last layer) the output is compared with the targets.
    """

    n_in: int
    n_out: int
    relu: bool = True
    is_input: bool = False
    loss: str | None = None

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        weight = Parameter("weight", (self.n_out, self.n_in), (2.0 / self.n_in) ** 0.5)
        return (weight, Parameter("bias", (self.n_out,), 0.0, decay=False))

    @property
    def cost(self) -> LayerCost:
        return matmul_cost(1, self.n_in * self.n_out)

    @property
    def input_elements(self) -> int:
        return self.n_in

    @property
    def output_elements(self) -> int:
        return self.n_out

    def _shape(self, e: Emitter) -> tuple[int, int, int]:
        return (e.batch, self.n_in, self.n_out)

    def _x(self, e: Emitter) -> Ref:
        return e.x or e.saved("x", e.batch * self.n_in)

    def _linear_out(self, e: Emitter) -> Ref:
        return e.saved("linear", e.batch * self.n_out)

    def _dlinear(self, e: Emitter) -> Ref:
        """Gradient of the linear part's output: after ReLU, or the loss's own."""
        if self.loss:
            return e.saved("dlinear", e.batch * self.n_out)
        if self.relu:
            return e.held("dlinear", e.batch * self.n_out)
        assert e.dy is not None
        return e.dy

    def forward(self, e: Emitter) -> None:
        count = e.batch * self.n_out
        x, linear = self._x(e), self._linear_out(e)
        if self.is_input:
            e.gather(x, self.n_in, targets=False)
        if not self.relu and not self.loss and e.y:
            linear = e.y
        e.linear(linear, x, "weight", self._shape(e), bias="bias")
        if self.loss:
            e.logits = linear
            if e.with_loss:
                self._emit_loss(e, linear)
        elif self.relu:
            e.call("relu_forward", (e.y, linear), (count,))

    def _emit_loss(self, e: Emitter, linear: Ref) -> None:
        targets = e.scratch(FLOAT * e.batch * self.n_out)
        losses = e.scratch(FLOAT * e.batch)
        e.gather(targets, self.n_out, targets=True)
        scale = 1.0 / e.loss_scale_denominator
        operands = (losses, self._dlinear(e), linear, targets)
        e.call("mse", operands, (e.batch, self.n_out), scale)
        e.mean_loss(losses, e.batch)

    def backward_input(self, e: Emitter) -> None:
        dlinear = self._dlinear(e)
        if self.relu and not self.loss:
            operands = (dlinear, e.dy, self._linear_out(e))
            e.call("relu_backward", operands, (e.batch * self.n_out,))
        if e.dx is not None:
            e.linear_backward_input(e.dx, dlinear, "weight", self._shape(e))

    def backward_weight(self, e: Emitter) -> None:
        dlinear = self._dlinear(e)
        e.linear_backward_weight(
            dlinear, self._x(e), "weight", self._shape(e), bias="bias"
        )
