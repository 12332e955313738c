"""Matrix products of a GPT's linear layers against PyTorch, one thread, interleaved.

    python benchmarks/gemm.py [--rounds 15] [--isa avx2]

Every round times each contestant on each shape once, in turn, so that a slow moment of the
machine falls on all of them alike; reported are medians, the ratio's median and its quartiles
over rounds. PyTorch is optional. Printed GFLOP/s count 2 m n k per product.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from cython_kernels import _kernels

SHAPES = [  # (m, n, k): rows, outputs, inputs of a linear layer
    (512, 576, 192),
    (512, 192, 192),
    (512, 768, 192),
    (512, 192, 768),
    (512, 256, 192),
    (1024, 1152, 384),
    (1024, 384, 1536),
    (256, 2304, 768),
    (256, 768, 3072),
]
FORMS = ("forward", "input", "weight")


def operands(form: str, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of out = x w, dx = dout w^T, dw = x^T dout, as strided views of row-major x, w."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k)).astype(np.float32)
    w = rng.standard_normal((k, n)).astype(np.float32)
    dout = rng.standard_normal((m, n)).astype(np.float32)
    return {"forward": (x, w), "input": (dout, w.T), "weight": (x.T, dout)}[form]


def contestants(a: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], object]]:
    c = np.zeros((a.shape[0], b.shape[1]), np.float32)
    size = _kernels.gemm_workspace(*c.shape, a.shape[1])
    block = np.zeros(size + 64, np.uint8)
    work = block[-block.ctypes.data % 64 :][:size]
    entries: dict[str, Callable[[], object]] = {
        "ours": lambda: _kernels.gemm(c, a, b, work=work)
    }
    try:
        import torch
    except ImportError:
        return entries
    torch.set_num_threads(1)
    ta, tb, tc = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(c)
    entries["torch"] = lambda: torch.mm(ta, tb, out=tc)
    return entries


def seconds(run: Callable[[], object], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--isa")
    parser.add_argument("--form", choices=FORMS, action="append")
    options = parser.parse_args()
    if options.isa:
        _kernels.select_isa(options.isa)
    print(f"# isa {_kernels.isa()}, 1 thread, {options.rounds} rounds")
    print("form       m     n     k    ours GFLOP/s  torch GFLOP/s  torch/ours time (quartiles)")
    ratios = []
    for form in options.form or FORMS:
        for m, n, k in SHAPES:
            entries = contestants(*operands(form, m, n, k))
            repeats = max(1, int(0.01 / (2 * m * n * k / 50e9)))
            for run in entries.values():
                seconds(run, repeats)
            times = {name: [] for name in entries}
            for _ in range(options.rounds):
                for name, run in entries.items():
                    times[name].append(seconds(run, repeats))
            flops = 2e-9 * m * n * k
            line = f"{form:8} {m:5} {n:5} {k:5}  {flops / np.median(times['ours']):10.1f}"
            if "torch" in times:
                ratio = np.divide(times["torch"], times["ours"])
                low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
                ratios.append(middle)
                line += f"  {flops / np.median(times['torch']):14.1f}"
                line += f"  {middle:10.2f} ({low:.2f}-{high:.2f})"
            print(line)
    if ratios:
        print(f"geometric mean of torch/ours: {np.exp(np.mean(np.log(ratios))):.3f}")


if __name__ == "__main__":
    main()
