"""Says what this machine lacks to build the project, before anything is built.

Uses the standard library alone, in syntax that Python 3.6 reads too. With --packages it
prints only the names of Debian's packages, for apt-get.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

OLDEST = (3, 11)


def has_venv():
    """Debian keeps ensurepip, without which a venv has no pip, in a package apart."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return False
    return True


def has_headers():
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def has_compiler():
    """Whether a C program can be compiled and linked: gcc alone lacks libc's headers."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    command = os.environ.get("CC", "").split() or [found or "cc"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.c"
        source.write_text(
            '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n'
        )
        command += [str(source), "-o", str(Path(folder) / "try")]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False


def missing():
    """(what, Debian's package) for everything that is not there."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = []
    if not has_venv():
        found.append(("Python's venv with pip", f"{python}-venv"))
    if not has_headers():
        found.append(("Python's C headers (Python.h)", f"{python}-dev"))
    if not has_compiler():
        found.append(("a C compiler with libc's headers", "gcc libc6-dev"))
    return found


def complaint():
    """What is to be said, or nothing."""
    if sys.version_info < OLDEST:
        oldest, here = (".".join(map(str, v[:2])) for v in (OLDEST, sys.version_info))
        return (
            f"Python {oldest} or newer is needed; {sys.executable} is {here}. "
            f"Name another: make PYTHON=/path/to/python{oldest}"
        )
    lacking = missing()
    if not lacking:
        return ""
    lines = [f"This machine lacks, for {sys.executable}:"]
    lines += [f"  {what} (Debian, Ubuntu: {package})" for what, package in lacking]
    lines += ["To install all of it:"]
    lines += ["  sudo apt-get install " + " ".join(name for _, name in lacking)]
    return "\n".join(lines)


def main():
    if sys.argv[1:] == ["--packages"]:
        print(" ".join(package for _, package in missing()))
        return 0
    said = complaint()
    if said:
        print(said, file=sys.stderr)
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
