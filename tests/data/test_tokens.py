"""Tokens, rows, made text, and the way to a job's file and back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import Data, inline, tokens


def through_toml(data: Data) -> dict[str, Any]:
    return tomllib.loads(tomli_w.dumps(data.to_dict()))


# ---- tokens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocab_size", "dtype"),
    [(256, "u1"), (257, "<u2"), (65536, "<u2"), (65537, "<i4"), (128256, "<i4")],
)
def test_tokens_take_the_smallest_type_that_the_engine_reads(
    vocab_size: int, dtype: str
) -> None:
    given_tokens = np.array([0, 1, vocab_size - 1, 2], np.int64)
    data = Data.tokens(given_tokens, vocab_size, holdout=0.5)
    assert data.train.dtype == data.held_out.dtype == np.dtype(dtype)
    assert np.concatenate([data.train, data.held_out]).tolist() == given_tokens.tolist()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("header", [False, True])
def test_shards_are_read_and_a_header_is_recognised(
    tmp_path: Path, dtype: str, header: bool
) -> None:
    values = np.arange(1000) * 50
    raw = values.astype(dtype).tobytes()
    if header:
        magic = {"uint16": 20240520, "uint32": 20240801}[dtype]
        raw = np.array([magic, 1, 1000] + [0] * 253, "<i4").tobytes() + raw
    (tmp_path / "a.bin").write_bytes(raw)
    data = Data.tokens(tmp_path / "a.bin", 50_000, dtype=dtype)
    assert np.concatenate([data.train, data.held_out]).tolist() == values.tolist()
    assert data.held_out.tolist() == values[900:].tolist()


def test_a_uint32_shard_stays_mapped(tmp_path: Path) -> None:
    np.arange(100, dtype="<u4").tofile(tmp_path / "a.bin")
    data = Data.tokens(tmp_path / "a.bin", 100_000, dtype="uint32")
    base: Any = data.train
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_a_folder_of_shards_is_joined_in_order(tmp_path: Path) -> None:
    for name, first in (("s1.bin", 10), ("s0.bin", 0)):
        np.arange(first, first + 10, dtype="<u2").tofile(tmp_path / name)
    data = Data.tokens(tmp_path, 20)
    assert data.train.tolist() + data.held_out.tolist() == list(range(20))


def test_the_first_token_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"token 300 at position 2 .*0\.\.255"):
        Data.tokens(np.array([1, 2, 300, 400]), 256)
    with pytest.raises(ValueError, match="token -1 at position 1"):
        Data.tokens(np.array([1, -1]), 256)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2), int),
        np.zeros(3),
        np.array(["a"]),
        np.array([], int),
        np.array([1]),
    ],
)
def test_what_is_no_stream_of_tokens_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"tokens|too little"):
        Data.tokens(bad, 10)


def test_shards_of_wrong_length_type_or_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "none.bin").touch()
    (tmp_path / "x.npy").write_bytes(b"no")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match="3 bytes"):
        Data.tokens(tmp_path / "odd.bin", 10)
    with pytest.raises(ValueError, match="empty"):
        Data.tokens(tmp_path / "none.bin", 10)
    with pytest.raises(ValueError, match="float32"):
        Data.tokens(tmp_path / "odd.bin", 10, dtype="float32")
    with pytest.raises(ValueError, match=r"x\.npy"):
        Data.tokens(tmp_path / "x.npy", 10)
    with pytest.raises(ValueError, match=r"no \.bin shards"):
        Data.tokens(tmp_path / "bare", 10)
    with pytest.raises(ValueError, match=r"od\.bin.*odd\.bin"):
        Data.tokens(tmp_path / "od.bin", 10)


@pytest.mark.parametrize("vocab_size", [0, -1, 2**31 + 1, 2.5])
def test_impossible_vocabularies_are_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match="vocab_size"):
        Data.tokens(np.zeros(4, int), vocab_size)


def test_given_tokens_are_copied() -> None:
    mine = np.zeros(100, np.uint8)
    data = Data.tokens(mine, 256)
    mine[:] = 9
    assert not data.train.any()


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_both_parts_are_never_empty_and_nothing_is_lost(
    values: list[int], holdout: float
) -> None:
    data = Data.tokens(np.array(values), 9, holdout=holdout)
    assert len(data.train) and len(data.held_out)
    assert data.train.tolist() + data.held_out.tolist() == values
    assert np.isfinite(data.unigram_entropy())


# ---- rows ----------------------------------------------------------------------------


def test_rows_become_float32_and_the_last_are_held_out() -> None:
    inputs = np.arange(20, dtype=np.int64).reshape(10, 2)
    data = Data.arrays(inputs, inputs[:, :1], holdout=0.3)
    assert not data.is_text and data.train.dtype == np.float32
    assert data.train.tolist() == inputs[:7].tolist()
    assert data.held_out_targets.tolist() == inputs[7:, :1].tolist()
    with pytest.raises(ValueError, match="rows have no unigram entropy"):
        data.unigram_entropy()


def test_rows_of_wrong_shape_length_or_value_are_refused() -> None:
    good = np.zeros((4, 2))
    with pytest.raises(ValueError, match="reshape"):
        Data.arrays(good, np.zeros(4))
    with pytest.raises(ValueError, match="4 rows of inputs but 3"):
        Data.arrays(good, np.zeros((3, 1)))
    bad = good.copy()
    bad[2, 1] = np.inf
    with pytest.raises(ValueError, match="inputs has a value in row 2"):
        Data.arrays(bad, good)
    with pytest.raises(ValueError, match="row 0"):
        Data.arrays(good, np.full((4, 1), 1e300))


# ---- made text -----------------------------------------------------------------------


def test_made_text_can_be_learned_and_is_seeded() -> None:
    data = Data.synthetic(64, 40_000, seed=1)
    assert data.size == 40_000 and int(data.train.max()) < 64
    pairs = np.zeros((64, 64))
    np.add.at(pairs, (data.train[:-1], data.train[1:]), 1)
    odds = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    terms = np.where(odds > 0, odds * np.log(np.where(odds > 0, odds, 1)), 0)
    conditional = -(terms.sum(1) * pairs.sum(1)).sum() / pairs.sum()
    assert conditional < 1.5 < data.unigram_entropy() < np.log(64)
    assert (
        Data.synthetic(64, 40_000, seed=1) == data != Data.synthetic(64, 40_000, seed=2)
    )


@pytest.mark.parametrize("options", [(1, 10, 0), (8, 1, 0), (8, 10, -1)])
def test_impossible_made_texts_are_refused(options: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2|negative"):
        Data.synthetic(*options)


# ---- to a file and back --------------------------------------------------------------


def every_kind(folder: Path) -> dict[str, Data]:
    rng = np.random.default_rng(0)
    (folder / "t.txt").write_text("some text that is long enough")
    np.arange(50, dtype="<u2").tofile(folder / "t.bin")
    rows = rng.normal(size=(12, 3))
    np.save(folder / "rows.npy", rows)
    return {
        "stdlib": Data.text(),
        "file": Data.text(folder / "t.txt", holdout=0.25),
        "shard": Data.tokens(folder / "t.bin", 50),
        "tokens": Data.tokens(rng.integers(0, 9, 40), 9),
        "arrays": Data.arrays(rows, rows[:, :1]),
        "mixed": Data.arrays(folder / "rows.npy", rows),
        "synthetic": Data.synthetic(16, 100, seed=4, holdout=0.5),
    }


KINDS = ("stdlib", "file", "shard", "tokens", "arrays", "mixed", "synthetic")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_through_toml_without_loss(kind: str, tmp_path: Path) -> None:
    data = every_kind(tmp_path)[kind]
    again = Data.from_dict(through_toml(data))
    assert again == data and hash(again) == hash(data)
    for name in ("train", "held_out", "train_targets", "held_out_targets"):
        mine, theirs = getattr(data, name), getattr(again, name)
        assert mine.dtype == theirs.dtype and (mine == theirs).all()
    assert again.held_out_part == data.held_out_part


def test_changed_bytes_are_refused_unless_the_hash_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("before, before")
    told = Data.text(path).to_dict()
    path.write_text("after, and more")
    with pytest.raises(ValueError, match=r"sha256 .*t\.txt|t\.txt.*sha256"):
        Data.from_dict(told)
    del told["sha256"]
    assert Data.from_dict(told).size == 15


def test_large_arrays_that_were_only_in_memory_say_so() -> None:
    rows = np.zeros((inline.MAX_BYTES // 8 + 1, 2))
    told = through_toml(Data.arrays(rows, rows))
    with pytest.raises(ValueError, match=r"numpy\.save"):
        Data.from_dict(told)


def test_damaged_or_unknown_entries_are_refused() -> None:
    told = Data.tokens(np.arange(9), 9).to_dict()
    for damage in ({"bytes": "!"}, {"shape": [5]}, {"dtype": "no"}, {"bytes": ""}):
        with pytest.raises(ValueError, match=r"damaged"):
            Data.from_dict(told | {"values": told["values"] | damage})
    with pytest.raises(ValueError, match="unknown kind"):
        Data.from_dict(told | {"kind": "video"})
    with pytest.raises(ValueError, match="do not describe"):
        Data.from_dict(told | {"colour": 1})


def test_blocks_do_not_change_what_is_counted_or_found(monkeypatch: Any) -> None:
    values = np.arange(100) % 7
    whole = tokens.counts(values, 7)
    monkeypatch.setattr(tokens, "_BLOCK", 9)
    assert (tokens.counts(values, 7) == whole).all()
    with pytest.raises(ValueError, match="position 50"):
        tokens.check_tokens(np.where(np.arange(100) == 50, 8, values), 7)
