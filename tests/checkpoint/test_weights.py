"""Weights in files: every bit, every name, in order; and their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.checkpoint import (
    RunFolder,
    load_weights,
    save_weights,
    weights_hash,
    write,
)


def some_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "z.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "a.weight": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        "m.steps": np.array(7, np.int64),
        "b.empty": np.zeros((0, 4), np.float32),
        "half": np.arange(4, dtype=np.float16),
    }


def test_every_bit_and_the_order_survive(tmp_path: Path) -> None:
    weights = some_weights()
    save_weights(tmp_path / "w.safetensors", weights, {"model": "gpt"})
    loaded = load_weights(tmp_path / "w.safetensors", expect=weights)
    assert list(loaded) == list(weights)
    for name, array in weights.items():
        assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
    assert weights_hash(loaded.values()) == weights_hash(weights.values())


def test_strided_and_transposed_arrays_are_saved_as_they_read(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    weights = {"t": base.T, "s": base[::2, ::3], "r": base[::-1]}
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all((loaded[name] == array).all() for name, array in weights.items())


def test_metadata_is_in_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_weights(tmp_path / "w.safetensors", some_weights(), {"step": "12"})
    with safe_open(tmp_path / "w.safetensors", framework="numpy") as handle:
        assert handle.metadata()["step"] == "12"


def test_files_of_others_load_without_an_order(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for metadata in (
        None,
        {"workbench.order": "no json"},
        {"workbench.order": '["x"]'},
    ):
        save_file({"b": np.ones(2), "a": np.zeros(3)}, tmp_path / "w", metadata)
        assert set(load_weights(tmp_path / "w")) == {"a", "b"}


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", ">f4", "M8[s]"])
def test_types_that_cannot_be_kept_are_refused(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"w is of type"):
        save_weights(tmp_path / "w.safetensors", {"w": np.zeros(2, dtype)})
    assert list(tmp_path.iterdir()) == []


def test_metadata_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text to text"):
        wrong: Any = {"step": 3}
        save_weights(tmp_path / "w", some_weights(), wrong)


def test_what_is_missing_or_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match=r"no weights at .*w\.safetensors"):
        load_weights(path)
    save_weights(path, {"a": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match="lacks b"):
        load_weights(path, expect={"b": np.zeros(1)})
    with pytest.raises(
        ValueError, match=r"float32 of shape \(2, 3\); expected float32"
    ):
        load_weights(path, expect={"a": np.zeros((3, 2), np.float32)})
    with pytest.raises(ValueError, match="expected float64"):
        load_weights(path, expect={"a": np.zeros((2, 3))})


@pytest.mark.parametrize("keep", [0, 4, 40])
def test_a_damaged_file_is_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, some_weights())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read"):
        load_weights(path)


def test_a_full_disk_names_the_path_and_keeps_the_old_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    path = folder.save_weights("w.safetensors", some_weights())
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left .*w\.safetensors"):
        folder.save_weights("w.safetensors", {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in folder.path.iterdir()] == ["w.safetensors"]


def test_errors_inside_safetensors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing.w\.safetensors"):
        save_weights(tmp_path / "missing" / "w.safetensors", some_weights())


@given(st.lists(st.lists(st.floats(width=32), max_size=6), max_size=5), st.data())
def test_the_hash_is_over_bytes_in_order_however_they_are_cut(
    rows: list[list[float]], data: st.DataObject
) -> None:
    arrays = [np.array(row, np.float32) for row in rows]
    joined = b"".join(array.tobytes() for array in arrays)
    assert weights_hash(arrays) == hashlib.sha256(joined).hexdigest()
    whole = np.frombuffer(joined, np.float32)
    cut = data.draw(st.integers(0, len(whole)))
    assert weights_hash([whole[:cut], whole[cut:]]) == weights_hash(arrays)


def test_the_hash_does_not_depend_on_memory_layout() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    fortran, big = np.asfortranarray(array), array.astype(">f4")
    assert weights_hash([fortran]) == weights_hash([big]) == weights_hash([array])
    assert weights_hash([array]) != weights_hash([array[::-1]])
