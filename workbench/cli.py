"""The command line: the same things without a notebook.

workbench run [job.toml]     train; without a file, the main job
workbench schedule NAME...   draw, check and simulate schedules, one below the other
workbench schedules          every schedule in a table
workbench queue add|list|... several jobs, as many at a time as there is room for
workbench doctor             what this machine offers
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cython_kernels import _kernels
from pipeline_workbench.rank import launched_by

from .data import Data
from .engine import AdamW, Job, Run, RunError, WarmupCosine, cores
from .engine.observed import OVER, Observed, progress_words
from .launcher import RemoteRun, SavedRun, launch
from .model import Model
from .partition import Partition
from .schedule import SCHEDULES, Schedule, side_by_side


def main_job(options: argparse.Namespace) -> Job:
    """The main job: a byte-level GPT over four stages on text that every machine
    has."""
    model, replicas = Model.preset(options.model), options.replicas
    schedule = Schedule.make(
        options.schedule,
        num_ranks=options.stages,
        num_microbatches=max(1, options.microbatches // replicas),
    )
    split = Partition.balanced(model, num_stages=schedule.chain_length, by="flops")
    return Job(
        model=model,
        partition=split,
        schedule=schedule,
        data=Data.text(options.text),
        microbatch_size=options.microbatch_size,
        num_microbatches=options.microbatches,
        replicas=replicas,
        gradient_groups=replicas * schedule.num_copies,
        zero=options.zero,
        optimizer=AdamW(lr=options.lr),
        learning_rate=WarmupCosine(warmup=min(20, options.steps // 5)),
        steps=options.steps,
        seed=options.seed,
        clock=options.clock,
    )


def _add_queue(commands: Any) -> None:
    queue = commands.add_parser("queue", help="several jobs, one after another")
    verbs = queue.add_subparsers(dest="verb", required=True)
    for verb, about in (
        ("add", "add a job file; makes the queue, given --slots"),
        ("list", "its jobs"),
        ("wait", "until all are over"),
        ("cancel", "a job"),
        ("retry", "a job that is over"),
        ("stop", "the queue and what it runs"),
    ):
        parser = verbs.add_parser(verb, help=about)
        parser.add_argument("queue", type=Path, help="its folder")
        if verb == "add":
            parser.add_argument("job", type=Path, help="a job.toml")
            parser.add_argument("--slots", type=_positive, help="ranks at a time")
            parser.add_argument("--name")
            parser.add_argument("--on", default="threads", help="threads, mpi, ...")
            parser.add_argument("--retries", type=int, default=0)
        if verb in ("cancel", "retry"):
            parser.add_argument("id", help="as list shows it")


def _queue(options: argparse.Namespace) -> int:
    from .launcher.jobs import Queue

    if options.verb == "add":
        queue = Queue(options.queue, options.slots)
        added = queue.add(
            options.job, options.name, on=options.on, retries=options.retries
        )
        print(added)
        return 0
    queue = Queue(options.queue)
    if options.verb == "wait":
        queue.wait()
    elif options.verb == "stop":
        queue.stop()
    elif options.verb in ("cancel", "retry"):
        getattr(queue, options.verb)(options.id)
    print(queue)
    failed = options.verb == "wait" and any(
        job.state == "failed" for job in queue.jobs()
    )
    return 1 if failed else 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbench", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train; without a job file, the main job")
    run.add_argument(
        "job", nargs="?", help="a job.toml; the options below are then ignored"
    )
    run.add_argument(
        "--text", help='file, folder or "shakespeare"; default: Python\'s sources'
    )
    run.add_argument("--model", default="byte-gpt-3.7m", help="a preset")
    run.add_argument(
        "--stages", type=_positive, default=4, help="ranks, and stages of 1F1B"
    )
    run.add_argument("--schedule", default="1f1b", help=", ".join(SCHEDULES))
    run.add_argument(
        "--microbatches", type=_positive, default=8, help="of a step, over all replicas"
    )
    run.add_argument(
        "--replicas", type=_positive, default=1, help="pipelines side by side"
    )
    run.add_argument(
        "--zero", type=int, default=0, help="1: optimizer states shared out (ZeRO-1)"
    )
    run.add_argument("--microbatch-size", type=_positive, default=2, help="sequences")
    run.add_argument("--steps", type=_positive, default=200)
    run.add_argument("--lr", type=float, default=2e-3)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--clock", choices=("auto", "wall", "virtual"), default="auto")
    run.add_argument("--folder", type=Path, help="where the run's files go")
    run.add_argument("--on", default="threads", help="threads, or a place such as mpi")
    run.add_argument("--resume", help="a run's folder or a checkpoint, to go on from")
    run.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="steps between checkpoints"
    )
    run.add_argument("--host", help="address that ranks of other machines report to")
    run.add_argument("--prompt", default="def ", help="start of the sample at the end")
    run.add_argument("--sample", type=int, default=200, help="bytes to sample; 0: none")
    draw = commands.add_parser("schedule", help="draw, check and simulate schedules")
    draw.add_argument("names", nargs="+", metavar="name", help=", ".join(SCHEDULES))
    draw.add_argument("--ranks", type=_positive, default=4)
    draw.add_argument("--microbatches", type=_positive, default=8)
    draw.add_argument("--csv", type=Path, help="also write it as PyTorch's CSV")
    table = commands.add_parser("schedules", help="compare all schedules in a table")
    table.add_argument("--ranks", type=_positive, default=4)
    table.add_argument("--microbatches", type=_positive, default=8)
    table.add_argument("--stages-per-rank", type=_positive, default=2)
    table.add_argument(
        "--memory-limit", type=float, help="microbatches' activations of one rank"
    )
    table.add_argument("--hop", type=float, default=0.0, help="latency; F = I = W = 1")
    table.add_argument("--sort", default="makespan", help="a column, such as span")
    commands.add_parser("doctor", help="what this machine offers")
    _add_queue(commands)
    return parser


# ---- run -----------------------------------------------------------------------------


def _describe(job: Job) -> None:
    print(job.data.describe())
    print(
        f"model      {job.model.config['kind']}, {job.model.params:,} parameters, "
        f"{job.model.num_layers} layers in {job.partition.num_stages} stages "
        f"{list(job.partition.boundaries)}"
    )
    print(
        f"schedule   {job.executed.name}, {job.executed.num_ranks} ranks, "
        f"{job.num_microbatches} microbatches of {job.microbatch_size} x "
        f"{job.model.context} tokens"
    )
    if job.chosen_clock == "virtual":
        print(
            f"clock      virtual: {job.executed.num_ranks} ranks on {cores.usable()} usable "
            "cores run one after another, and the timeline is assembled as if each had "
            f"{job.chosen_threads} cores of its own"
        )
    else:
        print(
            f"clock      wall: {job.executed.num_ranks} ranks, {cores.usable()} usable cores"
        )
    arenas = ", ".join(f"{size / 2**20:.0f}" for size in job.memory().arena_bytes)
    print(f"memory     {arenas} MiB per rank; kernels: {_kernels.isa()}")


#: Seconds between two lines of progress where nobody looks at a bar.
LINE_SECONDS = 10.0


def _follow_in_lines(run: Observed) -> None:
    """As ``_follow``, for a batch job's log."""
    told = 0.0
    while run.state not in OVER:
        now = run.progress()
        if time.monotonic() - told > LINE_SECONDS and now["step"]:
            told = time.monotonic()
            words = [f"step {now['step']} of {now['steps']}", *progress_words(now)]
            print(", ".join(words), file=sys.stderr, flush=True)
        time.sleep(0.2)


def _follow(run: Observed) -> None:
    """A progress bar until the run is over."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return _follow_in_lines(run)

    with tqdm(
        total=run.job.steps, unit="step", file=sys.stderr, dynamic_ncols=True
    ) as bar:
        while True:
            over = run.state in (*OVER, "paused")
            now = run.progress()
            bar.update(now["step"] - bar.n)
            bar.set_postfix_str(", ".join(progress_words(now)), refresh=False)
            if over:
                return
            time.sleep(0.2)


def _conclude(run: Run | RemoteRun | SavedRun, prompt: str, sample: int) -> None:
    print(
        f"\nrun {run.id}: {run.state} after {run.steps_done} of {run.job.steps} steps"
    )
    for step, loss in run.evaluations.items():
        print(f"held-out loss after step {step:4}: {loss:.4f} nats per token")
    if run.job.model.is_language_model:
        entropy = run.job.data.unigram_entropy()
        print(f"unigram entropy of that text:  {entropy:.4f} nats per token")
    if run.steps_done:
        print(f"\nBubbles of the last steps ({run.source_label}):\n{run.report}")
    speaks = run.job.model.is_language_model and run.job.model.vocab_size == 256
    if speaks and sample and run.steps_done:
        print(f"\nSample after {prompt!r}:\n{run.generate(prompt, sample)}")
    print(f"\nweights sha256 {run.weights_hash()}")
    print(
        f"files in {run.folder}: {', '.join(sorted(p.name for p in run.folder.iterdir()))}"
    )


def _job_of(options: argparse.Namespace) -> Job:
    job = Job.from_toml(Path(options.job)) if options.job else main_job(options)
    if options.checkpoint_every is not None:
        job = replace(job, checkpoint_every=options.checkpoint_every)
    return job


def _run_together(options: argparse.Namespace) -> int:
    """This process is one rank of several that mpiexec or srun has started."""
    from .launcher.rank import together

    status, folder = together(
        lambda: _job_of(options),
        options.folder,
        options.host,
        _follow,
        options.resume,
    )
    if folder is not None:
        _conclude(SavedRun(folder), options.prompt, options.sample)
    return status


def _run(options: argparse.Namespace) -> int:
    if launched_by():
        return _run_together(options)
    job = _job_of(options)
    _describe(job)
    place = {} if options.host is None else {"host": options.host}
    run = launch(
        job, on=options.on, folder=options.folder, resume=options.resume, **place
    )
    try:
        _follow(run)
        run.wait()
    except KeyboardInterrupt:
        print(
            "\nstopping at the end of this step (interrupt again to give up)",
            file=sys.stderr,
        )
        run.stop()
    _conclude(run, options.prompt, options.sample)
    return 0 if run.state == "finished" else 130


# ---- schedule, doctor ----------------------------------------------------------------


def _schedule(options: argparse.Namespace) -> int:
    from .simulator import CostModel, priced_for, simulate

    if options.csv and len(options.names) > 1:
        raise ValueError(f"--csv writes one schedule, but got {len(options.names)}")
    sizes = {"num_ranks": options.ranks, "num_microbatches": options.microbatches}
    made = [Schedule.make(name, **sizes).check() for name in options.names]
    print(side_by_side(*made) if len(made) > 1 else made[0])
    for schedule in made:
        report = simulate(schedule, priced_for(schedule, CostModel.uniform())).bubbles()
        print(
            f"\n{schedule.name}: smallest channel capacity without deadlock "
            f"{schedule.minimum_channel_capacity()}\n"
            f"F = I = W = 1 for a rank's share:\n{report}"
        )
    if options.csv:
        options.csv.write_text(made[0].to_csv(), encoding="utf-8")
    return 0


def _schedules(options: argparse.Namespace) -> int:
    from .search import compare_schedules
    from .simulator import CostModel

    table = compare_schedules(
        options.ranks,
        options.microbatches,
        CostModel.uniform(hop=options.hop),
        stages_per_rank=options.stages_per_rank,
        memory_limit=options.memory_limit,
    )
    print(table.sorted(options.sort))
    return 0


def _doctor() -> int:
    available = ", ".join(_kernels.available_isas())
    print(f"python      {platform.python_version()} on {platform.platform()}")
    print(f"cores       {cores.usable()} usable of {os.cpu_count()}")
    print(
        f"kernels     {_kernels.isa()} (this build holds, and this machine runs: {available})"
    )
    from .launcher.doctor import launchers

    for name, told in launchers().items():
        print(f"{name:12}{told}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status. Mistakes are told without a
    traceback."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            return _run(options)
        if options.command == "schedule":
            return _schedule(options)
        if options.command == "schedules":
            return _schedules(options)
        if options.command == "queue":
            return _queue(options)
        return _doctor()
    except (ValueError, RunError, MemoryError, OSError) as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
