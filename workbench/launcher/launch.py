"""Where ranks run. ``launch`` takes a job and a place and gives a running ``Run``."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import RunFolder
from ..engine import Job, Run


def launch(
    job: Job,
    *,
    on: str = "threads",
    folder: str | Path | None = None,
    start: bool = True,
) -> Run:
    """Runs a job and returns at once with its handle.

    ``on="threads"``: the ranks are native threads of this process. ``folder`` is the
    run's own folder (default: a new one under ``runs/``). Raises ValueError for a place
    that there is not, and MemoryError when the job does not fit.
    """
    if on != "threads":
        raise ValueError(
            f"on={on!r}: this version runs ranks as native threads of this process "
            '(on="threads"); other places are not there yet'
        )
    run = Run(job, RunFolder.create(folder, name=job.name))
    return run.start() if start else run
