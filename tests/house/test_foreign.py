"""Another project's ``workbench`` is told apart, whichever way it got there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline_workbench

ROOT = Path(__file__).parents[2]
FOREIGN = "raise SystemExit('the foreign package ran')\n"


def package_before_ours(site: Path) -> Path:
    """Another package, earlier on the path."""
    init = site / "workbench" / "__init__.py"
    init.parent.mkdir()
    init.write_text(FOREIGN)
    return init


def module_before_ours(site: Path) -> Path:
    """A file workbench.py beside the notebook."""
    module = site / "workbench.py"
    module.write_text(FOREIGN)
    return module


def written_over_ours(site: Path) -> Path:
    """Both distributions installed into one folder, the foreign one last."""
    shutil.copytree(ROOT / "workbench", site / "workbench")
    init = site / "workbench" / "__init__.py"
    init.write_text(FOREIGN)
    return init


def none_left(site: Path) -> Path:
    """The foreign distribution uninstalled again: it took __init__.py along."""
    shutil.copytree(ROOT / "workbench", site / "workbench")
    (site / "workbench" / "__init__.py").unlink()
    return site / "workbench"


def not_text(site: Path) -> Path:
    """A package whose source cannot be read as text."""
    init = package_before_ours(site)
    init.write_bytes(b"\xff\xfe\x00")
    return init


WAYS = [package_before_ours, module_before_ours, written_over_ours, none_left, not_text]


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """This Python without its site-packages (an editable install's own finder would
    come first): ``site``, then the path of ours without any ``workbench``."""
    rest = [e for e in sys.path if e and not (Path(e) / "workbench").exists()]
    shutil.copytree(
        ROOT / "pipeline_workbench", site / "pipeline_workbench", dirs_exist_ok=True
    )
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *rest])},
        cwd=site,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_command_names_what_is_in_its_place(
    tmp_path: Path, way: Callable[[Path], Path]
) -> None:
    found = way(tmp_path)
    done = run(tmp_path, "-m", "pipeline_workbench", "doctor")
    assert done.returncode == 2
    assert str(found) in done.stderr
    assert "pip uninstall workbench" in done.stderr
    assert "Traceback" not in done.stderr
    assert "the foreign package ran" not in done.stderr + done.stdout


def test_none_at_all_is_said_too(tmp_path: Path) -> None:
    code = (
        "import sys; import pipeline_workbench as p; "
        "sys.path[:] = []; sys.path_importer_cache.clear(); sys.exit(p.main())"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 2
    assert "there is no package 'workbench'" in done.stderr


def test_a_folder_of_that_name_does_no_harm(tmp_path: Path) -> None:
    """A folder without __init__.py yields to a package later on the path."""
    (tmp_path / "workbench").mkdir()
    later = tmp_path / "later"
    later.mkdir()
    shutil.copytree(ROOT / "workbench", later / "workbench")
    code = (
        f"import sys; sys.path.append({str(later)!r}); import pipeline_workbench as p; "
        "print(p.check_workbench())"
    )
    done = run(tmp_path, "-c", code)
    assert done.stdout.strip() == str(later / "workbench"), done.stderr


def test_ours_is_known_by_its_opening_and_not_imported_to_look() -> None:
    text = (ROOT / "workbench" / "__init__.py").read_text(encoding="utf-8")
    assert text.startswith(pipeline_workbench.OPENING)
    code = (
        "import sys, pipeline_workbench; pipeline_workbench.check_workbench(); "
        "print('workbench' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
