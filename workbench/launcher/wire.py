"""What goes over the wire: frames, and the messages cut into them.

A frame is a fixed head and a payload of at most ``PIECE`` bytes; a message is a JSON
header, then its arrays' bytes, cut into numbered frames. Nothing is ever unpickled:
arrays are of a few numeric dtypes, whose sizes must add up to what has arrived. Whatever
does not fit raises ``Malformed``, and memory is taken only for bytes that are there.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from cython_kernels import tables

#: Bytes of a message that one frame holds: small enough that beats need not wait long
#: between two of them.
PIECE = 1 << 18
#: The largest message; it is refused while it arrives, not after.
MAX_MESSAGE = 1 << 32
MAX_HEADER = 1 << 23
#: The largest frame that a socket takes; longer ones are cut off by zmq itself.
MAX_FRAME = 1 << 20
BATCH = 256  # events in a frame, at most

_MAGIC = b"WBS1"
_HEAD = struct.Struct("<4sBBhiQQQQ")
_LENGTH = struct.Struct("<I")
_ALIGN = 8
_DTYPES = {
    name: np.dtype(name)
    for name in [
        "|b1",
        "|i1",
        "|u1",
        "<i2",
        "<u2",
        "<i4",
        "<u4",
        "<i8",
        "<u8",
        "<f2",
        "<f4",
        "<f8",
    ]
} | {"event": tables.EVENT}

# Kinds of frames. Of these DATA alone is numbered, kept and sent again when lost.
DATA, BARE, PING, PONG, BEAT, EVENTS = range(6)
FIRST, LAST, AGAIN = 1, 2, 4  # flags: a message's ends; "send again from my ack on"


class Malformed(ValueError):
    """What came is no frame or message of ours."""


class Frame(NamedTuple):
    """``seq``: a DATA frame's number, an EVENTS frame's first event, else the number
    that the sender's next DATA frame will have. ``low``: the first frame of its oldest
    message that is not wholly acknowledged. ``ack``: the frame it waits for next."""

    kind: int
    rank: int  # -1: the hub, or a viewer
    session: int
    seq: int = 0
    low: int = 0
    ack: int = 0
    flags: int = 0
    payload: Any = b""

    def pack(self) -> bytes:
        head = _HEAD.pack(
            _MAGIC,
            self.kind,
            self.flags,
            0,
            self.rank,
            self.session,
            self.seq,
            self.low,
            self.ack,
        )
        return head + self.payload

    @classmethod
    def unpack(cls, data: bytes) -> Frame:
        if len(data) < _HEAD.size:
            raise Malformed(f"a frame of {len(data)} bytes, shorter than its head")
        magic, kind, flags, _, rank, session, seq, low, ack = _HEAD.unpack_from(data)
        if magic != _MAGIC or kind > EVENTS:
            raise Malformed("not a frame of this version")
        if max(seq, low, ack) >= 1 << 62:
            raise Malformed("a number that no stream reaches")
        rest = memoryview(data)[_HEAD.size :]
        return cls(kind, rank, session, seq, low, ack, flags, rest)


@dataclass
class Message:
    """``rank`` is None for a viewer's. ``arrays`` may be written to: they are whoever
    takes the message's own."""

    rank: int | None
    kind: str
    body: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    reply_to: bytes = b""


# ---- JSON ----------------------------------------------------------------------------

_FLOAT = "float"  # {"float": "nan"}: JSON has no such numbers, and losses may be so


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def _restored(value: dict[str, Any]) -> Any:
    if len(value) == 1 and value.get(_FLOAT) in ("nan", "inf", "-inf"):
        return float(value[_FLOAT])
    return value


def _refuse(text: str) -> Any:
    raise Malformed(f"{text} in JSON")


def _number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


_PLAIN = {np.bool_: bool, np.integer: int, np.floating: float}


def _scalar(value: Any) -> Any:
    for kind, plain in _PLAIN.items():
        if isinstance(value, kind):
            return _finite(plain(value))
    raise TypeError(f"{value!r} is a {type(value).__name__}; arrays go into arrays=")


def dump(value: Mapping[str, Any]) -> bytes:
    """JSON of a body. Raises ValueError for what JSON cannot say."""
    try:
        try:
            text = json.dumps(value, allow_nan=False, default=_scalar)
        except ValueError:
            text = json.dumps(_finite(value), allow_nan=False, default=_scalar)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a message's body must be JSON: {error}") from error
    return text.encode()


def load(data: Any) -> dict[str, Any]:
    """A JSON object; raises Malformed for anything else."""
    if len(data) > MAX_HEADER:
        raise Malformed(f"JSON of {len(data)} bytes, the most is {MAX_HEADER}")
    try:
        value = json.loads(
            bytes(data).decode(),
            parse_constant=_refuse,
            parse_float=_number,
            object_hook=_restored,
        )
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("JSON, but no object")
    return value


# ---- messages ------------------------------------------------------------------------


def _wire_name(name: str, array: np.ndarray) -> str:
    if array.dtype == tables.EVENT:
        return "event"
    found = array.dtype.newbyteorder("<").str
    if found not in _DTYPES:
        raise ValueError(
            f"array {name!r} has dtype {array.dtype}; what can be sent: "
            f"{', '.join(_DTYPES)}"
        )
    return found


def _padding(size: int) -> int:
    return -size % _ALIGN


def encode(
    kind: str, body: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> bytes:
    """A message as bytes: a length, a JSON header, the arrays; each on a multiple of 8.

    The arrays are copied. Raises ValueError for a body that is not JSON, for an array
    of another dtype, and for more than ``MAX_MESSAGE`` bytes.
    """
    described: list[list[Any]] = []
    parts: list[Any] = []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        wire = _wire_name(name, array)
        described.append([name, wire, list(array.shape)])
        raw = np.ascontiguousarray(array, _DTYPES[wire]).reshape(-1).view(np.uint8)
        parts += [raw.data, b"\0" * _padding(raw.nbytes)]
    header = dump({"kind": kind, "body": body, "arrays": described})
    header += b" " * _padding(_LENGTH.size + len(header))
    data = b"".join([_LENGTH.pack(len(header)), header, *parts])
    if len(header) > MAX_HEADER or len(data) > MAX_MESSAGE:
        raise ValueError(
            f"a message of {len(data):,} bytes, {len(header):,} of them not in arrays; "
            f"the most is {MAX_MESSAGE:,} and {MAX_HEADER:,}: send it as several"
        )
    return data


def _array(data: bytearray, at: int, entry: Any) -> tuple[str, np.ndarray, int]:
    try:
        name, wire, shape = entry
        dtype = _DTYPES[wire]
    except (TypeError, ValueError, KeyError) as error:
        raise Malformed(f"no array of ours: {entry!r:.80}") from error
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) > 16:
        raise Malformed("an array without a name or shape")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in shape):
        raise Malformed(f"an array of shape {shape!r:.80}")
    size = math.prod(shape) * dtype.itemsize
    if size > len(data) - at:
        raise Malformed(f"array {name!r:.80} is longer than the message")
    try:
        flat = np.frombuffer(data, dtype, math.prod(shape), at)
        return name, flat.reshape(shape), at + size + _padding(size)
    except (ValueError, OverflowError, MemoryError) as error:
        raise Malformed(f"array {name!r:.80}: {error}") from error


def decode(data: bytearray, rank: int | None) -> Message:
    """The inverse of ``encode``; raises Malformed."""
    if len(data) < _LENGTH.size:
        raise Malformed("a message without a header")
    (length,) = _LENGTH.unpack_from(data)
    at = _LENGTH.size + length
    if length > MAX_HEADER or at > len(data):
        raise Malformed("a header longer than its message")
    head = load(memoryview(data)[_LENGTH.size : at])
    kind, body, described = (head.get(k) for k in ("kind", "body", "arrays"))
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise Malformed("a message without kind or body")
    if not isinstance(described, list):
        raise Malformed("a message without its list of arrays")
    arrays: dict[str, np.ndarray] = {}
    for entry in described:
        name, array, at = _array(data, at, entry)
        if name in arrays:
            raise Malformed(f"two arrays {name!r:.80}")
        arrays[name] = array
    if at != len(data):
        raise Malformed(f"{len(data) - at} bytes more than the arrays take")
    return Message(rank, kind, body, arrays)


def event_rows(payload: Any) -> np.ndarray:
    """An EVENTS frame's rows, a copy; raises Malformed."""
    if len(payload) % tables.EVENT.itemsize:
        raise Malformed("events cut in the middle")
    rows = np.frombuffer(bytearray(payload), tables.EVENT)
    if len(rows) > BATCH:
        raise Malformed(f"{len(rows)} events in a batch, the most is {BATCH}")
    return rows
