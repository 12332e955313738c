"""The notebook on schedules in a real JupyterLab: every cell runs, every figure shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import outputs_of_all

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_schedules.ipynb"


def test_schedules_are_typed_drawn_compared_and_trained(
    open_notebook: Callable[..., Any],
) -> None:
    page = open_notebook(NOTEBOOK)
    outputs = outputs_of_all(page)
    figures = [
        o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) == 3
    assert any("needs 1I1" in o.get("text", "") for o in outputs)
    # Figures are drawn when they are scrolled to.
    page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.scrollToItem(10, 'center')"
    )
    page.wait_for_selector(".js-plotly-plot .barlayer, .js-plotly-plot .scatterlayer")
