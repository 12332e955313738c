"""The command ``workbench``, started from a package that no other distribution has.

Another distribution on PyPI, named ``workbench``, installs a package and a command of
that name too. This one looks before it imports, so that a foreign package is named and
not run by mistake. Standard library only.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

#: How our ``workbench/__init__.py`` begins; nobody else's does.
OPENING = '"""Pipeline Workbench:'

#: What to do about it. Both own workbench/__init__.py, so the order matters.
CURE = (
    "Both cannot share an environment. Either make one for this project alone, or: "
    "pip uninstall workbench, then pip install --force-reinstall --no-deps "
    "pipeline-workbench (in a checkout: pip install -e .)."
)


class ForeignWorkbench(ImportError):
    """``import workbench`` would import another project's package, or half of two."""


def check_workbench() -> Path:
    """The folder of our ``workbench``, which is not imported.

    Raises ForeignWorkbench, which names the file in its place: another package earlier
    on the path, another distribution's ``__init__.py`` written over ours, or none left
    after that distribution was uninstalled.
    """
    spec = find_spec("workbench")
    if spec is None:
        raise ForeignWorkbench(
            "there is no package 'workbench': pip install --force-reinstall --no-deps "
            "pipeline-workbench (in a checkout: pip install -e .)"
        )
    if spec.origin is None:
        folder = next(iter(spec.submodule_search_locations or ["nowhere"]))
        raise ForeignWorkbench(
            f"'import workbench' finds the folder {folder} without its __init__.py; "
            f"uninstalling another package named workbench removes it. {CURE}"
        )
    origin = Path(spec.origin)
    if not _opens_like_ours(origin):
        ours = (origin.parent / "schedule" / "ir.py").is_file()
        how = (
            "another distribution of that name has written over Pipeline Workbench"
            if origin.name == "__init__.py" and ours
            else "another package of the same name, not Pipeline Workbench"
        )
        raise ForeignWorkbench(f"'import workbench' finds {origin}: {how}. {CURE}")
    return origin.parent


def _opens_like_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(len(OPENING)) == OPENING
    except (OSError, UnicodeDecodeError):
        return False


def main() -> int:
    """Entry point of the ``workbench`` command and of ``python -m
    pipeline_workbench``."""
    try:
        check_workbench()
    except ForeignWorkbench as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    command = sys.argv[1:2]
    if command == ["monitor"]:
        from .monitor import main as monitor

        return monitor(sys.argv[2])
    from .rank import launched_by
    from .rank import main as beside

    if command == ["rank"]:
        return beside(_rank)
    if command == ["run"] and launched_by():
        return beside(_command)
    return _command()


def _rank() -> int:
    from workbench.launcher.rank import main as rank

    return rank()


def _command() -> int:
    from workbench.cli import main as run

    return run()
