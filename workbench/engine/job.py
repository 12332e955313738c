"""Job: everything that decides a run, as one value that is also a TOML file.

The notebook, the command line and a batch script run the same job. It is checked when
it is made, so that a mistake is told in the cell that makes it and not by a rank.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tomli_w

from ..data import Data
from ..memory import MemoryPlan, plan
from ..model import Model
from ..partition import Partition
from ..schedule import Kind, Schedule, halves, parse, replicate
from . import cores, optimizers
from .optimizers import AdamW, Constant, LearningRate, Optimizer

FORMAT = 1
Clock = Literal["auto", "wall", "virtual"]

#: FLOPs of a layer's forward from which on a team of threads is worth its meetings.
SHARED_WORK = 5e6

#: Kinds that the engine executes; a schedule with others can be checked and simulated.
EXECUTABLE = frozenset({Kind.F, Kind.I, Kind.W, Kind.B, Kind.R})


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run.

    model, partition, schedule, data: what, split how, in which order, on what.

    microbatch_size: sequences (or rows) per microbatch. num_microbatches: of a step,
    over all replicas; by default the schedule's times the replicas. replicas: how often
    the schedule is run side by side, each time on ranks and microbatches of its own.

    gradient_groups: see docs/numerics.md; the weights' bits depend on it. A multiple of
    the copies of the parameters: replicas x those of the schedule.

    optimizer, learning_rate: an ``AdamW`` or ``SGD``, a ``Constant`` or
    ``WarmupCosine``. clip: largest global gradient norm, or None.

    zero: 1 shares each parameter's optimizer states out over its holders (replicas,
    copies, tied uses), to the same bits; 0 gives them to every holder.

    steps, seed: how long, from where. evaluate: steps of held-out data for the losses
    before and after; 0 for none.

    clock: "wall", "virtual", or "auto", which is virtual where ranks outnumber usable
    cores. threads_per_rank: by default 1; under the virtual clock, where one rank runs
    at a time, all usable cores for a model with work enough to share.

    channel_capacity: messages that may wait between two stages; by default the smallest
    with which the schedule does not deadlock, but at least 1. wait_limit: seconds that
    a rank may wait before the run ends with an error.

    checkpoint_every: steps between two checkpoints; 0 for none but those asked for.
    keep_checkpoints: so many of the newest are kept.

    Raises ValueError naming the field, the value and the fix.
    """

    model: Model
    partition: Partition
    schedule: Schedule
    data: Data
    microbatch_size: int = 4
    num_microbatches: int | None = None
    replicas: int = 1
    gradient_groups: int = 1
    optimizer: Optimizer = field(default_factory=AdamW)
    learning_rate: LearningRate = field(default_factory=Constant)
    clip: float | None = 1.0
    precision: str = "fp32"
    recompute: bool = False
    zero: int = 0
    steps: int = 100
    seed: int = 0
    clock: Clock = "auto"
    channel_capacity: int | None = None
    threads_per_rank: int | None = None
    wait_limit: float = 120.0
    evaluate: int = 4
    nan_policy: str = "stop"
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    name: str | None = None

    def __post_init__(self) -> None:
        m = self.schedule.num_microbatches * self.replicas
        if self.num_microbatches is None:
            object.__setattr__(self, "num_microbatches", m)
        self._check_numbers()
        self._check_supported()
        if self.num_microbatches != m:
            raise ValueError(
                f"num_microbatches is {self.num_microbatches}, but schedule "
                f"{self.schedule.name!r} has {self.schedule.num_microbatches} for each of "
                f"{self.replicas} replicas; make the schedule with "
                f"num_microbatches={(self.num_microbatches or 0) // self.replicas}"
            )
        if self.partition.model != self.model:
            raise ValueError("the partition splits another model than the job's")
        length = self.schedule.chain_length
        if self.partition.num_stages != length:
            raise ValueError(
                f"the partition has {self.partition.num_stages} stages but schedule "
                f"{self.schedule.name!r} has {length}; split the model "
                f"with num_stages={length}"
            )
        self._check_data()
        self._check_schedule()

    def _check_numbers(self) -> None:
        at_least = {
            "microbatch_size": 1,
            "replicas": 1,
            "num_microbatches": 1,
            "steps": 1,
        }
        at_least |= {"gradient_groups": 1, "seed": 0, "evaluate": 0}
        at_least |= {"checkpoint_every": 0, "keep_checkpoints": 1}
        for name, low in at_least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(
                    f"{name} must be a whole number of at least {low}, got {value!r}"
                )
        for name, low in (("threads_per_rank", 1), ("channel_capacity", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < low):
                raise ValueError(f"{name} must be at least {low}, got {value!r}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, got {self.seed}")
        if self.num_microbatches % self.gradient_groups:  # type: ignore[operator]
            raise ValueError(
                f"gradient_groups {self.gradient_groups} does not divide the "
                f"{self.num_microbatches} microbatches of a step"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive or None, got {self.clip!r}")
        if not self.wait_limit > 0:
            raise ValueError(
                f"wait_limit must be positive seconds, got {self.wait_limit!r}"
            )
        if self.clock not in ("auto", "wall", "virtual"):
            raise ValueError(
                f'clock must be "auto", "wall" or "virtual", got {self.clock!r}'
            )

    def _check_supported(self) -> None:
        supported = {
            "precision": ("fp32",),
            "recompute": (False,),
            "zero": (0, 1),
            "nan_policy": ("stop",),
        }
        for name, values in supported.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} cannot be run by this version; "
                    f"it runs {name}={' or '.join(map(repr, values))}"
                )
        for layer in self.model.layers:
            if not layer.executable:
                raise ValueError(
                    f"layer {layer.name!r} can be costed and planned but not trained: the "
                    "engine has no kernels for expert layers"
                )

    def _check_data(self) -> None:
        data, model = self.data, self.model
        if model.is_language_model != data.is_text:
            wants = (
                "a token stream (Data.text)"
                if model.is_language_model
                else "Data.arrays"
            )
            raise ValueError(
                f"a {model.config['kind']} model trains on {wants}, got {data!r}"
            )
        if model.is_language_model:
            if data.vocab_size > (model.vocab_size or 0):
                raise ValueError(
                    f"the data has tokens up to {data.vocab_size - 1} but the model's "
                    f"vocab_size is {model.vocab_size}; make it at least {data.vocab_size}"
                )
            if len(data.train) <= model.context:
                raise ValueError(
                    f"context {model.context} is longer than the training text of "
                    f"{len(data.train)} tokens; shorten the context or give more text"
                )
            if self.evaluate and len(data.held_out) <= model.context:
                raise ValueError(
                    f"context {model.context} is longer than the held-out text of "
                    f"{len(data.held_out)} tokens; give more text, or evaluate=0"
                )
            return
        widths = (model.config["widths"][0], model.config["widths"][-1])
        shapes = (data.train.shape[1], data.train_targets.shape[1])
        if widths != shapes:
            raise ValueError(
                f"the model maps {widths[0]} to {widths[1]} numbers but the data's rows map "
                f"{shapes[0]} to {shapes[1]}"
            )

    def _check_schedule(self) -> None:
        self.schedule.check(channel_capacity=self.capacity)
        schedule = self.executed
        self._check_copies()
        self._check_slices()
        groups = self.gradient_groups
        for rank, actions in enumerate(schedule.ranks):
            latest: dict[tuple[int, int], tuple[int, int]] = {}
            for action in actions:
                for a in halves(action):
                    if a.kind not in EXECUTABLE:
                        raise ValueError(
                            f"{a} on rank {rank}: the engine runs F, I, W, B and R; this "
                            "schedule can be checked and simulated"
                        )
                    if a.kind not in (Kind.W, Kind.B):
                        continue
                    group = a.microbatch * groups // schedule.num_microbatches
                    # Slices of a sequence come back from the last to the first.
                    place = (a.microbatch, -a.slice)
                    before = latest.get((a.stage, group), place)
                    if place < before:
                        raise ValueError(
                            f"{a} on rank {rank} comes after microbatch {before[0]}, slice "
                            f"{-before[1]}: weight gradients must be added in ascending "
                            "microbatch order, slices from the last to the first, or the "
                            "weights' bits would depend on the schedule"
                        )
                    latest[a.stage, group] = place

    def _check_slices(self) -> None:
        model, slices = self.model, self.schedule.num_slices
        if slices == 1:
            return
        if not model.is_language_model:
            raise ValueError(
                f"schedule {self.schedule.name!r} cuts sequences into {slices} slices, but "
                f"a {model.config['kind']} model has none"
            )
        if model.context % slices:
            raise ValueError(
                f"context {model.context} cannot be cut into {slices} equal slices; make "
                "num_slices one of its divisors"
            )
        if any(action.kind is Kind.R for _, _, action in self.schedule.walk()):
            raise ValueError(
                "slices cannot be recomputed: a slice looks back at keys and values of "
                "earlier ones, which would be gone; take R or num_slices out"
            )

    def _check_copies(self) -> None:
        """Every copy of the parameters adds up gradient groups of its own."""
        schedule, copies = self.schedule, self.executed.num_copies
        if self.gradient_groups % copies:
            whose = f"schedule {schedule.name!r} has {schedule.num_copies}"
            if self.replicas > 1:
                whose = f"replicas={self.replicas} of schedule {schedule.name!r} have {copies}"
            raise ValueError(
                f"{whose} copies of the parameters, each with its own gradients; make "
                f"gradient_groups a multiple of {copies}, not {self.gradient_groups}"
            )
        for microbatch, copy in enumerate(schedule.route or ()):
            share = schedule.num_microbatches // schedule.num_copies
            if copy != microbatch // share:
                raise ValueError(
                    f"microbatch {microbatch} passes copy {copy}; to be trained, the "
                    f"first {share} microbatches must pass copy 0, the next {share} copy 1"
                )

    # ---- what follows from the fields ------------------------------------------------

    @cached_property
    def executed(self) -> Schedule:
        """What all ranks run: the schedule, side by side as often as there are
        replicas."""
        return replicate(self.schedule, self.replicas)

    @cached_property
    def capacity(self) -> int:
        """Messages that may wait in a channel."""
        if self.channel_capacity is not None:
            return self.channel_capacity
        return max(1, self.schedule.minimum_channel_capacity())

    @property
    def chosen_clock(self) -> str:
        """ "wall" or "virtual": what "auto" comes to on this machine."""
        if self.clock != "auto":
            return self.clock
        threads = self.threads_per_rank or 1
        fits = self.executed.num_ranks * threads <= cores.usable()
        return "wall" if fits else "virtual"

    @property
    def chosen_threads(self) -> int:
        """Threads of each rank: as asked, or what suits the clock."""
        if self.threads_per_rank is not None:
            return self.threads_per_rank
        if self.chosen_clock == "wall":
            return 1
        work = self.microbatch_size * self.model.flops / self.model.num_layers
        return cores.usable() if work >= SHARED_WORK else 1

    def next_checkpoint(self, step: int) -> int:
        """The step before which the next checkpoint is due, when ``step`` are done; the
        run's last one if there is none before that."""
        if not self.checkpoint_every:
            return self.steps
        every = self.checkpoint_every
        return min(self.steps, (step // every + 1) * every)

    @property
    def tokens_per_step(self) -> int:
        """Tokens (or rows) that one step trains on."""
        return self.microbatch_size * self.model.context * (self.num_microbatches or 0)

    def memory(self, with_loss: bool = True, processes: bool = False) -> MemoryPlan:
        """What every rank will allocate, before anything is. ``processes``: when each is
        a process of its own, as over MPI."""
        return plan(
            self.partition,
            self.executed,
            microbatch_size=self.microbatch_size,
            channel_capacity=self.capacity,
            optimizer=optimizers.KIND_OF[type(self.optimizer)],
            gradient_groups=self.gradient_groups,
            threads_per_rank=self.chosen_threads,
            with_loss=with_loss,
            zero=self.zero,
            processes=processes,
        )

    # ---- TOML ------------------------------------------------------------------------

    def to_toml(self, path: str | Path | None = None) -> str:
        """The job as TOML text, written to ``path`` if one is given."""
        plain = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in _TABLES and getattr(self, f.name) is not None
        }
        # TOML has no null: "clip = 0" is no clipping.
        plain["clip"] = self.clip or 0.0
        document = {
            "format": FORMAT,
            **plain,
            "model": dict(self.model.config),
            "partition": {"boundaries": list(self.partition.boundaries)},
            "schedule": _schedule_to_dict(self.schedule),
            "data": self.data.to_dict(),
            "optimizer": optimizers.to_dict(self.optimizer),
            "learning_rate": optimizers.to_dict(self.learning_rate),
        }
        if self.model.weights:
            document["weights"] = self.model.weights
        text = tomli_w.dumps(document)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_toml(cls, source: str | Path) -> Job:
        """A job from a TOML file or text. Raises ValueError naming what is wrong in
        it."""
        document = _read(source)
        form = document.pop("format", None)
        if form != FORMAT:
            raise ValueError(
                f"the job's format is {form!r}; this version reads format {FORMAT}"
            )
        missing = [k for k in _TABLES if k not in document]
        if missing:
            raise ValueError(f"the job lacks {', '.join(missing)}")
        weights = document.pop("weights", None)
        model = Model.from_config(document.pop("model"))
        if weights:
            model = Model(model.config, model.layers, weights)
        boundaries = document.pop("partition").get("boundaries")
        partition = Partition(model, boundaries=boundaries)
        schedule = _schedule_from_dict(document.pop("schedule"))
        data = Data.from_dict(document.pop("data"))
        optimizer = optimizers.from_dict(document.pop("optimizer"))
        learning_rate = optimizers.from_dict(document.pop("learning_rate"))
        document["clip"] = document.get("clip") or None
        unknown = set(document) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(
                f"the job has unknown entries: {', '.join(sorted(unknown))}"
            )
        return cls(
            model=model,
            partition=partition,
            schedule=schedule,
            data=data,
            optimizer=optimizer,
            learning_rate=learning_rate,
            **document,
        )


_TABLES = ("model", "partition", "schedule", "data", "optimizer", "learning_rate")


def _read(source: str | Path) -> dict[str, Any]:
    is_text = isinstance(source, str) and "\n" in source
    try:
        if is_text:
            return tomllib.loads(str(source))
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"no job file at {path}")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the job is not TOML: {error}") from None


def _schedule_to_dict(schedule: Schedule) -> dict[str, Any]:
    copies = {}
    if schedule.copy_of is not None and schedule.route is not None:
        copies = {"copy_of": list(schedule.copy_of), "route": list(schedule.route)}
    return {
        "name": schedule.name,
        "num_microbatches": schedule.num_microbatches,
        "num_slices": schedule.num_slices,
        "stage_to_rank": list(schedule.stage_to_rank),
        "ranks": [" ".join(str(a) for a in actions) for actions in schedule.ranks],
        **copies,
    }


def _schedule_from_dict(values: dict[str, Any]) -> Schedule:
    try:
        return Schedule(
            name=values["name"],
            ranks=tuple(tuple(map(parse, row.split())) for row in values["ranks"]),
            stage_to_rank=values["stage_to_rank"],
            num_microbatches=values["num_microbatches"],
            num_slices=values.get("num_slices", 1),
            copy_of=values.get("copy_of"),
            route=values.get("route"),
        )
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"the job's schedule is incomplete: {error}") from None
