"""Initial weights: counter-based random numbers, keyed by (seed, layer, parameter).

A weight depends on where it stands in the model and on nothing else: not on the split,
the rank or the order in which stages are set up. Only integer arithmetic and one
division decide its bits, so they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .layers import Parameter
    from .model import Model

# The sum of eight uniform 16-bit integers (Irwin-Hall) is normal to within 1 % of its
# density inside two standard deviations, and never lies further out than 4.9.
_TERMS = 8
_MEAN = _TERMS * (2**16 - 1) / 2
_STD = (_TERMS * (2.0**32 - 1) / 12) ** 0.5


def initial_values(
    parameter: Parameter, seed: int, layer: int, index: int
) -> np.ndarray:
    """float32 initial values of the layer's parameter number ``index``.

    The random bits are Philox 4x64-10 (Salmon et al. 2011) with key (seed, layer,
    index).
    """
    if parameter.std == 0.0:
        return np.full(parameter.shape, parameter.fill, np.float32)
    key = np.array([seed, (layer << 32) | index], dtype=np.uint64)
    bits = np.random.Philox(key=key).random_raw(2 * parameter.size)
    sums = (
        bits.astype("<u8").view("<u2").reshape(-1, _TERMS).sum(axis=1, dtype=np.int64)
    )
    normal = (sums - _MEAN) / _STD
    return (normal * parameter.std).astype(np.float32).reshape(parameter.shape)


def initial_weights(model: Model, seed: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """(layer index, parameter name, values) over the whole model, in layer order; a
    tied parameter has none of its own."""
    for number, layer in enumerate(model.layers):
        for index, parameter in enumerate(layer.parameters):
            if parameter.tied_to is None:
                yield (
                    number,
                    parameter.name,
                    initial_values(parameter, seed, number, index),
                )
