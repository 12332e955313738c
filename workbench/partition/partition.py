"""Partition: which layers each stage holds, as boundaries between them.

Stage s is ``layers[boundaries[s] : boundaries[s + 1]]``; every layer lies in exactly
one stage and no stage is empty, or a ValueError says which. Memory and engine lay
stages out by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from ..model import Layer, Model
from .balance import split_evenly
from .layouts import (
    megatron_boundaries,
    megatron_layout,
    torchtitan_boundaries,
    torchtitan_modules,
)
from .measures import ScheduleLike, stage_costs

_HUES = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7")


@dataclass(frozen=True, repr=False)
class Partition:
    """A model split into stages.

    model: what is split
    boundaries: 0, then where each next stage begins, then the number of layers
    by: the measure of ``imbalance`` and the drawing; does not count for equality

    Raises ValueError when boundaries skip layers, leave a stage empty, or go astray.
    """

    model: Model
    boundaries: tuple[int, ...]
    by: str = field(default="flops", compare=False)
    _costs: tuple[float, ...] | None = field(default=None, compare=False)

    def __init__(
        self,
        model: Model,
        boundaries: Sequence[int],
        by: str = "flops",
        _costs: tuple[float, ...] | None = None,
    ) -> None:
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "boundaries", _checked(boundaries, model.num_layers))
        object.__setattr__(self, "by", by)
        if _costs is None:
            _costs = self._measure(
                stage_costs(model, self.num_stages, by, None, None, 1)
            )
        object.__setattr__(self, "_costs", _costs)

    @classmethod
    def balanced(
        cls,
        model: Model,
        num_stages: int,
        by: str = "flops",
        *,
        times: Sequence[float] | None = None,
        schedule: ScheduleLike | None = None,
        microbatch_size: int = 1,
    ) -> Partition:
        """The split whose largest stage is the least possible (``split_evenly``).

        by: "layers"; "params"; "flops" (forward FLOPs of a sequence); "time" with
        ``times``, the seconds of every layer; "memory" with ``schedule`` (and
        ``microbatch_size``): training state under AdamW, and activations times the
        microbatches that the stage holds at once.

        Raises ValueError for more stages than layers, fewer than one, an unknown
        measure, or one whose input is missing.
        """
        _check_num_stages(num_stages, model.num_layers)
        costs = stage_costs(model, num_stages, by, times, schedule, microbatch_size)
        boundaries = split_evenly(costs)
        sums = tuple(
            float(sum(costs[s][boundaries[s] : boundaries[s + 1]]))
            for s in range(num_stages)
        )
        return cls(model, boundaries, by, sums)

    # ---- as other projects write it --------------------------------------------------

    @classmethod
    def from_megatron_layout(
        cls, model: Model, text: str, num_ranks: int | None = None
    ) -> Partition:
        """From Megatron-Core's ``--pipeline-model-parallel-layout``, such as
        ``Et*3|(tt|)*2tL``: E is the embedding, t a block, L the head; stages are
        divided by ``|``.

        Megatron puts stage j on rank j modulo ``num_ranks``; a schedule for this
        partition must place its stages so too. Raises ValueError, naming the rule, for
        a text or layout that Megatron refuses, and for empty stages, which it allows.
        """
        return cls(model, megatron_boundaries(model, text, num_ranks))

    def to_megatron_layout(self, num_ranks: int | None = None) -> str:
        """Megatron-Core's layout string of this partition; the inverse of
        ``from_megatron_layout``.

        The string does not say how many ranks there are: Megatron puts stage j on rank
        j modulo its pipeline size, a loop and never a V. Raises ValueError when the
        stages are no multiple of ``num_ranks``, and for models of rows.
        """
        return megatron_layout(self.model, self.boundaries, num_ranks)

    @classmethod
    def from_torchtitan(
        cls, model: Model, modules: Iterable[Iterable[str]]
    ) -> Partition:
        """From torchtitan's ``module_fqns_per_model_part``: a list per stage of module
        names (tok_embeddings, layers.0 ..., norm, output; lm_head for output).

        Raises ValueError for names that are unknown, missing, given twice or out of
        order, for empty stages, and where norm and output are apart: here they are one
        layer, the head.
        """
        return cls(model, torchtitan_boundaries(model, modules))

    def to_torchtitan(self) -> list[list[str]]:
        """torchtitan's ``module_fqns_per_model_part``: the module names of every stage
        in order. Which rank a stage lives on follows there from the schedule's name.
        Raises ValueError for models of rows."""
        return torchtitan_modules(self.model, self.boundaries)

    def _measure(self, costs: list[list[float]]) -> tuple[float, ...]:
        return tuple(
            float(sum(costs[s][i] for i in self.stage(s)))
            for s in range(self.num_stages)
        )

    # ---- what it is ------------------------------------------------------------------

    @property
    def num_stages(self) -> int:
        return len(self.boundaries) - 1

    def stage(self, stage: int) -> range:
        """The indices of a stage's layers. Raises ValueError for no such stage."""
        if not 0 <= stage < self.num_stages:
            raise ValueError(
                f"there is no stage {stage}; stages are 0..{self.num_stages - 1}"
            )
        return range(self.boundaries[stage], self.boundaries[stage + 1])

    def stage_layers(self, stage: int) -> tuple[Layer, ...]:
        """The layers of a stage."""
        indices = self.stage(stage)
        return self.model.layers[indices.start : indices.stop]

    def stage_of(self, layer: int) -> int:
        """The stage that holds a layer. Raises ValueError for no such layer."""
        for stage in range(self.num_stages):
            if layer in self.stage(stage):
                return stage
        raise ValueError(
            f"there is no layer {layer}; layers are 0..{self.model.num_layers - 1}"
        )

    def stage_params(self, stage: int) -> int:
        """Number of parameters of a stage."""
        return sum(layer.params for layer in self.stage_layers(stage))

    def stage_flops(self, stage: int) -> float:
        """Forward FLOPs of a stage, per sequence."""
        return sum(layer.flops for layer in self.stage_layers(stage))

    @property
    def costs(self) -> tuple[float, ...]:
        """Each stage's cost in the measure ``by``."""
        assert self._costs is not None
        return self._costs

    @property
    def imbalance(self) -> float:
        """The largest stage over the mean, in the measure ``by``; 1 is even."""
        total = sum(self.costs)
        return max(self.costs) * self.num_stages / total if total else 1.0

    # ---- how it looks ----------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Partition({list(self.boundaries)})"

    def __str__(self) -> str:
        imbalance = f"imbalance {self.imbalance:.3f} by {self.by}"
        lines = [f"{self.num_stages} stages {list(self.boundaries)}, {imbalance}"]
        for s in range(self.num_stages):
            names = ", ".join(layer.name for layer in self.stage_layers(s))
            share = 100 * self._share(s)
            lines.append(
                f"  stage {s}: {share:5.1f} %  "
                f"{self.stage_params(s):>14,} parameters  {names}"
            )
        return "\n".join(lines)

    def _share(self, stage: int) -> float:
        total = sum(self.costs)
        return self.costs[stage] / total if total else 1 / self.num_stages

    def _repr_html_(self) -> str:
        """A row per stage: a bar of its share, its layers as blocks, its sizes."""
        largest = max(self._share(s) for s in range(self.num_stages))
        rows = "".join(self._html_row(s, largest) for s in range(self.num_stages))
        head = "".join(
            f"<th>{name}</th>"
            for name in (
                "stage",
                f"share by {self.by}",
                "layers",
                "parameters",
                "MFLOP",
            )
        )
        told = f"{self.num_stages} stages, imbalance {self.imbalance:.3f} by {self.by}"
        return (
            f"<table><caption>{told}; forward MFLOP per sequence</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def _html_row(self, stage: int, largest: float) -> str:
        hue, share = _HUES[stage % len(_HUES)], self._share(stage)
        width = 120 * share / largest if largest else 0
        bar = (
            f'<div style="width:{width:.0f}px;height:1em;background:{hue};'
            f'display:inline-block"></div> {100 * share:.1f}&nbsp;%'
        )
        block = (
            f'<span style="background:{hue};color:#000;padding:0 4px;margin:1px;'
            'display:inline-block;border-radius:2px">{}</span>'
        )
        names = "".join(
            block.format(escape(la.name)) for la in self.stage_layers(stage)
        )
        left = '<td style="text-align:left;white-space:nowrap">'
        sizes = (
            f"{self.stage_params(stage):,}",
            f"{self.stage_flops(stage) / 1e6:,.1f}",
        )
        return (
            f"<tr><td>{stage}</td>{left}{bar}</td>{left}{names}</td>"
            f"<td>{sizes[0]}</td><td>{sizes[1]}</td></tr>"
        )


def _check_num_stages(num_stages: int, num_layers: int) -> None:
    if (
        not isinstance(num_stages, int)
        or isinstance(num_stages, bool)
        or num_stages < 1
    ):
        raise ValueError(
            f"num_stages must be a whole number of at least 1, got {num_stages!r}"
        )
    if num_stages > num_layers:
        raise ValueError(
            f"{num_stages} stages are more than the model's {num_layers} layers; take "
            f"at most {num_layers} stages, or a model with more layers"
        )


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _whole_numbers(boundaries: Sequence[int]) -> list[int]:
    if boundaries is None or isinstance(boundaries, (str, bytes)):
        raise ValueError(
            f"boundaries must be a list of layer numbers, got {boundaries!r}"
        )
    for value in boundaries:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"boundaries must be whole numbers, got {value!r}")
    return [value.__index__() for value in boundaries]


def _checked(boundaries: Sequence[int], num_layers: int) -> tuple[int, ...]:
    bounds = _whole_numbers(boundaries)
    told, count = f"boundaries {bounds}", f"{num_layers} (embedding and head count)"
    if len(bounds) < 2:
        raise ValueError(f"{told} make no stage; one stage is [0, {num_layers}]")
    _check_num_stages(len(bounds) - 1, num_layers)
    if bounds[0] > 0:
        skipped = _layers(0, bounds[0] - 1)
        raise ValueError(f"{told} skip {skipped}: the first must be 0")
    if bounds[0] < 0:
        raise ValueError(f"{told} begin before layer 0: the first must be 0")
    for s, (begin, end) in enumerate(pairwise(bounds)):
        if begin == end:
            raise ValueError(
                f"{told} leave stage {s} empty: {begin} stands twice; every stage "
                "needs at least one layer"
            )
        if begin > end:
            raise ValueError(f"{told} go back from {begin} to {end}; they must ascend")
    if bounds[-1] < num_layers:
        skipped = _layers(bounds[-1], num_layers - 1)
        raise ValueError(f"{told} skip {skipped}: the last must be {count}")
    if bounds[-1] > num_layers:
        raise ValueError(f"{told} go past the model's layers: the last must be {count}")
    return tuple(bounds)
