"""Weights in a safetensors file, and their hash.

A file keeps the order in which its tensors were given, which safetensors alone does
not. What cannot be kept to the bit is refused; what is read is checked against what was
expected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .write import replace_file

_ORDER = "workbench.order"
_KINDS = frozenset(
    np.dtype(kind)
    for kind in ("?", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4")
) | frozenset(np.dtype(kind) for kind in ("<u8", "<i8", "<f8"))


def save_weights(
    path: str | Path,
    weights: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays by name to a safetensors file, atomically.

    Raises ValueError for a type that safetensors does not hold or metadata that is not
    text, and OSError naming the path when it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = {}
    for name, array in weights.items():
        if array.dtype not in _KINDS:
            raise ValueError(f"{name} is of type {array.dtype}, which cannot be saved")
        # safetensors writes the memory as it lies: a strided view would be garbled.
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    told = dict(metadata or {})
    if not all(isinstance(text, str) for text in (*told, *told.values())):
        raise ValueError(f"metadata must be text to text, got {told!r}")
    told[_ORDER] = json.dumps(list(arrays))

    def write(temporary: Path) -> None:
        try:
            save_file(arrays, temporary, told)
        except SafetensorError as error:  # it hides the system's errors in its own
            raise OSError(None, str(error)) from error

    replace_file(Path(path), write)


def load_weights(
    path: str | Path, expect: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, in the order in which they were saved.

    With ``expect``, each of its names must be there with the same shape and type.
    Raises ValueError naming the path and what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there are no weights at {file}")
    try:
        with safe_open(file, framework="numpy") as handle:
            names = _ordered(handle.keys(), handle.metadata())
            loaded = {name: handle.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from None
    for name, wanted in (expect or {}).items():
        if name not in loaded:
            raise ValueError(f"{file} lacks {name}")
        found = loaded[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"{name} in {file} is {found.dtype} of shape {found.shape}; expected "
                f"{wanted.dtype} of shape {wanted.shape}"
            )
    return loaded


def _ordered(names: Iterable[str], metadata: Mapping[str, str] | None) -> list[str]:
    """The saved order if the file tells one of just these names; else the file's."""
    found = list(names)
    try:
        order: Any = json.loads((metadata or {}).get(_ORDER, "[]"))
    except ValueError:
        return found
    fits = isinstance(order, list) and all(isinstance(name, str) for name in order)
    return order if fits and sorted(order) == sorted(found) else found


def weights_hash(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 in hex over the arrays' bytes, one after another: C order, little-endian.

    Given in layer order it is free of how the layers were split.
    """
    digest = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
