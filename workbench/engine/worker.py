"""What the process of one rank does: compare itself with the others, train, and tell.

``work`` is called on every rank of an MPI world. The steps run in C as in ``Run``; this
drives them, reports what happened through a ``Reporter``, and follows its commands. All
ranks decide alike: whatever one of them is asked ends a request at the same step on all
(the wish travels with the gradients' norms), and they compare wishes before they go on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from cython_kernels import _kernels, tables

from ..checkpoint import CheckpointState, load_weights
from ..model.init import initial_values
from . import cores, requests, state
from .build import Site, build
from .built import Built
from .errors import RunError, explain
from .events import EventReader
from .job import Job
from .mpi import World, wrong_size

#: How often a rank looks for events to tell and for commands.
POLL_SECONDS = 0.02
#: A rank that has not heard of its collector for so long ends: nobody would stop it.
LOST_SECONDS = 20.0
#: What a request may be ended for, the strongest last.
WISHES = (None, "checkpoint", "pause", "stop")


class Reporter(Protocol):
    """Where a rank tells what it does. ``launcher.stream.Reporter`` is one."""

    def events(self, events: np.ndarray) -> None: ...
    def tell(
        self, kind: str, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> None: ...
    def commands(self) -> list[dict[str, Any]]: ...
    @property
    def silence(self) -> float: ...


def for_processes(job: Job) -> Job:
    """The job as processes run it: under the wall clock, and with events told.

    Raises ValueError for a job that asks for the virtual clock, which times ranks of
    one process.
    """
    if job.clock == "virtual":
        raise ValueError(
            'clock="virtual" times ranks that are threads of one process; over MPI make '
            'it "wall" or "auto"'
        )
    return replace(job, clock="wall")


def version() -> str:
    """Of this package, as installed."""
    try:
        return metadata.version("pipeline-workbench")
    except metadata.PackageNotFoundError:
        return "not installed"


def about(world: World) -> dict[str, Any]:
    """Who this rank is, as it says hello."""
    return {
        "rank": world.rank,
        "size": world.size,
        "host": platform.node(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "package": version(),
        "isa": _kernels.isa(),
        "cores": cores.usable(),
        "mpi": world.library,
    }


def compare(world: World, job: Job) -> Site:
    """Where this rank stands, after all have found that they are about to run the same.

    Raises ValueError, on every rank alike, naming the rank that differs and in what:
    the number of ranks, the package's version, the instruction set, the job, the data.
    """
    size = job.executed.num_ranks
    text = job.to_toml().encode()
    mine = {
        **about(world),
        "job": hashlib.sha256(text).hexdigest()[:16],
        "data": job.data.sha256,
    }
    told = world.gather(mine, "say who they are")
    if world.size != size:
        raise ValueError(wrong_size(world.size, size))
    names = {
        "package": "version of pipeline-workbench",
        "isa": "instruction set",
        "data": "training data",
        "job": "job",
    }
    for key, name in names.items():
        for other in told[1:]:
            if other[key] != told[0][key]:
                raise ValueError(
                    f"rank {other['rank']} on {other['host']} has another {name} "
                    f"({other[key]}) than rank 0 on {told[0]['host']} ({told[0][key]}); "
                    "all ranks must have the same"
                )
    here = sum(other["host"] == mine["host"] for other in told)
    return Site(world.rank, here)


def _fill(built: Built, job: Job) -> None:
    """Seeded initial weights, or those of the model's file, of the stages here."""
    model = job.model
    loaded = load_weights(model.weights) if model.weights else None
    for layer, name, view in built.held():
        owner = model.layers[layer]
        if loaded is None:
            names = [parameter.name for parameter in owner.parameters]
            index = names.index(name)
            parameter = owner.parameters[index]
            view[...] = initial_values(parameter, job.seed, layer, index)
            continue
        key = f"{owner.name}.{name}"
        if key not in loaded or loaded[key].shape != view.shape:
            raise ValueError(f"{model.weights} has no {key} of shape {view.shape}")
        view[...] = loaded[key]


class Worker:
    """One rank's process while a job runs. ``work`` makes it."""

    def __init__(
        self,
        job: Job,
        world: World,
        reporter: Reporter,
        resume: CheckpointState | None = None,
    ) -> None:
        self.job = job
        self.world = world
        self.reporter = reporter
        site = compare(world, job)
        self.built = build(job, site=site)
        _fill(self.built, job)
        self.built.engine.connect(world.table())
        self.done = 0
        self.wish: str | None = None
        self._told = 0  # steps whose losses have been told
        shape = (job.steps, job.num_microbatches or 0)
        self._losses, self._norms = np.full(shape, np.nan), np.full(job.steps, np.nan)
        factors = job.learning_rate.factors(job.steps)
        self._rates = (job.optimizer.lr * factors).astype(np.float32)
        self._events = EventReader(self.built.engine, (world.rank,), self)
        if resume is not None:
            state.check(resume, job, self._rates)
            state.restore(self.built, job, resume)
            history = resume.tensors["history"]
            self._losses[: resume.step] = history["losses"]
            self._norms[: resume.step] = history["norms"]
            self.done = resume.step
            self._tell_steps()

    # ---- telling ---------------------------------------------------------------------

    lost = 0  # events overwritten before they could be told

    def append(self, events: np.ndarray) -> None:
        """Takes events from the engine's ring; ``EventReader`` gives them."""
        self.reporter.events(events.copy())

    def tell(self, kind: str, body: dict[str, Any], **arrays: np.ndarray) -> None:
        self.reporter.tell(kind, body, arrays)

    def tell_state(self, state: str) -> None:
        self.tell("state", {"state": state, "step": self.done})

    def beat(self) -> dict[str, Any]:
        """Where the rank stands now; asked from another thread."""
        step, counter = self.built.engine.positions()[self.world.rank]
        return {"step": step, "counter": counter, "rss": _resident(), "lost": self.lost}

    def _tell_steps(self) -> None:
        """Every rank knows all losses; rank 0 tells them."""
        if self.world.rank == 0 and self.done > self._told:
            first, last = self._told, self.done
            self.tell(
                "steps",
                {"first": first},
                losses=self._losses[first:last],
                norms=self._norms[first:last],
            )
        self._told = self.done

    def tell_weights(self) -> None:
        """The parameters that are here, each as a tensor of its own."""
        number = {
            (layer, parameter.name): index
            for index, (layer, parameter) in enumerate(
                (i, p)
                for i, owner in enumerate(self.job.model.layers)
                for p in owner.parameters
                if p.tied_to is None
            )
        }
        for layer, name, view in self.built.weights():
            body = {
                "what": "weights",
                "part": "param",
                "step": self.done,
                "name": f"{self.job.model.layers[layer].name}.{name}",
                "index": number[layer, name],
                "of": len(number),
            }
            self.tell("tensor", body, values=view.copy())

    # ---- following -------------------------------------------------------------------

    def _listen(self) -> None:
        """Notes what is wished; a request under way then ends with its step."""
        for command in self.reporter.commands():
            do = command.get("do")
            if do == "abort":
                self.built.engine.abort()
                self.wish = "abort"
            elif do in WISHES or do == "resume":
                self.wish = do
                if do != "resume":
                    self.built.engine.stop()

    def interrupt(self, *_: object) -> None:
        """A signal asks for a stop at the end of the step."""
        self.wish = "stop"
        self.built.engine.stop()

    def _end_if_forsaken(self) -> None:
        if self.reporter.silence > LOST_SECONDS:
            self.built.engine.abort()
            raise RunError(
                f"rank {self.world.rank} has heard nothing for {LOST_SECONDS:g} s of "
                "the process that watches over the run, and ends",
                self.world.rank,
            )

    def _follow(self, part: int) -> None:
        engine = self.built.engine
        while engine.running:
            new = self._events.drain()
            time.sleep(0 if new > 1 << 13 else POLL_SECONDS)
            self.done = max(self.done, part + engine.done_steps)
            self._tell_steps()
            self._listen()
            self._end_if_forsaken()
        self.done = max(part, engine.finish())
        self._events.drain()
        self._tell_steps()
        self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        error = self.built.engine.error
        if error is None:
            return
        raise explain(
            error,
            self.built.engine.positions(),
            self.built.programs,
            self.job.executed.stage_to_rank,
            self.job.wait_limit,
            here=self.world.rank,
        )

    # ---- doing -----------------------------------------------------------------------

    def evaluate(self) -> float:
        """As ``Run.evaluate``, on all ranks together."""
        job = self.job
        steps = max(1, job.evaluate)
        losses = np.zeros((steps, job.num_microbatches or 0))
        span, norms = (0, steps), np.zeros(steps)
        engine = self.built.engine
        requests.begin(
            engine, job, tables.EVALUATE, span, losses, norms, self._rates, 0
        )
        while engine.running:
            time.sleep(POLL_SECONDS / 4)
        engine.finish()
        self._raise_if_failed()
        self.world.add(losses, "tell their losses of an evaluation")
        return float(losses.mean())

    def _evaluate_and_tell(self) -> None:
        if self.job.evaluate:
            loss = self.evaluate()
            if self.world.rank == 0:
                self.tell("evaluation", {"step": self.done, "loss": loss})

    def tell_checkpoint(self) -> None:
        """Copies what a checkpoint holds of this rank; it is told while training goes
        on."""
        for piece in state.pieces(self.built, self.job):
            body = {
                "what": "checkpoint",
                "part": piece.part,
                "step": self.done,
                "name": piece.name,
                "begin": piece.begin,
            }
            self.tell("tensor", body, values=piece.values)
        self.tell("checkpoint", {"step": self.done})

    def train(self) -> str | None:
        """Runs until the job's steps are done or a wish ends it; returns the wish that
        all ranks agree on, or None when the steps are done."""
        self.tell_state("running")
        every = self.job.checkpoint_every
        while self.done < self.job.steps:
            wish = self._train_on(self.job.next_checkpoint(self.done))
            due = every and (self.done % every == 0 or wish == "stop")
            if due or wish == "checkpoint":
                self.tell_checkpoint()
            if wish not in (None, "checkpoint"):
                return wish
        return None

    def _train_on(self, last: int) -> str | None:
        first = self.done
        requests.begin(
            self.built.engine,
            self.job,
            tables.TRAIN,
            (first, last),
            self._losses[first:last],
            self._norms[first:last],
            self._rates,
            0,
        )
        if self.wish is not None:  # it came before the engine could hear it
            self.built.engine.stop()
        self._follow(first)
        if self.done == last:
            return None
        wishes = self.world.gather(self.wish, "say why they stopped")
        self.wish = None
        return max(wishes, key=lambda wish: WISHES.index(wish))

    def _wait_for_command(self) -> str:
        """While paused: "resume" or "stop", as all ranks agree."""
        while self.wish not in ("resume", "stop"):
            time.sleep(POLL_SECONDS)
            self._listen()
            if self.wish == "abort":
                raise RunError("the run was aborted", self.world.rank)
            self._end_if_forsaken()
        heard, self.wish = self.wish, None
        told = self.world.gather(heard, "go on", seconds=3600.0)
        return "stop" if "stop" in told else "resume"

    def run(self) -> str:
        """From the first step to the state that the run ends in."""
        self._evaluate_and_tell()
        while True:
            wish = self.train()
            if wish is None:
                self._evaluate_and_tell()
                return "finished"
            if wish == "stop":
                return "stopped"
            if wish == "pause":
                self.tell_state("paused")
                if self._wait_for_command() == "stop":
                    return "stopped"


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def check_resume(job: Job, resume: CheckpointState) -> None:
    """Raises ValueError when the job cannot go on from there."""
    factors = job.learning_rate.factors(job.steps)
    state.check(resume, job, (job.optimizer.lr * factors).astype(np.float32))


def work(
    job: Job,
    world: World,
    reporter: Reporter,
    resume: CheckpointState | None = None,
) -> str:
    """Runs this process's rank of the job to its end, and tells all of it.

    Returns the run's state, "finished" or "stopped". Raises ValueError when the ranks
    differ, MemoryError when the arena does not fit, and RunError when the run failed;
    each has been told as "failed" before.
    """
    worker: Worker | None = None
    try:
        worker = Worker(job, world, reporter, resume)
        if hasattr(reporter, "beat"):
            reporter.beat = worker.beat
        main = threading.current_thread() is threading.main_thread()
        before = {
            number: signal.signal(number, worker.interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)
            if main  # others cannot take signals
        }
        try:
            end = worker.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        worker.tell_weights()
        worker.tell_state(end)
    except (ValueError, MemoryError, RunError, OSError) as error:
        body = {"rank": world.rank, "text": str(error), "error": type(error).__name__}
        if isinstance(error, RunError) and error.step is not None:
            body |= {"step": error.step, "action": str(error.action)}
            body["is_consequence"] = error.is_consequence
        reporter.tell("failed", body, {})
        raise
    finally:
        if worker is not None and not worker.built.engine.running:
            worker.built.engine.finish()
            worker.built.engine.disconnect()
    return end


__all__ = ["Built", "Reporter", "Worker", "for_processes", "version", "work"]
