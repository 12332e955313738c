"""Builds a manylinux wheel and tries it in an environment without a compiler.

The machine's own compiler translates; ziglang (PyPI) links against the symbols of glibc
2.17, so that the wheel runs on older systems than the one that built it. The wheel goes
to wheelhouse/. The trial installs it into a fresh venv and trains a tiny job with a PATH
that holds nothing but that venv.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).parents[1]
#: The oldest glibc that the wheel asks for: manylinux2014.
GLIBC = "2.17"
SOURCES = (".c", ".h", ".pyx", ".pxd", ".pxi", "CMakeLists.txt")

TRIAL = """
import shutil
for name in ("cc", "gcc", "clang", "cmake", "ninja"):
    assert not shutil.which(name), f"{name} is on the PATH"
import workbench as wb
from cython_kernels import _kernels
assert "wide" not in _kernels.built_isas(), "a table for tests is in the wheel"
assert list(_kernels.available_isas()) == ISAS, (_kernels.available_isas(), ISAS)
model = wb.Model.preset("byte-gpt-tiny")
job = wb.Job(
    model=model,
    partition=wb.Partition.balanced(model, num_stages=2, by="flops"),
    schedule=wb.Schedule.make("1f1b", num_ranks=2, num_microbatches=4),
    data=wb.Data.text(),
    steps=5,
    evaluate=0,
)
run = wb.launch(job, folder="trial").wait(60)
assert run.state == "finished", run
print("trained", run.steps_done, "steps, loss", round(float(run.losses[-1]), 3))
"""


def linker() -> str:
    """CMake's rule for linking an extension: zig in place of the machine's linker, which
    knows the machine's own glibc only."""
    machine = platform.machine()
    zig = Path(ziglang.__file__).parent / "zig"
    flags = "-shared -s <CMAKE_SHARED_LIBRARY_C_FLAGS> <LINK_FLAGS>"
    # What the machine's compiler emits calls to comes from its own library: zig's has
    # the same names for asking the CPU what it supports, with other contents.
    command = ["gcc", "-print-libgcc-file-name"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    files = f"-o <TARGET> <OBJECTS> <LINK_LIBRARIES> {done.stdout.strip()}"
    return f"{zig} cc -target {machine}-linux-gnu.{GLIBC} {flags} {files}"


def build(out: Path) -> Path:
    """A wheel for every system whose glibc is not older than GLIBC."""
    python = [sys.executable, "-m"]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as raw:
        pip = [*python, "pip", "wheel", "-q", "--no-deps", "-w", raw, str(ROOT)]
        pip += ["-C", f"cmake.define.CMAKE_C_CREATE_SHARED_MODULE={linker()}"]
        pip += ["-C", "build-dir=build/manylinux-{wheel_tag}"]
        subprocess.run(pip, check=True)
        (wheel,) = Path(raw).glob("*.whl")
        repair = [*python, "auditwheel", "repair", "--plat"]
        repair += [f"manylinux_{GLIBC.replace('.', '_')}_{platform.machine()}"]
        repair += ["-w", str(out), str(wheel)]
        subprocess.run(repair, check=True, env={**os.environ, "PATH": tools})
    (repaired,) = out.glob("*.whl")
    return repaired


def check_contents(wheel: Path) -> None:
    """The wheel holds extensions and no sources."""
    names = zipfile.ZipFile(wheel).namelist()
    strays = [name for name in names if name.endswith(SOURCES)]
    if strays:
        raise SystemExit(f"{wheel.name} holds sources: {', '.join(strays)}")
    extensions = [name for name in names if name.endswith(".so")]
    if len(extensions) != 3:
        raise SystemExit(
            f"{wheel.name} holds {len(extensions)} extensions: {extensions}"
        )


def isas() -> list[str]:
    """The tables that this CPU runs by what the kernel says of it, best first."""
    if platform.machine() == "aarch64":
        return ["neon", "generic"]
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    v3 = {"avx2", "fma", "bmi1", "bmi2"} <= flags
    v4 = v3 and {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")} <= flags
    return ["avx512"] * v4 + ["avx2"] * v3 + ["generic"]


def trial(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        python = str(home / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)
        bare = {"PATH": str(home / "venv" / "bin"), "HOME": folder}
        code = f"ISAS = {isas()}\n{TRIAL}"
        subprocess.run([python, "-c", code], check=True, cwd=home, env=bare)
        command = [str(home / "venv" / "bin" / "workbench"), "doctor"]
        subprocess.run(command, check=True, cwd=home, env=bare)


def main() -> int:
    out = ROOT / "wheelhouse"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    wheel = build(out)
    check_contents(wheel)
    trial(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB, built and tried")
    return 0


if __name__ == "__main__":
    sys.exit(main())
