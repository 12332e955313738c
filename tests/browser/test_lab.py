"""The first notebook in a real JupyterLab: run all, watch it move, see it freeze."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import run_all

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_workbench.ipynb"
LIVE = "[data-testid=wb-timeline]"
STEPS = 12


@pytest.fixture
def short_notebook(tmp_path: Path) -> Path:
    """The first notebook up to its ``wait`` cell, with fewer steps."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names = [cell["id"] for cell in notebook["cells"]]
    notebook["cells"] = notebook["cells"][: names.index("wait") + 1]
    text, found = re.subn(r"\bsteps=\d+", f"steps={STEPS}", json.dumps(notebook))
    assert found == 1
    path = tmp_path / NOTEBOOK.name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_timeline_moves_while_the_run_goes_on_and_then_freezes(
    open_notebook: Callable[..., Any], short_notebook: Path
) -> None:
    page = open_notebook(short_notebook)
    run_all(page)
    page.wait_for_selector(f"{LIVE}[data-state=running]", timeout=240_000)
    page.wait_for_function(
        f"() => +document.querySelector('{LIVE}').dataset.events > 0", timeout=120_000
    )
    canvas = page.locator(f"{LIVE} canvas")
    canvas.scroll_into_view_if_needed()
    # The canvas's own pixels change, more than once, while the run goes on.
    for _ in range(2):
        seen = canvas.evaluate("(canvas) => canvas.toDataURL()")
        page.wait_for_function(
            f"""(seen) => {{
              const box = document.querySelector('{LIVE}');
              return box.dataset.state === 'running'
                && box.querySelector('canvas').toDataURL() !== seen;
            }}""",
            arg=seen,
            timeout=120_000,
        )
    # At the end the widget gives way to HTML that needs no kernel.
    ended = f"finished, step {STEPS} of {STEPS}"
    frozen = page.locator(f".jp-OutputArea-output:has-text('{ended}')")
    frozen.wait_for(timeout=400_000)
    assert page.locator(LIVE).count() == 0
    assert frozen.locator("svg").count() == 1
