"""Run: the handle of a launched job.

A driver thread starts the C engine, reads its events at its own pace and writes the
run's folder at the end; the notebook's own thread stays free. The engine never waits
for any of this, and nothing here can reach into a step.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from cython_kernels import _runtime, tables

from ..checkpoint import CheckpointState, RunFolder, load_weights, weights_hash
from ..model import initial_weights
from . import output, requests, state
from .build import build
from .built import Built
from .errors import explain
from .events import EventReader
from .job import Job
from .observed import Observed
from .saver import Saver

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 1.0


class Run(Observed):
    """A job being run. Made by ``wb.launch``.

    ``state`` is one of "starting", "running", "paused", "stopped", "finished",
    "failed".
    """

    def __init__(
        self, job: Job, folder: RunFolder, resume: CheckpointState | None = None
    ) -> None:
        """``resume``: a checkpoint to go on from. Raises ValueError when it is another
        job's."""
        super().__init__(job, folder)
        if resume is not None:
            state.check(resume, job, self._rates)
        self._built: Built = build(job)
        self._set_weights()
        self._built.copy_weights()
        ranks = range(self.num_ranks)
        self._reader = EventReader(self._built.engine, ranks, self._events)
        self._part = 0  # where the request under way began
        self._origin = _runtime.now()
        self._wish: str | None = None  # "pause", "stop" or "checkpoint"
        self._told = time.monotonic()  # when the folder last was told of progress
        self._saver = Saver(folder.path, job.keep_checkpoints)
        if resume is not None:
            state.restore(self._built, job, resume)
            self._take_history(resume)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._driver: threading.Thread | None = None

    def _set_weights(self) -> None:
        """Seeded initial weights, or those of the model's file."""
        model = self.job.model
        views = self._built.weights()
        if model.weights is not None:
            loaded = load_weights(model.weights)
            for layer, name, view in views:
                key = f"{model.layers[layer].name}.{name}"
                if key not in loaded or loaded[key].shape != view.shape:
                    raise ValueError(
                        f"{model.weights} has no {key} of shape {view.shape}"
                    )
                view[...] = loaded[key]
            return
        fresh = initial_weights(model, self.job.seed)
        for (_, _, view), (_, _, values) in zip(views, fresh, strict=True):
            view[...] = values

    # ---- control ---------------------------------------------------------------------

    def start(self) -> Run:
        """Starts, or goes on after a pause or stop, in the background."""
        with self._lock:
            if self._driver is not None and self._driver.is_alive():
                raise RuntimeError(f"run {self.id} is running already")
            if self._done == self.job.steps or self.state == "failed":
                raise RuntimeError(
                    f"run {self.id} is {self.state}: there is nothing to do"
                )
            self._wish = None
            self._marks.clear()  # the time in between does not count for the speed
            self._over.clear()
            self._driver = threading.Thread(
                target=self._drive, name=f"run-{self.id}", daemon=True
            )
            self._driver.start()
        return self

    def pause(self, timeout: float | None = None) -> Run:
        """Holds the run at the end of the step under way; ``resume`` goes on."""
        return self._end_with("pause", timeout)

    def stop(self, timeout: float | None = None) -> Run:
        """Ends the run at the end of its step and writes its folder. Nothing is lost:
        the weights, losses and trace so far are kept, and ``resume`` goes on from
        there."""
        return self._end_with("stop", timeout)

    def _end_with(self, wish: str, timeout: float | None) -> Run:
        if self.state in ("finished", "failed"):
            return self
        self._wish = wish
        self._built.engine.stop()
        driver = self._driver
        if driver is not None:
            driver.join(timeout)
        if wish == "stop" and self.state == "paused":
            self._finish("stopped")
        return self

    def checkpoint(self) -> Run:
        """Has a checkpoint written at the end of the step under way; training goes
        on."""
        if self.state == "running":
            self._wish = self._wish or "checkpoint"
            self._built.engine.stop()
        elif self.state in ("paused", "stopped"):
            self._save()
        return self

    def _save(self) -> None:
        """Copies what a checkpoint holds; a thread writes it while training goes on."""
        whole = state.Assembly(self.job, self._done)
        for piece in state.pieces(self._built, self.job):
            whole.add(piece)
        self._saver.save(whole.finish(self._losses, self._norms, self._rates))

    def resume(self) -> Run:
        """Goes on after a pause or a stop."""
        return self.start()

    def wait(self, timeout: float | None = None) -> Run:
        """Blocks until the run is over or paused, or ``timeout`` seconds have passed.

        An interrupt gives the prompt back at once (KeyboardInterrupt); the run then
        stops at the end of its step, writes its folder, and can be resumed. Raises
        RunError when the run has failed.
        """
        limit = None if timeout is None else time.monotonic() + timeout
        try:
            while not self._over.wait(POLL_SECONDS):
                if limit is not None and time.monotonic() >= limit:
                    return self
        except KeyboardInterrupt:
            self._wish = "stop"
            self._built.engine.stop()
            raise
        if self.error is not None:
            raise self.error
        return self

    # ---- the driver thread -----------------------------------------------------------

    def _drive(self) -> None:
        try:
            if not self.evaluations and self.job.evaluate:
                self.evaluations[self._done] = self.evaluate()
            self._train()
            if self._done == self.job.steps:
                self.evaluations[self._done] = (
                    self.evaluate() if self.job.evaluate else np.nan
                )
                self._finish("finished")
            elif self._wish == "stop":
                self._finish("stopped")
            else:
                self._set_state("paused")
        except BaseException as error:  # told at wait(), and to whoever watches
            self.error = error
            self._finish("failed")
        finally:
            self._over.set()

    def _train(self) -> None:
        """Until the steps are done or a wish ends it; a checkpoint does not."""
        while self._wish is None and self._done < self.job.steps:
            self._train_on(self._done, self.job.next_checkpoint(self._done))
            wished = self._wish == "checkpoint"
            due = self.job.checkpoint_every and (
                self._done % self.job.checkpoint_every == 0 or self._wish == "stop"
            )
            if wished or due:
                self._save()
            if wished:
                self._wish = None

    def _train_on(self, first: int, last: int) -> None:
        self._part = first
        self._set_state("running")
        self._start_engine(
            tables.TRAIN, first, last, self._losses[first:last], self._norms[first:last]
        )
        # A wish that came while the engine was being started has not reached it.
        if self._wish is not None:
            self._built.engine.stop()
        self._follow()
        self._raise_if_failed()

    def _start_engine(
        self, program: int, first: int, last: int, losses: np.ndarray, norms: np.ndarray
    ) -> None:
        requests.begin(
            self._built.engine,
            self.job,
            program,
            (first, last),
            losses,
            norms,
            self._rates,
            self._origin,
        )

    def _follow(self) -> None:
        """Reads events until every rank has ended."""
        engine = self._built.engine
        self._mark(self._part, fresh=not self._marks)
        while engine.running:
            new = self._reader.drain()
            # Full rings are drained at once; otherwise there is time.
            time.sleep(0 if new > 1 << 13 else POLL_SECONDS / 5)
            self._mark(self._part + engine.done_steps)
            self._tell_progress()
        self._done = max(self._part, engine.finish())
        self._reader.drain()

    def _tell_progress(self) -> None:
        """To the run's folder, about once a second; a full disk is told at the end."""
        if time.monotonic() - self._told < PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        try:
            output.write_progress(self, self._folder)
        except OSError:
            return

    def _raise_if_failed(self) -> None:
        error = self._built.engine.error
        if error is not None:
            raise explain(
                error,
                self._built.engine.positions(),
                self._built.programs,
                self.job.executed.stage_to_rank,
                self.job.wait_limit,
            )

    def _finish(self, end: str) -> None:
        """Writes the folder. Whatever goes wrong there fails the run and is raised by
        wait."""
        self._saver.wait()
        self.checkpoint_error = self._saver.error
        try:
            output.write(self, self.weights(), self._folder, end)
        except Exception as error:
            self.error = self.error or error
            end = "failed"
        self._set_state(end)

    # ---- what it has done ------------------------------------------------------------

    def evaluate(self) -> float:
        """Mean loss over ``job.evaluate`` steps of held-out samples, spread evenly over
        the held-out data; nats per token. Only while no step is under way."""
        job, engine = self.job, self._built.engine
        if engine.running:
            raise RuntimeError("the run is training: pause it first")
        steps = max(1, job.evaluate)
        losses = np.zeros((steps, job.num_microbatches or 0))
        self._start_engine(tables.EVALUATE, 0, steps, losses, np.zeros(steps))
        while engine.running:
            time.sleep(POLL_SECONDS / 10)
        engine.finish()
        self._raise_if_failed()
        return float(losses.mean())

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all weights by name ("block0.qkv.weight"), in layer order."""
        layers = self.job.model.layers
        views = self._built.weights()
        return {f"{layers[i].name}.{name}": view.copy() for i, name, view in views}

    def weights_hash(self) -> str:
        """SHA-256 over every parameter's bytes in layer order; free of the layout."""
        return weights_hash(view for _, _, view in self._built.weights())

    def generate(
        self,
        prompt: str = "\n",
        num_tokens: int = 200,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> str:
        """Text that the model writes after ``prompt``. Only while no step is under
        way."""
        from .sample import generate

        if self._built.engine.running:
            raise RuntimeError("the run is training: pause or wait for it first")
        return generate(
            self.job, self._built.weights(), prompt, num_tokens, temperature, seed
        )
