"""Matrix products and attention against PyTorch, one thread, in interleaved pairs.

    python benchmarks/gemm.py [--quick] [--isa avx2] [--only gemm,attention]

The three products of a linear layer with weight (outputs, inputs), and causal attention
forward and backward. GFLOP/s are medians and count 2 m n k per product (half of that
in causal attention, four products and a recomputed one in its backward); the ratio is
PyTorch's time over ours, pair by pair. Without PyTorch only our own figures are told.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator

import measure
import numpy as np

from cython_kernels import _kernels

LINEAR = [  # (rows, inputs, outputs)
    (512, 192, 576),
    (512, 192, 192),
    (512, 192, 768),
    (512, 768, 192),
    (512, 192, 256),
    (1024, 384, 1152),
    (1024, 1536, 384),
    (256, 768, 2304),
    (256, 3072, 768),
]
ATTENTION = [  # (batch, context, heads, head_dim)
    (4, 128, 4, 48),
    (2, 256, 6, 64),
    (1, 1024, 6, 64),
    (1, 4096, 2, 64),
]
Run = Callable[[], object]
Contest = tuple[str, float, Run, Run | None]  # name, flops, ours, PyTorch's


def torch_or_none():  # type: ignore[no-untyped-def]
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    return torch


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def aligned(size: int) -> np.ndarray:
    block = np.zeros(size + 64, np.uint8)
    return block[-block.ctypes.data % 64 :][:size]


def product(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[Run, Run | None]:
    work = aligned(_kernels.gemm_workspace(*c.shape, a.shape[1]))
    torch = torch_or_none()
    if torch is None:
        return lambda: _kernels.gemm(c, a, b, work=work), None
    ta, tb, tc = (torch.from_numpy(x) for x in (a, b, np.empty_like(c)))
    return (
        lambda: _kernels.gemm(c, a, b, work=work),
        lambda: torch.mm(ta, tb, out=tc),
    )


def linear() -> Iterator[Contest]:
    for rows, inputs, outputs in LINEAR:
        x, w, dout = (
            random(rows, inputs),
            random(outputs, inputs),
            random(rows, outputs),
        )
        flops = 2.0 * rows * inputs * outputs
        for form, a, b in (
            ("forward", x, w.T),
            ("input gradient", dout, w),
            ("weight gradient", dout.T, x),
        ):
            c = np.zeros((a.shape[0], b.shape[1]), np.float32)
            name = f"linear {rows} x {inputs} -> {outputs}, {form}"
            yield name, flops, *product(c, a, b)


def torch_attention(
    qkv: np.ndarray, batch: int, context: int, heads: int
) -> tuple[Run | None, Run | None]:
    """PyTorch's forward and backward on the same numbers, in its own layout."""
    torch = torch_or_none()
    if torch is None:
        return None, None
    packed = torch.from_numpy(qkv).reshape(batch, context, 3, heads, -1)
    q, k, v = (x.contiguous() for x in packed.permute(2, 0, 3, 1, 4))
    leaves = tuple(x.clone().requires_grad_() for x in (q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    result = sdpa(*leaves, is_causal=True)
    dout = torch.ones_like(result)
    return (
        lambda: sdpa(q, k, v, is_causal=True),
        lambda: torch.autograd.grad(result, leaves, dout, retain_graph=True),
    )


def attention() -> Iterator[Contest]:
    for batch, context, heads, head_dim in ATTENTION:
        rows, width = batch * context, heads * head_dim
        qkv, dout = random(rows, 3 * width), random(rows, width)
        out, lse = np.empty_like(dout), random(batch, heads, context)
        dqkv, scale = np.empty_like(qkv), head_dim**-0.5
        work = aligned(_kernels.attention_workspace(context, 0, head_dim))

        def forward(o=out, e=lse, x=qkv, s=scale, w=work) -> None:
            _kernels.attention_forward(o, e, x, s, work=w)

        def backward(g=dqkv, d=dout, o=out, e=lse, x=qkv, s=scale, w=work) -> None:
            _kernels.attention_backward(g, d, o, e, x, s, work=w)

        forward()
        theirs = torch_attention(qkv, batch, context, heads)
        name = f"attention {batch} x {context}, {heads} heads of {head_dim}"
        flops = 2.0 * batch * heads * context**2 * head_dim
        yield f"{name}, forward", flops, forward, theirs[0]
        yield f"{name}, backward", 2.5 * flops, backward, theirs[1]


def timed(run: Run, repeats: int) -> Callable[[], float]:
    def seconds() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - begin) / repeats

    return seconds


PARTS = {"gemm": linear, "attention": attention}


def rows(quick: bool = False, only: str = "gemm,attention") -> list[measure.Row]:
    """One row per contest and the geometric mean of each part's ratios."""
    found: list[measure.Row] = []
    for part in only.split(","):
        medians: list[float] = []
        for name, flops, ours, theirs in PARTS[part]():
            repeats = max(1, int(3e-3 / (flops / 60e9)))
            first = timed(ours, repeats)
            first()
            second = timed(theirs, repeats) if theirs else first
            second()
            mine, peer = measure.pairs(first, second, 7 if quick else 25)
            rate = flops / statistics.median(mine) / 1e9
            value = f"{rate:.1f} GFLOP/s"
            if theirs:
                spread = measure.ratios(peer, mine)
                medians.append(spread.median)
                value += f"; PyTorch's time / ours {spread.text('.2f')}"
            found.append(measure.Row(name, value, "same process, 1 thread"))
        if medians:
            mean = math.exp(statistics.fmean(math.log(x) for x in medians))
            value = f"PyTorch's time / ours {mean:.3f}"
            found.append(measure.Row(f"{part}: geometric mean", value, ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs; more spread")
    parser.add_argument("--isa", help="one of " + ", ".join(_kernels.available_isas()))
    parser.add_argument("--only", default="gemm,attention", help="which, with commas")
    options = parser.parse_args()
    if options.isa:
        _kernels.select_isa(options.isa)
    print(f"instruction set {_kernels.isa()}")
    print("\n".join(measure.machine()))
    print(measure.table(rows(options.quick, options.only)))


if __name__ == "__main__":
    main()
