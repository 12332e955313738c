"""Checkpoints: there whole or not at all, and never used when they were damaged."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from workbench.checkpoint import (
    CheckpointState,
    checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write,
)


def made(step: int, seed: int = 0) -> CheckpointState:
    values = np.random.default_rng(seed + step)

    def tensors() -> dict[str, np.ndarray]:
        shapes = {"b.weight": (3, 5), "a.weight": (4,), "a.bias": (1,)}
        return {
            name: values.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    state = CheckpointState(step, {"seed": seed, "optimizer": {"lr": 0.1}})
    for part in ("param", "first_moment"):
        state.tensors[part] = tensors()
    state.tensors["second_moment"] = {}
    state.tensors["history"] = {"losses": values.normal(size=(step, 2))}
    return state


def same(one: CheckpointState, other: CheckpointState) -> bool:
    if (one.step, one.identity) != (other.step, other.identity):
        return False
    for part in checkpoint.PARTS:
        mine, theirs = one.tensors.get(part, {}), other.tensors.get(part, {})
        if list(mine) != list(theirs):
            return False
        if any(mine[n].tobytes() != theirs[n].tobytes() for n in mine):
            return False
    return True


def test_what_is_saved_is_loaded_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 12, 7, 100):
        path = save_checkpoint(tmp_path, made(step), keep=3)
        assert same(load_checkpoint(path), made(step))
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000007", "step-00000012", "step-00000100"]
    for place in (tmp_path, tmp_path / "checkpoints"):
        assert find_checkpoint(place).step == 100
    # The same step again: the new one takes the old one's place.
    save_checkpoint(tmp_path, made(100, seed=1), keep=3)
    assert find_checkpoint(tmp_path).identity["seed"] == 1


def test_any_flipped_bit_and_any_cut_is_found(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, made(9))
    dice = random.Random(7)
    found = 0
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            at = dice.randrange(len(whole))
            damaged[at] ^= 1 << dice.randrange(8)
            file.write_bytes(damaged)
            try:
                read = load_checkpoint(path)
            except ValueError:
                found += 1
                continue
            # A bit in the spaces of JSON changes nothing that is read.
            assert same(read, made(9)), (file.name, at)
        for _ in range(15):
            file.write_bytes(whole[: dice.randrange(len(whole))])
            with pytest.raises(ValueError, match="cannot be used"):
                load_checkpoint(path)
        file.write_bytes(whole)
    assert found > 250
    assert same(load_checkpoint(path), made(9))


def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, made(3))
    newer = save_checkpoint(tmp_path, made(4))
    (newer / "param.safetensors").unlink()
    assert find_checkpoint(tmp_path).step == 3
    (tmp_path / "checkpoints" / "step-00000003" / "manifest.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no checkpoint(.|\n)*00000004(.|\n)*00000003"
    ):
        find_checkpoint(tmp_path)


def _change(path: Path, old: str, new: str) -> None:
    text = (path / "manifest.json").read_text()
    assert old in text
    (path / "manifest.json").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 9', '"step": 10'),
        ('"step": 9', '"step": 9, "step": 9'),
        ('"lr": 0.1', '"lr": NaN'),
        ('"format": 1', '"format": 2'),
        ('"sha256"', '"sha255"'),
    ],
)
def test_a_manifest_that_was_changed_is_refused(
    tmp_path: Path, old: str, new: str
) -> None:
    path = save_checkpoint(tmp_path, made(9))
    _change(path, old, new)
    with pytest.raises(ValueError, match="cannot be used as a checkpoint"):
        load_checkpoint(path)


def test_links_and_files_of_another_step_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, made(9))
    other = save_checkpoint(tmp_path / "other", made(8))
    file = path / "param.safetensors"
    kept = file.read_bytes()
    file.unlink()
    file.symlink_to(other / "param.safetensors")
    with pytest.raises(ValueError, match="link"):
        load_checkpoint(path)
    file.unlink()
    file.write_bytes((other / "param.safetensors").read_bytes())
    with pytest.raises(ValueError, match="is not what was written"):
        load_checkpoint(path)
    file.write_bytes(kept)
    renamed = path.with_name("step-00000011")
    path.rename(renamed)
    with pytest.raises(ValueError, match="its step is 9"):
        load_checkpoint(renamed)


def test_whatever_fails_while_saving_the_one_before_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that touches the disk fails once, at every place."""
    save_checkpoint(tmp_path, made(1))
    failed = 0
    for name in ("fsync", "replace", "open"):
        for nth in range(40):
            calls = 0
            real = getattr(os, name)

            def faulty(*args: object, _real=real, _nth=nth, **more: object) -> object:
                nonlocal calls
                calls += 1
                if calls == _nth + 1:
                    raise OSError(28, "No space left on device")
                return _real(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(write.os, name, faulty)
                try:
                    save_checkpoint(tmp_path, made(2))
                except OSError:
                    failed += 1
            found = find_checkpoint(tmp_path)
            # The folder's own sync comes after the rename: then the new one is there.
            assert same(found, made(found.step)) and found.step in (1, 2)
            left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
            assert not [p for p in left if p.endswith(".tmp")]
            if calls <= nth:
                break
        else:
            raise AssertionError("it never came through")
        assert find_checkpoint(tmp_path).step == 2
        for old in (tmp_path / "checkpoints" / "step-00000002").iterdir():
            old.unlink()
        (tmp_path / "checkpoints" / "step-00000002").rmdir()
    assert failed > 15


def test_a_manifest_says_what_it_holds(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, made(9))
    told = json.loads((path / "manifest.json").read_text())["content"]
    assert told["tensors"]["param"]["b.weight"]["shape"] == [3, 5]
    assert told["step"] == 9 and told["identity"]["optimizer"] == {"lr": 0.1}
