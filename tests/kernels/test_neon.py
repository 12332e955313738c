"""The NEON table, compiled for aarch64 and run under qemu, agrees with this machine's portable
one. Skipped where the cross-compiler or qemu-aarch64 is missing; says nothing about speed."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

SOURCES = Path(__file__).parents[2] / "cython_kernels/src/kernels"
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", f"-I{SOURCES}"]
TOOLS = ("aarch64-linux-gnu-gcc", "qemu-aarch64", "gcc")


def build(compiler: str, isas: tuple[str, ...], folder: Path) -> Path:
    """agree.c with the tables of these instruction sets."""
    folder.mkdir()
    have = [f"-DCK_HAVE_{isa.upper()}=1" for isa in isas]
    objects = []
    for isa in isas:
        for source in sorted(SOURCES.glob("*.c")):
            if source.name != "dispatch.c":
                target = folder / f"{isa}_{source.stem}.o"
                command = [
                    compiler,
                    *FLAGS,
                    f"-DCK_ISA={isa}",
                    "-c",
                    source,
                    "-o",
                    target,
                ]
                subprocess.run(command, check=True)
                objects.append(target)
    program = folder / "agree"
    own = [Path(__file__).with_name("agree.c"), SOURCES / "dispatch.c"]
    command = [compiler, *FLAGS, *have, "-static", *own, *objects, "-o", program]
    subprocess.run(command, check=True)
    return program


def run(isa: str, *command: object) -> Iterator[tuple[str, float]]:
    done = subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True
    )
    assert done.stderr == f"{isa}\n"
    for line in done.stdout.splitlines():
        name, value = line.split()
        yield name, float(value)


@pytest.mark.slow
def test_neon_agrees_with_the_portable_table(tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    neon = build("aarch64-linux-gnu-gcc", ("neon", "generic"), tmp_path / "neon")
    portable = build("gcc", ("generic",), tmp_path / "generic")
    found: dict[str, list[tuple[float, float]]] = {}
    ours, theirs = run("neon", "qemu-aarch64", neon), run("generic", portable)
    for (name, x), (same, y) in zip(ours, theirs, strict=True):
        assert name == same
        found.setdefault(name, []).append((x, y))
    for name, values in found.items():
        x, y = np.array(values).T
        limit = 0.0 if name == "sum" else 4e-6 * np.abs(y).max()
        assert np.abs(x - y).max() <= limit, name
