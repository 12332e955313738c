"""Model: an ordered tuple of layers, shapes only.

Building a model allocates nothing, so a 405-billion-parameter one is as free as a toy.
A model is made by its constructors, which check what they are given; weights come from
a seed or from safetensors when a job is launched.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .block import Block
from .layers import Dense, Embedding, Head, Layer
from .moe import MoEBlock
from .presets import PRESETS


def _positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{name} must be a whole number of at least 1, got {value!r}"
            )


def _heads(width: int, num_heads: int, num_kv_heads: int, rotary: bool) -> None:
    if width % num_heads:
        fits = [h for h in range(1, width + 1) if width % h == 0]
        nearest = min(fits, key=lambda h: (abs(h - num_heads), h))
        raise ValueError(
            f"width {width} is not divisible by num_heads {num_heads}; "
            f"the nearest number of heads that divides it is {nearest}"
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}; "
            "each key/value head serves the same number of query heads"
        )
    if rotary and (width // num_heads) % 2:
        raise ValueError(
            f"rotary positions need an even head size, got {width} / {num_heads} = "
            f"{width // num_heads}"
        )


@dataclass(frozen=True)
class Model:
    """What is trained: ``layers`` in order, and the ``config`` they were built from.

    ``weights`` optionally names a safetensors file whose values replace the seeded
    ones.
    """

    config: Mapping[str, Any]
    layers: tuple[Layer, ...] = field(repr=False)
    weights: str | None = None

    def __post_init__(self) -> None:
        known: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            for p in layer.parameters:
                name = f"{layer.name}.{p.name}"
                if p.tied_to is None:
                    known[name] = p.shape
                elif known.get(p.tied_to) != p.shape:
                    raise ValueError(
                        f"{name} of shape {p.shape} is tied to {p.tied_to}, but no "
                        "earlier layer has a parameter of that name and shape, itself "
                        f"not tied; there are {', '.join(known) or 'none'}"
                    )

    # ---- constructors ----------------------------------------------------------------

    @classmethod
    def gpt(
        cls,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        vocab_size: int = 256,
        context: int,
        hidden: int | None = None,
        tied: bool = False,
    ) -> Model:
        """A GPT-2-like model: learned positions, LayerNorm, GELU.

        Layers: embedding, ``num_layers`` blocks, head: num_layers + 2 in all. ``tied``:
        the head projects with the embedding's rows, as GPT-2's does. Raises
        ValueError when the width is not divisible by the heads or a size is not
        positive.
        """
        hidden = 4 * width if hidden is None else hidden
        if not isinstance(tied, bool):
            raise ValueError(f"tied must be True or False, got {tied!r}")
        _positive(
            num_layers=num_layers, width=width, num_heads=num_heads, hidden=hidden
        )
        _positive(vocab_size=vocab_size, context=context)
        _heads(width, num_heads, num_heads, rotary=False)
        std = 0.02 / (2 * num_layers) ** 0.5
        blocks = (
            Block(
                f"block{i}",
                context,
                width,
                num_heads,
                num_heads,
                hidden,
                residual_std=std,
            )
            for i in range(num_layers)
        )
        config = dict(
            kind="gpt",
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            vocab_size=vocab_size,
            context=context,
            hidden=hidden,
        )
        if tied:
            config["tied"] = True
        embedding = Embedding("embedding", vocab_size, context, width)
        weight = "embedding.token" if tied else None
        head = Head("head", vocab_size, context, width, tied_to=weight)
        return cls(config, (embedding, *blocks, head))

    @classmethod
    def llama(
        cls,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        vocab_size: int = 256,
        context: int,
        hidden: int | None = None,
        rope_theta: float = 10000.0,
    ) -> Model:
        """A Llama-like model: rotary positions, RMSNorm, SwiGLU, grouped queries, no
        bias."""
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        hidden = -(-8 * width // 3) if hidden is None else hidden
        _positive(
            num_layers=num_layers, width=width, num_heads=num_heads, hidden=hidden
        )
        _positive(vocab_size=vocab_size, context=context, num_kv_heads=num_kv_heads)
        _heads(width, num_heads, num_kv_heads, rotary=True)
        config = dict(
            kind="llama",
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            vocab_size=vocab_size,
            context=context,
            hidden=hidden,
            rope_theta=rope_theta,
        )
        blocks = (
            Block(
                f"block{i}",
                context,
                width,
                num_heads,
                num_kv_heads,
                hidden,
                norm="rmsnorm",
                mlp="swiglu",
                bias=False,
                rope_theta=rope_theta,
                residual_std=0.02 / (2 * num_layers) ** 0.5,
            )
            for i in range(num_layers)
        )
        embedding = Embedding("embedding", vocab_size, context, width, positions=False)
        head = Head("head", vocab_size, context, width, norm="rmsnorm")
        return cls(config, (embedding, *blocks, head))

    @classmethod
    def moe(
        cls,
        *,
        num_layers: int,
        width: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        vocab_size: int = 256,
        context: int,
        num_experts: int,
        experts_per_token: int,
        expert_hidden: int,
        shared_hidden: int = 0,
        rope_theta: float = 10000.0,
    ) -> Model:
        """A mixture-of-experts model for costs and planning.

        The engine has no kernels for expert layers: launching it raises a ValueError.
        """
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        _positive(num_layers=num_layers, width=width, num_heads=num_heads)
        _positive(vocab_size=vocab_size, context=context, num_kv_heads=num_kv_heads)
        _positive(num_experts=num_experts, experts_per_token=experts_per_token)
        _positive(expert_hidden=expert_hidden)
        _heads(width, num_heads, num_kv_heads, rotary=True)
        if experts_per_token > num_experts:
            raise ValueError(
                f"experts_per_token {experts_per_token} is more than the "
                f"{num_experts} experts there are"
            )
        config = dict(
            kind="moe",
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            vocab_size=vocab_size,
            context=context,
            num_experts=num_experts,
            experts_per_token=experts_per_token,
            expert_hidden=expert_hidden,
            shared_hidden=shared_hidden,
            rope_theta=rope_theta,
        )
        blocks = (
            MoEBlock(
                f"block{i}",
                context,
                width,
                num_heads,
                num_kv_heads,
                num_experts,
                experts_per_token,
                expert_hidden,
                shared_hidden,
            )
            for i in range(num_layers)
        )
        embedding = Embedding("embedding", vocab_size, context, width, positions=False)
        head = Head("head", vocab_size, context, width, norm="rmsnorm")
        return cls(config, (embedding, *blocks, head))

    @classmethod
    def mlp(cls, *, widths: Sequence[int]) -> Model:
        """Linear layers with ReLU between them and a mean-square loss at the end.

        ``widths``: input, hidden ..., output; at least two. Trains on ``Data.arrays``.
        """
        widths = tuple(widths)
        if len(widths) < 2:
            raise ValueError(f"widths needs an input and an output size, got {widths}")
        _positive(**{f"widths[{i}]": w for i, w in enumerate(widths)})
        last = len(widths) - 2
        layers = (
            Dense(
                f"dense{i}",
                widths[i],
                widths[i + 1],
                relu=i < last,
                is_input=i == 0,
                loss="mse" if i == last else None,
            )
            for i in range(last + 1)
        )
        return cls(dict(kind="mlp", widths=list(widths)), tuple(layers))

    @classmethod
    def preset(cls, name: str) -> Model:
        """A model by name; ``PRESETS`` in ``workbench.model`` lists them."""
        if name not in PRESETS:
            near = difflib.get_close_matches(str(name), PRESETS, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"no preset {name!r}: {hint}There are {', '.join(sorted(PRESETS))}"
            )
        return cls.from_config(PRESETS[name])

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Model:
        """The inverse of ``model.config``. Raises ValueError for what it does not
        know."""
        options = dict(config)
        kind = options.pop("kind", None)
        makers: dict[str, Callable[..., Model]] = {
            "gpt": cls.gpt,
            "llama": cls.llama,
            "moe": cls.moe,
            "mlp": cls.mlp,
        }
        if kind not in makers:
            raise ValueError(
                f"unknown kind of model {kind!r}; known: {', '.join(makers)}"
            )
        try:
            return makers[kind](**options)
        except TypeError as error:
            raise ValueError(
                f"the config does not describe a {kind} model: {error}"
            ) from None

    @classmethod
    def from_safetensors(cls, path: str | Path) -> Model:
        """A model with the weights that a run saved: a file, or the folder that holds
        ``weights.safetensors``. Raises ValueError when it is not there or not ours."""
        from safetensors import SafetensorError, safe_open

        file = Path(path)
        file = file / "weights.safetensors" if file.is_dir() else file
        if not file.is_file():
            raise ValueError(f"no weights at {file}: give a run's folder or its file")
        try:
            with safe_open(str(file), framework="numpy") as handle:
                metadata = handle.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file: {error}") from None
        if "model" not in metadata:
            raise ValueError(f"{file} does not say which model its weights belong to")
        model = cls.from_config(json.loads(metadata["model"]))
        return cls(model.config, model.layers, str(file))

    # ---- what it is ------------------------------------------------------------------

    @property
    def num_layers(self) -> int:
        """Layers as partitions count them: embedding, blocks and head."""
        return len(self.layers)

    @property
    def params(self) -> int:
        """Number of parameters; a tied one counts once."""
        held = (p for layer in self.layers for p in layer.parameters)
        return sum(p.size for p in held if p.tied_to is None)

    @property
    def flops(self) -> float:
        """Forward FLOPs of one sequence (attention: its causal half)."""
        return sum(layer.flops for layer in self.layers)

    @property
    def is_language_model(self) -> bool:
        return self.config["kind"] != "mlp"

    @property
    def context(self) -> int:
        """Tokens of a sequence; 1 for a model of rows."""
        return int(self.config.get("context", 1))

    @property
    def vocab_size(self) -> int | None:
        size = self.config.get("vocab_size")
        return None if size is None else int(size)

    def __str__(self) -> str:
        lines = [f"{self.config['kind']} model, {self.params:,} parameters"]
        for index, layer in enumerate(self.layers):
            lines.append(f"  {index:3}  {layer.name:12} {layer.params:14,} parameters")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{i}</td><td>{layer.name}</td><td>{layer.params:,}</td>"
            f"<td>{layer.flops / 1e6:,.1f}</td></tr>"
            for i, layer in enumerate(self.layers)
        )
        return (
            f"<p>{self.config['kind']} model, {self.params:,} parameters</p><table><thead><tr>"
            "<th>layer</th><th>name</th><th>parameters</th><th>forward MFLOP / sequence</th>"
            f"</tr></thead><tbody>{rows}</tbody></table>"
        )
