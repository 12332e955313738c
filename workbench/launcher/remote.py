"""A run whose ranks are processes elsewhere, seen from a notebook.

It has the face of ``Run``. A thread asks the collector what is new and keeps a copy; the
run goes on whether anybody asks or not.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cython_kernels import tables

from ..checkpoint import RunFolder, load_weights, weights_hash
from ..engine import Job, RunError
from ..engine.observed import OVER, Observed
from .keys import Keys, read_live
from .viewer import Viewer

#: How often the collector is asked what is new.
ASK_SECONDS = 0.06
#: A collector that does not answer for so long is lost.
LOST_SECONDS = 15.0
_WAIT_SECONDS = 0.05


class InFolder(Observed):
    """A run whose weights are in its folder, once it is over."""

    def weights(self) -> dict[str, np.ndarray]:
        """All weights by name, in layer order. Raises RuntimeError before the run is
        over."""
        path = self.folder / "weights.safetensors"
        if self.state not in OVER or not path.is_file():
            raise RuntimeError(
                f"run {self.id} is {self.state}: its weights are there when it has ended"
            )
        return load_weights(path)

    def weights_hash(self) -> str:
        """SHA-256 over every parameter's bytes in layer order; free of the layout."""
        return weights_hash(self.weights().values())

    def generate(
        self,
        prompt: str = "\n",
        num_tokens: int = 200,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> str:
        """As ``Run.generate``, once the run is over."""
        from ..engine.sample import generate

        saved = self.weights()
        layers = enumerate(self.job.model.layers)
        weights = [
            (number, parameter.name, saved[f"{layer.name}.{parameter.name}"])
            for number, layer in layers
            for parameter in layer.parameters
            if parameter.tied_to is None
        ]
        return generate(self.job, weights, prompt, num_tokens, temperature, seed)


class RemoteRun(InFolder):
    """A run elsewhere. Made by ``wb.launch(job, on=...)`` and ``wb.attach``."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        address: str,
        keys: Keys,
        monitor: subprocess.Popen[bytes] | None = None,
    ) -> None:
        super().__init__(job, folder)
        self._viewer = Viewer(address, keys)
        self._monitor = monitor
        self._cursor = self._skipped = 0
        self._over = threading.Event()
        self._last_answer = time.monotonic()
        self.ranks: list[dict[str, Any]] = []
        self._thread = threading.Thread(
            target=self._follow, name=f"attached-{self.id}", daemon=True
        )
        self._thread.start()

    # ---- following -------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            while not self._over.is_set():
                if not self._ask():
                    time.sleep(ASK_SECONDS)
        except Exception as error:  # told at wait()
            self._end("failed", error)
        finally:
            self._viewer.close()

    def _ask(self) -> bool:
        """Asks once; True when there is more to be had at once."""
        asked = {"what": "since", "cursor": self._cursor, "losses": self._done}
        try:
            body, arrays = self._viewer.ask(asked, seconds=1.0)
        except TimeoutError:
            self._look_for_monitor()
            return True
        self._last_answer = time.monotonic()
        self.ranks, self._about = body["ranks"], body["about"]
        self.evaluations = {int(k): v for k, v in body["evaluations"].items()}
        # The collector had dropped them before they were asked for.
        self._skipped += max(0, body["first"] - self._cursor)
        self._events.lost = body["lost"] + self._skipped
        self._events.append(arrays["events"])
        self._cursor = body["cursor"]
        self._take_losses(body["losses_from"], arrays["losses"], arrays["norms"])
        if not body["is_last"]:
            return True
        state = body["state"]
        if state in OVER:
            self._end(state, RunError(body["error"]) if body["error"] else None)
        elif state != self.state:
            if state == "running":
                self._marks.clear()
            self._set_state(state)
        return False

    def _look_for_monitor(self) -> None:
        """No answer came. The run may be over, and its folder tell how."""
        status = None if self._monitor is None else self._monitor.poll()
        ended = status is not None
        silent = time.monotonic() - self._last_answer
        if not ended and silent < LOST_SECONDS:
            return
        summary = read_summary(self.folder)
        if summary is not None:
            saved = SavedRun(self.folder)
            span = slice(self._done, saved._done)
            self._take_losses(self._done, saved._losses[span], saved._norms[span])
            self.evaluations = saved.evaluations
            self._end(saved.state, saved.error)
            return
        log = self.folder / "monitor.log"
        said = log.read_text(errors="replace").strip()[-2000:] if log.is_file() else ""
        self._end(
            "failed",
            RunError(
                f"the process that watches over run {self.id} "
                + (
                    f"{_how(status or 0)}; its ranks end, too. {said}".rstrip()
                    if ended
                    else f"has not answered for {silent:.0f} s"
                )
            ),
        )

    def _end(self, state: str, error: BaseException | None) -> None:
        self.error = error
        self._set_state(state)
        self._over.set()

    @property
    def title(self) -> str:
        """As a run's, and how well its hosts' clocks are known to agree."""
        residual = self._about.get("clock_residual_ns", 0)
        known = f", clocks within {residual / 1e3:.3g} us" if residual else ""
        return super().title + known

    # ---- control ---------------------------------------------------------------------

    def _do(self, command: str, until: Callable[[], bool], limit: float | None) -> None:
        if self.state in OVER:
            return
        try:
            body, _ = self._viewer.ask({"what": "do", "command": command})
        except TimeoutError:
            if self.state in OVER:
                return
            raise
        if "error" in body:
            raise ValueError(body["error"])
        end = None if limit is None else time.monotonic() + limit
        while not until() and (end is None or time.monotonic() < end):
            time.sleep(_WAIT_SECONDS)

    def pause(self, timeout: float | None = None) -> RemoteRun:
        """Holds the run at the end of the step under way; ``resume`` goes on."""
        self._do("pause", lambda: self.state in ("paused", *OVER), timeout)
        return self

    def resume(self) -> RemoteRun:
        """Goes on after a pause. Raises RuntimeError for a run that is over."""
        if self.state in OVER:
            raise RuntimeError(f"run {self.id} is {self.state}: there is nothing to do")
        self._do("resume", lambda: self.state in ("running", *OVER), 10.0)
        return self

    def stop(self, timeout: float | None = None) -> RemoteRun:
        """Ends the run at the end of its step; its folder is written."""
        self._do("stop", lambda: self.state in OVER, timeout)
        return self

    def checkpoint(self) -> RemoteRun:
        """Has a checkpoint written at the end of the step under way; training goes
        on."""
        self._do("checkpoint", lambda: True, None)
        return self

    def blame(self, text: str) -> None:
        """Tells the collector that the run has failed, and with what; for those who
        know of its ranks what it does not."""
        if self.state not in OVER:
            try:
                self._viewer.ask({"what": "blame", "text": text})
            except (TimeoutError, ValueError):  # it knows already
                return

    def abort(self, timeout: float | None = 10.0) -> RemoteRun:
        """Ends it in the middle of its step."""
        self._do("abort", lambda: self.state in OVER, timeout)
        return self

    def wait(self, timeout: float | None = None) -> RemoteRun:
        """As ``Run.wait``: an interrupt gives the prompt back at once, and the run
        stops at the end of its step."""
        limit = None if timeout is None else time.monotonic() + timeout
        try:
            while not self._over.wait(_WAIT_SECONDS) and self.state != "paused":
                if limit is not None and time.monotonic() >= limit:
                    return self
        except KeyboardInterrupt:
            self._do("stop", lambda: True, None)
            raise
        if self.error is not None:
            raise self.error
        return self

    def detach(self) -> None:
        """Looks no longer; the run goes on."""
        self._over.set()
        self._thread.join(5.0)


class SavedRun(InFolder):
    """A run that is over, as its folder tells it; it can be looked at, not started."""

    def __init__(self, folder: str | Path) -> None:
        """Raises ValueError for a folder that holds no run that has ended."""
        path = Path(folder).resolve()
        summary = read_summary(path)
        if summary is None or not (path / "job.toml").is_file():
            raise ValueError(
                f"{path} holds no run that has ended: job.toml and summary.json are "
                "wanted"
            )
        super().__init__(Job.from_toml(path / "job.toml"), RunFolder(path))
        self._read_losses(path / "losses.csv")
        self.evaluations = {
            int(step): loss for step, loss in summary["held_out_loss"].items()
        }
        self.error = RunError(summary["error"]) if summary["error"] else None
        self.state = summary["state"]
        self._clock = summary.get("clock")
        self._read_events(path / "events.npy")

    def _read_losses(self, path: Path) -> None:
        if not path.is_file() or len(path.read_text("utf-8").splitlines()) < 2:
            return
        columns = np.genfromtxt(path, delimiter=",", skip_header=1, ndmin=2)
        if columns.size:
            done = len(columns)
            self._losses[:done] = columns[:, 1:2]  # of the step; microbatches are gone
            self._norms[:done] = columns[:, 2]
            self._done = done

    def _read_events(self, path: Path) -> None:
        """Of the last steps; the folder keeps no more."""
        if not path.is_file():
            return
        events = np.load(path, allow_pickle=False)
        if events.dtype != tables.EVENT or events.ndim != 1:
            raise ValueError(f"{path} holds no events of a run")
        self._events.append(events)

    @property
    def losses(self) -> np.ndarray:
        """(steps done,) mean loss of each step."""
        return self._losses[: self._done, 0].copy()

    @property
    def source_label(self) -> str:
        return "assembled" if self._clock == "virtual" else "measured"

    def wait(self, timeout: float | None = None) -> SavedRun:
        """It is over: returns at once, or raises what the run failed with."""
        if self.error is not None:
            raise self.error
        return self


def _how(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with {status}"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a run that is over, or None."""
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "state" in found else None


def attach(run: str | Path) -> RemoteRun | SavedRun:
    """The run of that id under runs/, or of that folder: one that goes on, wherever it
    was launched from, or one that is over.

    Raises ValueError where there is no such run, and PermissionError when it is
    somebody else's.
    """
    folder = Path(run)
    if not folder.is_dir():
        folder = Path("runs") / run
    if not folder.is_dir():
        raise ValueError(
            f"there is no run {str(run)!r}: neither that folder nor {folder} is there"
        )
    folder = folder.resolve()
    try:
        live = read_live(folder)
    except FileNotFoundError:
        return SavedRun(folder)
    if read_summary(folder) is not None:
        return SavedRun(folder)
    viewer = Viewer(live["address"], live["keys"])
    try:
        body, _ = viewer.ask({"what": "job"})
    except TimeoutError as error:
        raise ValueError(
            f"run {folder.name} says that it is live, but its process {live['pid']} on "
            f"{live['host']} does not answer: {error}"
        ) from None
    finally:
        viewer.close()
    job = Job.from_toml(body["toml"])
    return RemoteRun(job, RunFolder(folder), live["address"], live["keys"])
