"""Compiles every C file for platforms that this machine is not, and prints a table.

aarch64 Linux with Debian's gcc-aarch64-linux-gnu, aarch64 macOS with the PyPI package
ziglang. Only compiled, never run: that is what the README's table says of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "cython_kernels" / "src"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
COMMON = ["-std=gnu11", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-c"]
TARGETS = {
    "aarch64 Linux, neon": (["aarch64-linux-gnu-gcc"], "neon"),
    "aarch64 Linux, generic": (["aarch64-linux-gnu-gcc"], "generic"),
    "aarch64 macOS, neon": (
        [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-macos"],
        "neon",
    ),
    "x86-64 Linux, avx512": (["gcc", "-march=x86-64-v4"], "avx512"),
}


def compile_all(compiler: list[str], isa: str, out: Path) -> list[str]:
    """Names of the files that failed, with the compiler's words."""
    failures = []
    folders = [f"-I{SOURCES / name}" for name in ("kernels", "runtime", "timeline")]
    for source in sorted(SOURCES.rglob("*.c")):
        command = [*compiler, *COMMON, *WARNINGS, *folders, f"-DCK_ISA={isa}"]
        command += [str(source), "-o", str(out / f"{source.stem}.o")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            failures.append(f"{source.name}:\n{done.stderr}")
    return failures


def main() -> int:
    status = 0
    count = len(list(SOURCES.rglob("*.c")))
    for name, (compiler, isa) in TARGETS.items():
        if shutil.which(compiler[0]) is None:
            print(f"{name:26} {compiler[0]} is not installed")
            status = 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            failures = compile_all(compiler, isa, Path(folder))
        print(f"{name:26} {count - len(failures)} of {count} files compiled")
        for failure in failures:
            print(failure)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
