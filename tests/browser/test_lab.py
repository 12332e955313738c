"""The first notebook in a real JupyterLab: run all, watch it move, see it freeze."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import run_all

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_workbench.ipynb"
LIVE = "[data-testid=wb-timeline]"


@pytest.fixture
def short_notebook(tmp_path: Path) -> Path:
    """The first notebook up to its ``wait`` cell, which would block what comes after."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names = [cell["id"] for cell in notebook["cells"]]
    notebook["cells"] = notebook["cells"][: names.index("wait") + 1]
    for cell in notebook["cells"]:
        cell["source"] = [
            line.replace("steps=40", "steps=12") for line in cell["source"]
        ]
    path = tmp_path / NOTEBOOK.name
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def test_the_timeline_moves_while_the_run_goes_on_and_then_freezes(
    open_notebook: Callable[..., Any], short_notebook: Path
) -> None:
    page = open_notebook(short_notebook)
    run_all(page)
    page.wait_for_selector(f"{LIVE}[data-state=running]", timeout=240_000)
    page.wait_for_function(
        f"() => +document.querySelector('{LIVE}').dataset.events > 0"
    )
    canvas = page.locator(f"{LIVE} canvas")
    canvas.scroll_into_view_if_needed()
    first = canvas.screenshot()
    count = page.locator(LIVE).get_attribute("data-events")
    page.wait_for_function(
        f"() => +document.querySelector('{LIVE}').dataset.events > {count}",
        timeout=120_000,
    )
    page.wait_for_timeout(300)
    assert page.locator(LIVE).get_attribute("data-state") == "running"
    assert canvas.screenshot() != first
    # At the end the widget gives way to HTML that needs no kernel.
    frozen = page.locator(".jp-OutputArea-output:has-text('finished, step 12 of 12')")
    frozen.wait_for(timeout=400_000)
    assert page.locator(LIVE).count() == 0
    assert frozen.locator("svg").count() == 1
