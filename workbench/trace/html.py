"""A trace as a self-contained page: data, renderer and summary in one file, no network.

Also the one place that reads the canvas renderer, which the live widget shares. Names
are escaped, and the page's own policy lets it load nothing.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from .encode import encode, view_options
from .trace import COLUMNS, Trace

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 1rem; color: #222; background: #fff; }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #111; }} }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.1rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: 2px 10px; text-align: right; }}
tbody tr {{ border-top: 1px solid #8884; }} #report {{ overflow-x: auto; }}
</style></head><body>
<h1>{title}</h1>
<div id="timeline"><noscript>The timeline needs JavaScript.</noscript></div>
<h2>Where the time goes</h2>
<div id="report">{report}</div>
<script type="module">
{script}
showPage(document.getElementById("timeline"), {options}, "{data}", {count});
</script></body></html>
"""


#: Joined into one module, in this order: a page from a file may not import others.
SCRIPTS = ("timeline_events.js", "timeline_draw.js", "timeline.js")
_IMPORT = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)


@cache
def renderer() -> str:
    """The source of the canvas renderer: one ES module that imports nothing."""
    folder = files(__package__)
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS)
    return "\n".join(_IMPORT.sub("", text) for text in texts)


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def write_timeline(trace: Trace, path: str | Path, title: str | None = None) -> None:
    """Writes the page. Names are escaped. Raises OSError when the path cannot be
    written."""
    title = title or f"{trace.metadata.get('schedule', 'Pipeline')}, {trace.source}"
    report = trace.bubbles()
    options = view_options(
        ranks=trace.num_ranks,
        title=title,
        source=trace.source,
        unit=trace.unit,
        kinds=set(trace.kind.tolist()),
    )
    told = f"makespan {trace.makespan:.6g} {trace.unit}, {len(trace)} events"
    columns = {name: getattr(trace, name) for name in COLUMNS}
    page = _PAGE.format(
        title=escape(title),
        report=report._repr_html_(),
        script=renderer(),
        options=_json({**options, "text": told}),
        data=base64.b64encode(encode(columns, trace.tick)).decode("ascii"),
        count=len(trace),
    )
    Path(path).write_text(page, encoding="utf-8")
