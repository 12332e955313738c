"""The format: what goes in comes out, and what is none of ours is told, at no cost."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cython_kernels import tables
from workbench.launcher import wire
from workbench.launcher.link import WINDOW, Link
from workbench.launcher.wire import Frame, Malformed

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", ">f8", ">i4"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def message(head: Any, rest: bytes = b"") -> bytearray:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return bytearray(struct.pack("<I", len(text)) + text + rest)


def whole(arrays: Any, body: Any = None) -> dict[str, Any]:
    return {"kind": "x", "body": body or {}, "arrays": arrays}


# ---- there and back ------------------------------------------------------------------


@given(body=st.dictionaries(st.text(), values), kind=st.text())
def test_bodies_come_back(body: dict[str, Any], kind: str) -> None:
    found = wire.decode(bytearray(wire.encode(kind, body)), 3)
    assert (found.rank, found.kind) == (3, kind)
    assert repr(found.body) == repr(body)  # a nan is not itself


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (2, 3, 5)])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    array = (100 * rng.random(shape)).astype(dtype)
    found = wire.decode(
        bytearray(wire.encode("x", {}, {"a": array, "b": array.T})), None
    )
    np.testing.assert_array_equal(found.arrays["a"], array)
    np.testing.assert_array_equal(found.arrays["b"], array.T)
    assert found.arrays["a"].shape == shape
    assert found.arrays["a"].dtype == np.dtype(dtype).newbyteorder("<")
    assert found.arrays["a"].flags.writeable


def test_events_come_back() -> None:
    rows = np.zeros(5, tables.EVENT)
    rows["start"], rows["kind"] = np.arange(5) + 2**60, 3
    found = wire.decode(bytearray(wire.encode("x", {}, {"events": rows})), 0)
    assert found.arrays["events"].dtype == tables.EVENT
    np.testing.assert_array_equal(found.arrays["events"], rows)


def test_numbers_of_numpy_are_numbers() -> None:
    body = {"a": np.int64(3), "b": np.float32("nan"), "c": np.bool_(True)}
    found = wire.load(wire.dump(body))
    assert (found["a"], found["c"]) == (3, True)
    assert math.isnan(found["b"])


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.array([object()]), "object"),
        (np.array(["text"]), "U4"),
        (np.zeros(2, "c16"), "complex128"),
        (np.zeros(2, [("a", "i4")]), "a"),
    ],
)
def test_other_dtypes_are_refused_by_name(array: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=f"'weights' has dtype.*{told}"):
        wire.encode("x", {}, {"weights": array})


def test_bodies_that_are_not_json_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    for body in ({"a": object()}, {"a": np.zeros(3)}, loop, {(1, 2): 3}):
        with pytest.raises(ValueError, match="must be JSON"):
            wire.encode("x", body)


# ---- what is none of ours ------------------------------------------------------------

BAD = {
    "nothing": bytearray(),
    "half a length": bytearray(b"\0\0"),
    "a huge length": bytearray(b"\xff\xff\xff\xff{}"),
    "no JSON": message(b"\x80\x04]q\x00."),  # a pickle
    "NaN": message(b'{"kind": "x", "body": {"a": NaN}, "arrays": []}'),
    "infinity": message(b'{"kind": "x", "body": {"a": 1e999}, "arrays": []}'),
    "deep JSON": message(b'{"kind":' + b"[" * 200_000),
    "deep objects": message(b'{"a":' * 200_000),
    "long number": message(b'{"a":' + b"9" * 100_000 + b"}"),
    "not UTF-8": message(b'"\xff"'),
    "a list": message([1]),
    "no kind": message({"body": {}, "arrays": []}),
    "a kind that is none": message({"kind": 3, "body": {}, "arrays": []}),
    "a body that is none": message({"kind": "x", "body": [], "arrays": []}),
    "arrays that are none": message({"kind": "x", "body": {}, "arrays": {"a": 1}}),
    "an entry too short": message(whole([["a", "<f8"]])),
    "an entry that is none": message(whole([3])),
    "an object dtype": message(whole([["a", "|O", [1]]]), bytes(8)),
    "a dtype in a list": message(whole([["a", ["<f8"], [1]]]), bytes(8)),
    "a big-endian dtype": message(whole([["a", ">f8", [1]]]), bytes(8)),
    "another name": message(whole([[None, "<f8", [1]]]), bytes(8)),
    "a negative shape": message(whole([["a", "<f8", [-1]]]), bytes(8)),
    "two negative ones": message(whole([["a", "<f8", [-1, -1]]]), bytes(8)),
    "a shape of floats": message(whole([["a", "<f8", [1.0]]]), bytes(8)),
    "a true shape": message(whole([["a", "<f8", [True]]]), bytes(8)),
    "a huge shape": message(whole([["a", "<f8", [1 << 47] * 3]]), bytes(8)),
    "huge and empty": message(whole([["a", "<f8", [0] + [1 << 47] * 3]])),
    "a deep shape": message(whole([["a", "<f8", [1] * 40]]), bytes(8)),
    "too few bytes": message(whole([["a", "<f8", [2]]]), bytes(8)),
    "too many bytes": message(whole([["a", "<f8", [2]]]), bytes(24)),
    "one name twice": message(whole([["a", "<f8", [1]]] * 2), bytes(16)),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_messages_are_told_at_no_cost(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            wire.decode(BAD[name], 0)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(BAD[name]) + 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_noise_is_malformed_and_nothing_worse(data: bytes) -> None:
    for take in (
        lambda: wire.decode(bytearray(data), 0),
        lambda: Frame.unpack(data),
        lambda: wire.load(data),
        lambda: wire.event_rows(data),
    ):
        try:
            take()
        except Malformed:
            pass


@given(st.data())
def test_a_damaged_message_is_malformed_or_well_formed(data: st.DataObject) -> None:
    good = bytearray(wire.encode("x", {"a": [1, 2.5]}, {"w": np.arange(4.0)}))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        found = wire.decode(good[:cut], 0)
    except Malformed:
        return
    assert sum(a.nbytes for a in found.arrays.values()) <= cut


def test_a_frame_is_its_head_and_payload() -> None:
    frame = Frame(wire.DATA, 5, 1 << 55, 3, 2, 9, wire.FIRST, b"abc")
    packed = frame.pack()
    found = Frame.unpack(packed)
    assert found._replace(payload=bytes(found.payload)) == frame
    for cut in range(len(packed) - 3):
        with pytest.raises(Malformed):
            Frame.unpack(packed[:cut])
    with pytest.raises(Malformed):
        Frame.unpack(b"X" + packed[1:])


# ---- a way that loses ----------------------------------------------------------------


class Lossy:
    """Two ends, and between them ways that lose frames as a test says."""

    def __init__(self, seed: int, share: float) -> None:
        self.ends = [Link(0, 10, None), Link(-1, 20, 0)]
        self.ways: list[list[bytes]] = [[], []]
        self.rng, self.share = np.random.default_rng(seed), share
        self.got: list[list[Any]] = [[], []]
        self.most = 0

    def send(self, side: int, data: bytes) -> bool:
        self.ways[side].append(data)
        return True

    def turn(self) -> None:
        for side in (0, 1):
            end = self.ends[side]
            end.out._rewound = -1.0  # as if much time had passed
            end.flush(lambda data, side=side: self.send(side, data))
            self.send(side, end.frame(wire.BARE))
            self.most = max(self.most, end.out.next - end.out.acked)
            # A connection loses what is under way, to the last frame, never the middle.
            way = self.ways[side]
            if self.rng.random() < self.share:
                del way[int(self.rng.integers(0, len(way))) :]
            for data in way:
                found = self.ends[1 - side].receive(Frame.unpack(data))
                if found is not None:
                    self.got[1 - side].append(found)
            way.clear()


@pytest.mark.parametrize("seed", range(6))
def test_all_messages_arrive_once_and_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PIECE", 128)
    rng = np.random.default_rng(seed)
    pair = Lossy(seed, share=0.4)
    for side in (0, 1):
        for i in range(30):
            array = np.full(int(rng.integers(0, 300)), i, "i4")
            pair.ends[side].out.put(wire.encode("x", {"i": i}, {"a": array}))
    for _ in range(2000):
        pair.turn()
        if all(len(got) == 30 for got in pair.got):
            break
    for got in pair.got:
        assert [m.body["i"] for m in got] == list(range(30))
        for m in got:
            assert (m.arrays["a"] == m.body["i"]).all()
    assert pair.most <= WINDOW


def test_another_peer_gets_whole_messages_from_the_oldest_that_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "PIECE", 128)
    pair = Lossy(0, share=0.0)
    for i in range(3):
        array = np.full(2000, i, "i1")
        pair.ends[0].out.put(wire.encode("x", {"i": i}, {"a": array}))
    while not pair.got[1]:
        pair.turn()
    pair.turn()  # the second one is half told
    done = len(pair.got[1])
    pair.ends[1] = Link(-1, 21, 0)
    while len(pair.got[1]) < 3 + (done - 1):
        pair.turn()
        assert len(pair.got[1]) < 10
    told = [m.body["i"] for m in pair.got[1]]
    assert sorted(set(told)) == [0, 1, 2]
    assert told[done:] == sorted(told[done:])


def test_after_a_malformed_message_the_link_goes_on() -> None:
    one, other = Link(0, 1, None), Link(-1, 2, 0)
    one.out.put(b"\xff" * 9)
    one.out.put(wire.encode("x", {}))
    sent: list[bytes] = []
    one.flush(lambda data: sent.append(data) or True)  # type: ignore[func-returns-value]
    with pytest.raises(Malformed):
        other.receive(Frame.unpack(sent[0]))
    found = other.receive(Frame.unpack(sent[1]))
    assert found is not None
    assert found.kind == "x"
