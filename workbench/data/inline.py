"""Small arrays inside a job's file, so that a job made of them needs no other file.

A table of dtype, shape and the bytes, compressed and in base64. Large arrays are left
out: they belong in a ``.npy`` or ``.bin`` file, and reading such a job back says so.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

MAX_BYTES = 1 << 20


def encode(array: np.ndarray) -> dict[str, Any]:
    """A table for TOML or JSON; its bytes little-endian, in C order."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    packed = base64.b64encode(zlib.compress(little.tobytes(), 9)).decode("ascii")
    return {"dtype": little.dtype.str, "shape": list(little.shape), "bytes": packed}


def decode(table: Mapping[str, Any]) -> np.ndarray:
    """The array of a table. Raises ValueError when it is damaged."""
    try:
        raw = zlib.decompress(base64.b64decode(table["bytes"], validate=True))
        return np.frombuffer(raw, np.dtype(table["dtype"])).reshape(table["shape"])
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"an array in the job's data is damaged: {error}") from None
