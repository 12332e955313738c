"""The command ``workbench``, started from a package that no other distribution has.

Another distribution on PyPI installs a package named ``workbench`` too. This one looks
before it imports, so that a foreign package is named and not run by mistake.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


class ForeignWorkbench(ImportError):
    """``import workbench`` would import another project's package."""


def check_workbench() -> Path:
    """The folder of our ``workbench``. Raises ForeignWorkbench naming what is in its
    place."""
    spec = find_spec("workbench")
    if spec is None:
        raise ForeignWorkbench(
            "there is no package 'workbench': install pipeline-workbench again"
        )
    origin = spec.origin or next(iter(spec.submodule_search_locations or ["nowhere"]))
    folder = Path(origin).parent if spec.origin else Path(origin)
    if not (folder / "schedule" / "ir.py").is_file():
        raise ForeignWorkbench(
            f"'import workbench' finds {origin}, which is not Pipeline Workbench but another "
            "package of the same name. Uninstall it (pip uninstall workbench) and install "
            "pipeline-workbench again, or use an environment of its own."
        )
    return folder


def main() -> int:
    """Entry point of the ``workbench`` command."""
    try:
        check_workbench()
    except ForeignWorkbench as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    from workbench.cli import main as run

    return run()
