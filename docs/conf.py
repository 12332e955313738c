"""Sphinx: ``make docs``, or sphinx-build -W -b html docs docs/_build."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import workbench

project = "Pipeline Workbench"
author = "The Pipeline Workbench authors"
project_copyright = author
version = release = workbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_sphinx = False

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True

_TERM = re.compile(r"[\w`*\[\], ]{1,40}: ")


def _is_table(paragraph: list[str]) -> bool:
    """Whether a paragraph's lines must stay: indented, or a list of terms."""
    indents = {len(line) - len(line.lstrip()) for line in paragraph}
    return len(indents) > 1 or bool(_TERM.match(paragraph[0]))


def keep_tables(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """Docstrings are plain text: what is laid out in columns is shown as it stands."""
    paragraphs, current = [], []
    for line in [*lines, ""]:
        if line.strip():
            current.append(line)
        elif current:
            paragraphs.append(current)
            current = []
    shown: list[str] = []
    for paragraph in paragraphs:
        if _is_table(paragraph):
            plain = (line.replace("``", "") for line in paragraph)
            shown += ["::", "", *(f"    {line}" for line in plain), ""]
        else:
            shown += [*paragraph, ""]
    lines[:] = shown


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("autodoc-process-docstring", keep_tables)
    return {"parallel_read_safe": True}
