"""A queue's table, kept up to date in a notebook."""

from __future__ import annotations

import threading
import time

from ..launcher.jobs import OVER, Queue

HERTZ = 2


def watch(queue: Queue) -> None:
    """Shows the table under the cell; a thread updates it until all jobs are over.
    Outside a notebook the table is printed once."""
    from IPython import get_ipython
    from IPython.display import HTML, display

    if getattr(get_ipython(), "kernel", None) is None:
        print(queue)
        return
    handle = display(HTML(queue._repr_html_()), display_id=True)

    def follow() -> None:
        shown = ""
        while True:
            over = all(job.state in OVER for job in queue.jobs())
            table = queue._repr_html_()
            if table != shown:
                handle.update(HTML(table))
                shown = table
            if over:
                return
            time.sleep(1 / HERTZ)

    name = f"watch-{queue.folder.name}"
    threading.Thread(target=follow, name=name, daemon=True).start()
