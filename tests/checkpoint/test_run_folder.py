"""A run's folder: new for each run, written whole or not at all, never left."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.checkpoint import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_runs_get_folders_of_their_own_that_sort_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [RunFolder.create(name="same").path for _ in range(5)]
    made += [RunFolder.create().path for _ in range(5)]
    assert len(set(made)) == 10
    assert all(path.is_dir() and path.parent == tmp_path / "runs" for path in made)
    assert all(path.name[:8].isdigit() and path.is_absolute() for path in made)
    assert "same" in made[0].name


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 65, "a\0"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        RunFolder.create(name=name)


def test_a_folder_with_something_in_it_is_never_taken(folder: RunFolder) -> None:
    assert RunFolder.create(folder.path).path == folder.path  # still empty
    folder.write_text("weights", "precious")
    with pytest.raises(ValueError, match="not empty"):
        RunFolder.create(folder.path)
    with pytest.raises(ValueError, match="is a file"):
        RunFolder.create(folder.path / "weights")
    assert (folder.path / "weights").read_text() == "precious"


def test_what_is_written_is_read_back(folder: RunFolder) -> None:
    folder.write_bytes("b", b"\0\r\n")
    folder.write_text("t.txt", "a\r\nb\n")
    folder.write_json("j.json", {"loss": 0.1, "steps": [1, 2]})
    folder.write_csv("c.csv", ["step", "loss"], [(0, 0.1), (1, 1e-30)])
    folder.write_text("deep/er/t.txt", "below")
    assert (folder.path / "b").read_bytes() == b"\0\r\n"
    assert (folder.path / "t.txt").read_bytes() == b"a\r\nb\n"
    assert json.loads((folder.path / "j.json").read_text())["loss"] == 0.1
    assert (folder.path / "c.csv").read_text() == "step,loss\n0,0.1\n1,1e-30\n"
    assert (folder.path / "deep" / "er" / "t.txt").read_text() == "below"
    assert names(folder) == ["b", "c.csv", "deep", "j.json", "t.txt"]


def test_values_that_would_be_lost_are_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"JSON|nan"):
        folder.write_json("j.json", {"loss": float("nan")})
    with pytest.raises(ValueError, match="row 1"):
        folder.write_csv("c.csv", ["a", "b"], [(1, 2), (1,)])
    assert names(folder) == []


# ---- no way out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../../x", "/x", "C:\\x", "..\\x", "a\0b"]
)
def test_names_that_lead_out_are_refused(folder: RunFolder, name: str) -> None:
    with pytest.raises(ValueError, match="inside the run's folder"):
        folder.write_text(name, "astray")
    assert names(folder) == [] and names(RunFolder(folder.path.parent)) == ["run"]


def test_links_that_lead_out_are_refused(folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder.path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out"):
        folder.write_text("link/x", "astray")


@given(st.text(st.sampled_from("ab./\\:\0 "), max_size=8))
def test_any_name_stays_inside_or_is_refused(name: str) -> None:
    folder = RunFolder(Path("/somewhere/run"))
    try:
        path = folder.file(name)
    except ValueError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(folder.path)
    assert Path(os.path.normpath(path)) != folder.path


# ---- when the system fails -----------------------------------------------------------


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_write_names_the_path_and_leaves_the_old_file(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    folder.write_text("t.txt", "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    target = {"write": (Path, "write_bytes"), "fsync": (os, "fsync")}
    monkeypatch.setattr(*target.get(step, (os, "replace")), fail)
    with pytest.raises(OSError, match=r"t\.txt") as caught:
        folder.write_text("t.txt", "new")
    monkeypatch.undo()
    assert caught.value.errno == code and os.strerror(code) in str(caught.value)
    assert (folder.path / "t.txt").read_text() == "old"
    assert names(folder) == ["t.txt"]


def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="locked"):
        RunFolder.create(tmp_path / "locked")


def test_a_writer_that_fails_halfway_leaves_nothing(folder: RunFolder) -> None:
    def halfway(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        folder.write_with("t.json", halfway)
    assert names(folder) == []


def test_writers_see_the_suffix_and_a_name_in_the_same_folder(
    folder: RunFolder,
) -> None:
    seen: list[Path] = []

    def write(path: Path) -> None:
        seen.append(path)
        assert not (folder.path / "trace.json.gz").exists()
        path.write_text("x")

    assert folder.write_with("trace.json.gz", write) == folder.path / "trace.json.gz"
    assert seen[0].parent == folder.path and seen[0].suffix == ".gz"
    assert names(folder) == ["trace.json.gz"]


def test_files_are_readable_as_the_umask_says(folder: RunFolder) -> None:
    previous = os.umask(0o022)
    try:
        path = folder.write_text("t.txt", "x")
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o644
