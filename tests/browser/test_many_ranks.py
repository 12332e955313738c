"""The notebook on processes in a real JupyterLab: launched, watched live, killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import outputs_of_all

pytest.importorskip("mpi4py", reason="the mpi extra is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.mpi]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "02_many_ranks.ipynb"


def test_processes_are_launched_watched_and_told_of(
    open_notebook: Callable[..., Any],
) -> None:
    page = open_notebook(NOTEBOOK)
    outputs = outputs_of_all(page)
    texts = [str(o.get("text", "")) for o in outputs]
    assert any("rank 1" in text and "signal 9" in text for text in texts)
    assert any("#SBATCH" in text for text in texts)
    # The live timeline has given way to a still one with the ranks' events.
    still = [
        str(o["data"]["text/html"]) for o in outputs if "text/html" in o.get("data", {})
    ]
    assert any("2 ranks" in html for html in still)
    if folder := os.environ.get("SCREENSHOTS"):
        page.set_viewport_size({"width": 1200, "height": 2600})
        page.screenshot(path=f"{folder}/many_ranks.png", full_page=True)
