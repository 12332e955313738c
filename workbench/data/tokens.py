"""Tokens and rows as arrays: from memory, from ``.bin`` shards, from ``.npy`` files.

What is too large for its vocabulary, has no such length, or is no number at all is
refused with its place. Tokens are stored in the smallest of uint8, uint16 and int32
that holds the vocabulary, which are the types that the engine reads.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .sources import nearest_sibling

_BLOCK = 1 << 22  # elements looked at together: large shards never lie in memory twice
_HEADER = 256  # int32 values before the tokens of a shard as llm.c writes them
_HEADER_DTYPES = {20240520: "<u2", 20240801: "<u4"}


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint8, uint16 or int32: the smallest that the engine reads and that fits.

    Raises ValueError when vocab_size is not in 1..2^31.
    """
    if not isinstance(vocab_size, int) or not 1 <= vocab_size <= 1 << 31:
        raise ValueError(
            f"vocab_size must be a whole number in 1..2^31, got {vocab_size!r}"
        )
    if vocab_size <= 1 << 8:
        return np.dtype(np.uint8)
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<i4")


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, if it is there; else a ValueError that names the nearest sibling."""
    found = Path(path).expanduser()
    if found.exists():
        return found
    near = nearest_sibling(found)
    hint = f"; did you mean {str(near)!r}?" if near else ""
    raise ValueError(f"there is no file {str(path)!r}{hint}")


def read_shards(path: Path, dtype: str) -> np.ndarray:
    """A ``.bin`` or ``.npy`` file's tokens, mapped; or a folder's, joined in order."""
    if path.is_file():
        return _read_shard(path, dtype)
    shards = sorted(p for p in path.iterdir() if p.suffix == ".bin")
    if not shards:
        raise ValueError(f"no .bin shards in {path}")
    return np.concatenate([_read_shard(shard, dtype) for shard in shards])


def _read_shard(path: Path, dtype: str) -> np.ndarray:
    if path.suffix == ".npy":
        return load_npy(path)
    if dtype not in ("uint16", "uint32"):
        raise ValueError(f'dtype must be "uint16" or "uint32", got {dtype!r}')
    size = path.stat().st_size
    kind, offset = np.dtype(dtype).newbyteorder("<"), 0
    if size >= 4 * _HEADER:
        magic = int(np.fromfile(path, "<i4", 1)[0])
        if magic in _HEADER_DTYPES:
            kind, offset = np.dtype(_HEADER_DTYPES[magic]), 4 * _HEADER
    if size == offset:
        raise ValueError(f"the text is empty: {path} has no tokens")
    if (size - offset) % kind.itemsize:
        raise ValueError(
            f"{path} has {size - offset} bytes, which is no whole number of "
            f"{kind.name} tokens; is it the other dtype?"
        )
    return np.memmap(path, kind, "r", offset)


def load_npy(path: Path) -> np.ndarray:
    """A ``.npy`` file, mapped. Raises ValueError for anything else, also pickles."""
    try:
        loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from None


def check_tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """The tokens in ``token_dtype(vocab_size)``; no copy where they are so already."""
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(
            "tokens must be a one-dimensional array of integers, got shape "
            f"{tokens.shape} of {tokens.dtype}"
        )
    if not tokens.size:
        raise ValueError("the text is empty: there are no tokens")
    kind = token_dtype(vocab_size)
    for begin in range(0, tokens.size, _BLOCK):
        block = tokens[begin : begin + _BLOCK]
        wrong = np.flatnonzero((block < 0) | (block >= vocab_size))
        if wrong.size:
            at = begin + int(wrong[0])
            raise ValueError(
                f"token {int(tokens[at])} at position {at} is not in "
                f"0..{vocab_size - 1}; vocab_size is {vocab_size}: raise it, or check "
                "the file's dtype"
            )
    # A uint32 shard of checked tokens is an int32 one, bit for bit: it stays mapped.
    if kind == np.dtype("<i4") and tokens.dtype == np.dtype("<u4"):
        return tokens.view("<i4")
    return np.ascontiguousarray(tokens, kind)


def check_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """(n, width) float32, C order. Raises ValueError naming what is not finite."""
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must have shape (rows, width) and hold numbers, got shape "
            f"{rows.shape} of {rows.dtype}; a single column is array.reshape(-1, 1)"
        )
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(rows, np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise ValueError(
            f"{name} has a value in row {int(wrong[0])} that is not finite"
        )
    return values


def counts(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """(vocab_size,) int64: how often each token occurs."""
    total = np.zeros(vocab_size, np.int64)
    for begin in range(0, tokens.size, _BLOCK):
        total += np.bincount(tokens[begin : begin + _BLOCK], minlength=vocab_size)
    return total
