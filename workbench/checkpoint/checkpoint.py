"""Checkpoints: all that a run needs to go on, free of how it was laid out.

A checkpoint is a folder ``checkpoints/step-00000037`` of a run's folder: parameters and
moments by layer and name in safetensors files, the losses so far, and a manifest with a
hash of every tensor and of itself. It is written under another name, forced to disk and
renamed, so it is there whole or not at all; what was damaged later is found before it is
used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .weights import load_weights, save_weights
from .write import sync_folder, write_text

FORMAT = 1
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
#: What there is a file of each: parameters, the optimizer's moments, losses and norms.
PARTS = ("param", "first_moment", "second_moment", "history")
_MOST_MANIFEST = 1 << 26
_NAME = re.compile(r"step-(\d{8})")


@dataclass
class CheckpointState:
    """A run between two steps. ``identity``: all that its bits depend on, as plain
    values; ``tensors``: by part ("param", "first_moment", "second_moment", "history")
    and name."""

    step: int
    identity: dict[str, Any]
    tensors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)


def _digest(array: np.ndarray) -> str:
    flat = np.ascontiguousarray(array).reshape(-1)
    return hashlib.sha256(flat.view(np.uint8).data).hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def save_checkpoint(
    folder: str | Path, state: CheckpointState, keep: int | None = None
) -> Path:
    """Writes ``checkpoints/step-<step>`` into a run's folder and returns its path;
    ``keep``: so many of the newest stay (None: all).

    Raises OSError naming the path when it cannot be written; what was there before is
    then untouched.
    """
    root = Path(folder) / FOLDER
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{state.step:08d}"
    part = root / f".{final.name}.{secrets.token_hex(4)}.tmp"
    part.mkdir()
    try:
        files: dict[str, Any] = {}
        for name in PARTS:
            arrays = state.tensors.get(name, {})
            save_weights(part / f"{name}.safetensors", arrays)
            files[name] = {
                key: {
                    "shape": list(array.shape),
                    "dtype": array.dtype.str,
                    "sha256": _digest(array),
                }
                for key, array in arrays.items()
            }
        content = {
            "format": FORMAT,
            "step": state.step,
            "identity": state.identity,
            "tensors": files,
        }
        digest = hashlib.sha256(_canonical(content).encode()).hexdigest()
        manifest = {"sha256": digest, "content": content}
        write_text(part / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        if final.exists():  # of a run that was taken back to before this step
            shutil.rmtree(final)
        os.replace(part, final)
        sync_folder(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if keep is not None:
        for _, old in _found(root)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _found(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of what is named like a checkpoint, the newest first."""
    if not root.is_dir():
        return []
    named = [(match, path) for path in root.iterdir() if (match := _match(path))]
    return sorted(((int(m[1]), path) for m, path in named), reverse=True)


def _match(path: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(path.name)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if file.is_symlink() or path.is_symlink():
        raise ValueError("it is a link to somewhere else")
    if not file.is_file():
        raise ValueError(f"{MANIFEST} is missing")
    if file.stat().st_size > _MOST_MANIFEST:
        raise ValueError(f"{MANIFEST} is larger than any")
    told = json.loads(
        file.read_text(encoding="utf-8"),
        object_pairs_hook=_no_twins,
        parse_constant=_refuse,
    )
    if not isinstance(told, dict) or set(told) != {"sha256", "content"}:
        raise ValueError(f"{MANIFEST} is none of a checkpoint")
    content = told["content"]
    digest = hashlib.sha256(_canonical(content).encode()).hexdigest()
    if digest != told["sha256"]:
        raise ValueError(f"{MANIFEST} was changed after it was written")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"its format is {content.get('format')!r}; this version reads {FORMAT}"
        )
    return dict(content)


def _read_part(path: Path, told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if path.is_symlink():
        raise ValueError(f"{path.name} is a link to somewhere else")
    arrays = load_weights(path)
    if set(arrays) != set(told):
        odd = sorted(set(arrays) ^ set(told))
        raise ValueError(f"{path.name} lacks, or has too much: {', '.join(odd[:5])}")
    for name, array in arrays.items():
        wanted = told[name]
        shape, dtype = list(array.shape), array.dtype.str
        if shape != wanted["shape"] or dtype != wanted["dtype"]:
            raise ValueError(f"{name} in {path.name} is {dtype} of shape {shape}")
        if _digest(array) != wanted["sha256"]:
            raise ValueError(f"{name} in {path.name} is not what was written")
    return {name: arrays[name] for name in told}


def load_checkpoint(path: str | Path) -> CheckpointState:
    """A checkpoint's folder, checked whole before anything of it is used.

    Raises ValueError naming the path and what is missing, too much, or damaged.
    """
    folder = Path(path)
    try:
        content = _read_manifest(folder)
        tensors = {
            part: _read_part(folder / f"{part}.safetensors", content["tensors"][part])
            for part in PARTS
        }
        step = content["step"]
        match = _match(folder)
        if type(step) is not int or (match is not None and int(match[1]) != step):
            raise ValueError(f"its step is {step!r}")
        return CheckpointState(step, dict(content["identity"]), tensors)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        what = f"{error}" if not isinstance(error, KeyError) else f"{error} is missing"
        raise ValueError(f"{folder} cannot be used as a checkpoint: {what}") from None


def find_checkpoint(path: str | Path) -> CheckpointState:
    """The newest whole checkpoint of a run's folder, or of a folder of checkpoints; or
    the one that ``path`` itself is.

    Raises ValueError when there is none, saying what is wrong with those that are
    there.
    """
    folder = Path(path)
    if (folder / MANIFEST).exists() or _match(folder):
        return load_checkpoint(folder)
    root = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    problems = []
    for _, candidate in _found(root):
        try:
            return load_checkpoint(candidate)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(
        "\n".join([f"{folder} has no checkpoint to go on from", *problems])
    )
