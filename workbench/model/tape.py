"""Tapes: what a stage does, as flat lists of kernel calls over named memory.

A layer emits calls through an ``Emitter``, which hands out memory by how long it must
live; ``emit_stage`` strings the layers of one stage together. Nothing is allocated and
nothing is run here: the memory room adds the sizes up, the engine binds the calls to an
arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cython_kernels import _kernels

if TYPE_CHECKING:
    from .layers import Layer, Parameter

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
FLOAT = 4


class Ref(NamedTuple):
    """A place in one of the regions of ``cython_kernels.tables.REGIONS``; offset in
    bytes."""

    region: str
    offset: int

    def at(self, elements: int) -> Ref:
        """The place so many 4-byte elements further on."""
        return Ref(self.region, self.offset + FLOAT * elements)


class Call(NamedTuple):
    """One kernel call: operands, sizes and scalars in the order of ``kernels.h``."""

    op: str
    pointers: tuple[Ref | None, ...]
    sizes: tuple[int, ...]
    scalars: tuple[float, ...] = ()


class Slot(NamedTuple):
    """Where one parameter lies in its stage's parameter (and gradient) memory."""

    layer: int
    name: str
    shape: tuple[int, ...]
    offset: int  # bytes
    decay: bool
    tied_to: str | None = None

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)


class SliceTapes(NamedTuple):
    """The tapes of F, I and W on one slice of the sequences; there is one slice, the
    whole, unless the schedule cuts them."""

    forward: tuple[Call, ...]
    backward_input: tuple[Call, ...]
    backward_weight: tuple[Call, ...]


@dataclass(frozen=True)
class StageTapes:
    """The tapes of one stage and the memory they refer to, all sizes in bytes; input
    and output are what one message carries, of one slice."""

    slices: tuple[SliceTapes, ...]
    parameters: tuple[Slot, ...]
    constants: tuple[tuple[int, np.ndarray], ...]
    param_bytes: int
    constant_bytes: int
    saved_bytes: int
    held_bytes: int
    scratch_bytes: int
    input_bytes: int
    output_bytes: int
    logits: Ref | None


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Bump:
    """Hands out aligned offsets one after another."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> int:
        offset = self.size
        self.size += aligned(size)
        return offset


class Emitter:
    """What a layer sees while it emits its calls.

    ``x``, ``y`` are the layer's input and output, ``dy``, ``dx`` their gradients (None
    where there is none: no input before the first layer, no gradient to it). ``saved``
    memory lives from F to W, ``held`` from I to W, ``scratch`` within one tape. Where
    sequences are cut, the calls are for ``slice`` of ``num_slices``, and memory is its
    own unless it is asked for as ``of_sequence``.
    """

    def __init__(
        self,
        batch: int,
        num_microbatches: int,
        threads: int,
        with_loss: bool,
        num_slices: int = 1,
    ) -> None:
        self.batch = batch
        self.num_slices = num_slices
        self.slice = 0
        self.num_microbatches = num_microbatches
        self.threads = threads
        self.with_loss = with_loss
        self.calls: list[Call] = []
        self.layer = 0
        self.x: Ref | None = None
        self.y: Ref | None = None
        self.dy: Ref | None = None
        self.dx: Ref | None = None
        self.logits: Ref | None = None
        self._named: dict[tuple[str, int, str, int], Ref] = {}
        self._memory = {r: _Bump() for r in ("PARAM", "CONSTANT", "SAVED", "HELD")}
        self._scratch = _Bump()
        self._scratch_peak = 0
        self._constants: list[tuple[int, np.ndarray]] = []
        self._slots: list[Slot] = []

    # ---- memory ----------------------------------------------------------------------

    def positions(self, context: int) -> int:
        """Positions of each sequence that this slice has."""
        return context // self.num_slices

    def _name(self, region: str, name: str, size: int, part: int = -1) -> Ref:
        key = (region, self.layer, name, part)
        if key not in self._named:
            self._named[key] = Ref(region, self._memory[region].take(size))
        return self._named[key]

    def add_parameter(self, p: Parameter) -> None:
        ref = self._name("PARAM", p.name, FLOAT * p.size)
        slot = Slot(self.layer, p.name, p.shape, ref.offset, p.decay, p.tied_to)
        self._slots.append(slot)

    def param(self, name: str) -> Ref:
        return self._named["PARAM", self.layer, name, -1]

    def grad(self, name: str) -> Ref:
        return Ref("GRAD", self.param(name).offset)

    def saved(self, name: str, count: int) -> Ref:
        """``count`` 4-byte elements from F to W."""
        return self._name("SAVED", name, FLOAT * count, self.slice)

    def held(self, name: str, count: int) -> Ref:
        """``count`` 4-byte elements from I to W."""
        return self._name("HELD", name, FLOAT * count, self.slice)

    def of_sequence(self, region: str, name: str, count: int) -> tuple[Ref, Ref]:
        """Memory that all slices see, ``count`` elements of each, the earliest first,
        in "SAVED" or "HELD": where it begins, and where this slice's part does."""
        first = self._name(region, name, FLOAT * count * self.num_slices)
        return first, first.at(self.slice * count)

    def constant(self, name: str, values: np.ndarray) -> Ref:
        known = ("CONSTANT", self.layer, name, -1) in self._named
        ref = self._name("CONSTANT", name, values.nbytes)
        if not known:
            self._constants.append((ref.offset, values))
        return ref

    def scratch(self, size: int) -> Ref:
        """``size`` bytes that are free again when the layer's part of the tape ends."""
        ref = Ref("SCRATCH", self._scratch.take(size))
        self._scratch_peak = max(self._scratch_peak, self._scratch.size)
        return ref

    def begin(self, layer: int) -> None:
        """The calls that follow belong to this layer."""
        self.layer = layer
        self._scratch = _Bump()

    # ---- calls -----------------------------------------------------------------------

    def call(
        self,
        op: str,
        pointers: Sequence[Ref | None],
        sizes: Sequence[int],
        *scalars: float,
    ) -> None:
        self.calls.append(Call(op, tuple(pointers), tuple(sizes), scalars))

    def take_calls(self) -> tuple[Call, ...]:
        calls, self.calls = tuple(self.calls), []
        return calls

    def gemm(
        self,
        c: Ref,
        a: Ref,
        a_strides: tuple[int, int],
        b: Ref,
        b_strides: tuple[int, int],
        shape: tuple[int, int, int],
        bias: Ref | None = None,
        residual: Ref | None = None,
        accumulate: bool = False,
    ) -> None:
        """c (m, n) = a (m, k) b (k, n), with element strides; see ``gemm`` in
        kernels.h."""
        m, n, k = shape
        work = self.scratch(self.threads * _kernels.gemm_workspace(m, n, k))
        sizes = (n, *a_strides, *b_strides, m, n, k, int(accumulate))
        self.call("gemm", (c, a, b, bias, residual, work), sizes)

    def linear(
        self,
        out: Ref,
        x: Ref,
        weight: str,
        shape: tuple[int, int, int],
        bias: str | None = None,
        residual: Ref | None = None,
    ) -> None:
        """out (rows, n_out) = x (rows, n_in) weight^T + bias + residual.

        shape: (rows, n_in, n_out); the weight is stored (n_out, n_in), as PyTorch's
        Linear.
        """
        rows, n_in, n_out = shape
        offset = self.param(bias) if bias else None
        w = self.param(weight)
        self.gemm(
            out, x, (n_in, 1), w, (1, n_in), (rows, n_out, n_in), offset, residual
        )

    def linear_backward_input(
        self,
        dx: Ref,
        dout: Ref,
        weight: str,
        shape: tuple[int, int, int],
        residual: Ref | None = None,
    ) -> None:
        rows, n_in, n_out = shape
        w = self.param(weight)
        self.gemm(
            dx, dout, (n_out, 1), w, (n_in, 1), (rows, n_in, n_out), None, residual
        )

    def linear_backward_weight(
        self,
        dout: Ref,
        x: Ref,
        weight: str,
        shape: tuple[int, int, int],
        bias: str | None = None,
    ) -> None:
        rows, n_in, n_out = shape
        dw = self.grad(weight)
        self.gemm(
            dw, dout, (1, n_out), x, (n_in, 1), (n_out, n_in, rows), accumulate=True
        )
        if bias:
            self.call("bias_backward", (self.grad(bias), dout), (rows, n_out))

    def gather(self, out: Ref, count: int, targets: bool) -> None:
        """Fetches this microbatch's samples: ``count`` elements each, 4 bytes an
        element, from where the slice begins."""
        sizes = (self.batch, count, int(targets), self.slice * count)
        self.call("gather", (out,), sizes)

    def mean_loss(self, losses: Ref, rows: int) -> None:
        """The microbatch's mean loss, or this slice's share of it."""
        self.call("mean_loss", (losses,), (rows, self.num_slices, self.slice))

    @property
    def loss_scale_denominator(self) -> int:
        """Samples of a step: the loss is the mean over all of them."""
        return self.batch * self.num_microbatches


def emit_stage(
    layers: Sequence[tuple[int, Layer]],
    batch: int,
    num_microbatches: int,
    threads: int = 1,
    is_first: bool = True,
    is_last: bool = True,
    with_loss: bool = True,
    num_slices: int = 1,
) -> StageTapes:
    """The tapes of a stage that holds ``layers``, given with their index in the model.

    The order of calls inside a layer and the memory they name do not depend on which
    other layers share the stage; that is half of why weights do not depend on the
    split.
    """
    e = Emitter(batch, num_microbatches, threads, with_loss, num_slices)
    for index, layer in layers:
        e.begin(index)
        for p in layer.parameters:
            e.add_parameter(p)

    def connect(position: int) -> None:
        """Sets x, y, dy, dx of the layer at this position of the stage."""
        index, layer = layers[position]
        last = position == len(layers) - 1
        e.begin(index)
        e.x = None if is_first else Ref("INPUT", 0)
        e.dx = None if is_first else Ref("DINPUT", 0)
        if position > 0:
            before, previous = layers[position - 1]
            e.layer = before
            elements = batch * previous.output_elements // num_slices
            e.x, e.dx = e.saved("y", elements), e.held("dy", elements)
            e.layer = index
        elements = batch * layer.output_elements // num_slices
        e.y = e.dy = None
        if not last:
            e.y, e.dy = e.saved("y", elements), e.held("dy", elements)
        elif not is_last:
            e.y, e.dy = Ref("OUTPUT", 0), Ref("DOUTPUT", 0)

    def tapes() -> SliceTapes:
        for position, (_, layer) in enumerate(layers):
            connect(position)
            layer.forward(e)
        forward = e.take_calls()
        for position in reversed(range(len(layers))):
            connect(position)
            layers[position][1].backward_input(e)
        backward_input = e.take_calls()
        for position in reversed(range(len(layers))):
            connect(position)
            layers[position][1].backward_weight(e)
        return SliceTapes(forward, backward_input, e.take_calls())

    slices = []
    for e.slice in range(num_slices):
        slices.append(tapes())
    first, last = layers[0][1], layers[-1][1]
    message = FLOAT * batch
    return StageTapes(
        slices=tuple(slices),
        parameters=tuple(e._slots),
        constants=tuple(e._constants),
        param_bytes=e._memory["PARAM"].size,
        constant_bytes=e._memory["CONSTANT"].size,
        saved_bytes=e._memory["SAVED"].size,
        held_bytes=e._memory["HELD"].size,
        scratch_bytes=e._scratch_peak,
        input_bytes=0
        if is_first
        else aligned(message * first.input_elements // num_slices),
        output_bytes=0
        if is_last
        else aligned(message * last.output_elements // num_slices),
        logits=e.logits,
    )
