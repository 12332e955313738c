"""The run's folder: what a run leaves behind, written when it ends, however it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint import RunFolder, weights_hash

if TYPE_CHECKING:
    from .observed import Observed

#: Arrays by name, in layer order.
Weights = Mapping[str, np.ndarray]

#: Steps that the folder's trace and timeline hold: the last ones.
TRACE_STEPS = 50


def losses_csv(run: Observed) -> str:
    """step, loss, gradient norm, learning rate; one row per step, floats exact
    (repr)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "loss", "gradient_norm", "learning_rate"])
    columns = (run.losses, run.gradient_norms, run.learning_rates)
    for step, row in enumerate(zip(*columns, strict=True)):
        writer.writerow([step, *(repr(float(value)) for value in row)])
    return text.getvalue()


def summary(run: Observed, weights: Weights, state: str) -> dict[str, object]:
    return {
        "id": run.id,
        "state": state,
        "steps_done": run.steps_done,
        "steps": run.job.steps,
        "held_out_loss": {str(step): loss for step, loss in run.evaluations.items()},
        "weights_sha256": weights_hash(weights.values()),
        "clock": run.job.chosen_clock,
        "threads_per_rank": run.job.chosen_threads,
        "events_dropped": run.events_dropped,
        "error": None if run.error is None else str(run.error),
        "checkpoint_error": run.checkpoint_error,
    }


def write_progress(run: Observed, folder: RunFolder) -> None:
    """progress.json: what a queue or another process may know of a run that goes on."""
    folder.write_text("progress.json", json.dumps(run.progress()) + "\n")


def write(run: Observed, weights: Weights, folder: RunFolder, state: str) -> None:
    """Writes job.toml, losses.csv, summary.json, weights.safetensors, and, once there
    are events, trace.json (Perfetto) and timeline.html. Raises OSError naming the path.
    """
    folder.write_text("job.toml", run.job.to_toml())
    folder.write_text("losses.csv", losses_csv(run))
    folder.write_text(
        "summary.json", json.dumps(summary(run, weights, state), indent=2) + "\n"
    )
    metadata = {
        "model": json.dumps(dict(run.job.model.config)),
        "step": str(run.steps_done),
        "seed": str(run.job.seed),
    }
    folder.save_weights("weights.safetensors", weights, metadata)
    trace = run.recent_trace(TRACE_STEPS)
    if len(trace):
        events = run.recent_events(TRACE_STEPS)
        folder.write_with(
            "events.npy", lambda path: np.save(path, events, allow_pickle=False)
        )
        folder.write_with("trace.json", trace.to_perfetto)
        folder.write_with("timeline.html", trace.to_html)
