"""Builds a manylinux wheel and tries it in an environment without a compiler.

The wheel goes to wheelhouse/. The trial installs it into a fresh venv and trains a tiny
job with a PATH that holds nothing but that venv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = (".c", ".h", ".pyx", ".pxd", ".pxi", "CMakeLists.txt")

TRIAL = """
import shutil
assert not shutil.which("cc") and not shutil.which("gcc"), "a compiler is on the PATH"
import workbench as wb
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


def build(out: Path) -> Path:
    """A wheel with the lowest manylinux tag that its symbols permit."""
    with tempfile.TemporaryDirectory() as raw:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            raw,
            str(ROOT),
        ]
        subprocess.run(pip, check=True)
        (wheel,) = Path(raw).glob("*.whl")
        repair = [
            sys.executable,
            "-m",
            "auditwheel",
            "repair",
            "-w",
            str(out),
            str(wheel),
        ]
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
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


def trial(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        python = str(home / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True)
        bare = {"PATH": str(home / "venv" / "bin"), "HOME": folder}
        subprocess.run([python, "-c", TRIAL], check=True, cwd=home, env=bare)


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
