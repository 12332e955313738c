"""Builds the native extensions under ASan and UBSan and runs the tests that reach C.

A report of either ends the tests with an error. The build lies in build/sanitize,
beside links to the Python sources, and is used from an environment in which the project
is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "sanitize"
BUILD = ["cython>=3.1", "cython-cmake>=0.2", "cmake", "ninja"]
NEEDS = [*BUILD, "numpy", "safetensors", "tomli-w", "tqdm", "pytest", "hypothesis"]
NEEDS += ["plotly>=6.1,<8", "ipywidgets", "anywidget", "pyzmq>=25"]
TESTS = ["tests/kernels", "tests/timeline", "tests/engine", "tests/simulator"]


def build(python: str) -> None:
    """Builds with the tools of that Python's environment: a bare machine lacks them."""
    objects = SITE / "cmake"
    tools = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": tools}
    generate = ["cmake", "-S", str(ROOT / "cython_kernels"), "-B", str(objects)]
    generate += ["-G", "Ninja", f"-DPython_EXECUTABLE={python}", "-DCK_SANITIZE=ON"]
    # The 16-lane code of AVX-512 too, in AVX2's registers where there is no AVX-512.
    generate += ["-DCK_WIDE=ON"]
    subprocess.run(generate, check=True, stdout=subprocess.DEVNULL, env=env)
    compile_it = ["cmake", "--build", str(objects), "-j2"]
    subprocess.run(compile_it, check=True, stdout=subprocess.DEVNULL, env=env)
    install = ["cmake", "--install", str(objects), "--prefix", str(SITE / "site")]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=env)
    package = SITE / "site" / "cython_kernels"
    for source in (ROOT / "cython_kernels").glob("*.py*"):
        link = package / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(source)
    for name in ("workbench", "pipeline_workbench"):
        link = SITE / "site" / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)


def environment() -> str:
    """The Python of an environment that has what the tests need, but not the
    project."""
    home = SITE / "venv"
    python = str(home / "bin" / "python")
    if not Path(python).exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *NEEDS], check=True)
    return python


def main() -> int:
    python = environment()
    build(python)
    asan = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    options = {
        "LD_PRELOAD": asan,
        # Python itself keeps memory until it ends; leaks are looked for elsewhere.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(SITE / "site"),
        # The checkout's own folder would come first on the path otherwise.
        "PYTHONSAFEPATH": "1",
    }
    tests = [*TESTS, "-q", "-p", "no:cacheprovider", *sys.argv[1:]]
    done = subprocess.run(
        [python, "-m", "pytest", *tests], cwd=ROOT, env={**os.environ, **options}
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
