"""Optimizers and learning-rate schedules, as values; their arithmetic is in C.

A learning-rate schedule gives the whole run's rates before it starts, so that no Python
is needed between steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


def _check(value: float, name: str, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value < high:
        raise ValueError(f"{name} must be in [{low:g}, {high:g}), got {value!r}")


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Decay applies to matrices; biases, norms and embeddings are left alone, as is the
    habit.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2:
            raise ValueError(f"betas takes two numbers, got {self.betas}")
        _check(self.lr, "lr", 0.0, math.inf)
        _check(self.betas[0], "betas[0]", 0.0, 1.0)
        _check(self.betas[1], "betas[1]", 0.0, 1.0)
        _check(self.weight_decay, "weight_decay", 0.0, math.inf)
        if not self.eps > 0:
            raise ValueError(f"eps must be positive, got {self.eps!r}")


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as in PyTorch (no dampening)."""

    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr, "lr", 0.0, math.inf)
        _check(self.momentum, "momentum", 0.0, 1.0)
        _check(self.weight_decay, "weight_decay", 0.0, math.inf)


Optimizer = AdamW | SGD


@dataclass(frozen=True)
class Constant:
    """The optimizer's ``lr``, throughout."""

    def factors(self, steps: int) -> np.ndarray:
        """(steps,) float64 multiples of the optimizer's ``lr``."""
        return np.ones(steps)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up over ``warmup`` steps, then half a cosine down to ``final`` x lr
    at the run's last step (Loshchilov & Hutter 2017, without restarts)."""

    warmup: int = 0
    final: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup cannot be negative, got {self.warmup}")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is a fraction of lr, got {self.final!r}")

    def factors(self, steps: int) -> np.ndarray:
        """(steps,) float64 multiples of the optimizer's ``lr``."""
        step = np.arange(steps)
        rising = (step + 1) / max(1, self.warmup)
        progress = (step - self.warmup) / max(1, steps - 1 - self.warmup)
        falling = 0.5 * (1 + np.cos(np.pi * np.clip(progress, 0, 1)))
        return np.where(
            step < self.warmup, rising, self.final + (1 - self.final) * falling
        )


LearningRate = Constant | WarmupCosine

_KINDS: dict[str, type] = {
    "adamw": AdamW,
    "sgd": SGD,
    "constant": Constant,
    "warmup_cosine": WarmupCosine,
}
KIND_OF = {kind: name for name, kind in _KINDS.items()}


def to_dict(value: Optimizer | LearningRate) -> dict[str, Any]:
    plain = {
        k: list(v) if isinstance(v, tuple) else v for k, v in asdict(value).items()
    }
    return {"kind": KIND_OF[type(value)], **plain}


def from_dict(values: dict[str, Any]) -> Any:
    """Inverse of ``to_dict``. Raises ValueError for a kind or an option it does not
    know."""
    options = dict(values)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**options)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None
