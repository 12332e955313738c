"""A reliable, ordered way for messages between two ends whose frames may be lost.

TCP loses nothing and keeps the order, but a connection may break and be made anew.
Frames are numbered, kept until acknowledged, and sent again from the first missing one
(go-back-N): the receiver sees a gap by the numbers alone, so there are no timers, and a
slow peer is not mistaken for a lost one. At most ``WINDOW`` frames are under way, so
that beats and pings, which are not numbered, never wait behind more than that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from . import wire
from .wire import AGAIN, DATA, FIRST, LAST, Frame, Malformed, Message

WINDOW = 8  # frames under way: 2 MiB
#: No two rewinds within this time: their causes may be one and the same gap.
_REWIND_SECONDS = 0.25

Send = Callable[[bytes], bool]  # False: not now


class Outgoing:
    """Messages in order, until the peer has acknowledged all their frames."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, memoryview]] = deque()  # (first frame, bytes)
        self.end = 0  # number of the frame after the last message's last one
        self.next = 0  # the frame to be sent next
        self.acked = 0  # all frames before this one have arrived
        self._rewound = -_REWIND_SECONDS

    def put(self, data: bytes) -> None:
        self._messages.append((self.end, memoryview(data)))
        self.end += max(1, -(-len(data) // wire.PIECE))

    @property
    def low(self) -> int:
        return self._messages[0][0] if self._messages else self.end

    def piece(self) -> tuple[memoryview, int] | None:
        """The next frame's payload and flags; None when all are sent, or enough."""
        if self.next >= self.end or self.next - self.acked >= WINDOW:
            return None
        found = None
        for first, data in self._messages:
            if first > self.next:
                break
            found = first, data
        assert found is not None
        first, data = found
        at = (self.next - first) * wire.PIECE
        flags = FIRST * (at == 0) | LAST * (at + wire.PIECE >= len(data))
        return data[at : at + wire.PIECE], flags

    def acknowledge(self, ack: int) -> None:
        if not self.acked < ack <= self.end:
            return
        self.acked = ack
        self.next = max(self.next, ack)
        while self._messages:
            first, data = self._messages[0]
            if first + max(1, -(-len(data) // wire.PIECE)) > ack:
                break
            self._messages.popleft()

    def again(self) -> None:
        """The peer has missed a frame: all after its last acknowledgement are sent
        anew."""
        now = time.monotonic()
        if now - self._rewound >= _REWIND_SECONDS:
            self._rewound, self.next = now, self.acked

    def restart(self) -> None:
        """Another peer: whole messages from the oldest that nobody has wholly got."""
        self.next = self.acked = self.low


class Link:
    """One end. ``rank`` and ``session`` are what this end calls itself."""

    def __init__(self, rank: int, session: int, peer_rank: int | None) -> None:
        self.rank, self.session = rank, session
        self.peer_rank = peer_rank
        self.peer: int | None = None  # its session
        self.out = Outgoing()
        self.expected = 0  # frames before this one have arrived here
        self.gap = False
        self.unacknowledged = 0  # frames since an acknowledgement was last sent
        self._pieces: list[Any] = []
        self._size = 0

    def frame(self, kind: int, payload: bytes = b"") -> bytes:
        """A frame that is not numbered; it carries the acknowledgement."""
        return self._pack(kind, self.out.next, 0, payload)

    def _pack(self, kind: int, seq: int, flags: int, payload: Any) -> bytes:
        self.unacknowledged = 0
        flags |= AGAIN * self.gap
        out = self.out
        return Frame(
            kind, self.rank, self.session, seq, out.low, self.expected, flags, payload
        ).pack()

    def flush(self, send: Send) -> None:
        """Sends what may be sent now."""
        while (piece := self.out.piece()) is not None:
            payload, flags = piece
            if not send(self._pack(DATA, self.out.next, flags, payload)):
                return
            self.out.next += 1

    def receive(self, frame: Frame) -> Message | None:
        """Takes a frame of the peer; a message when it was its last one. Raises
        Malformed for a message that is none; the link goes on with the next."""
        if frame.session != self.peer:
            if self.peer is not None:
                self.out.restart()
            self.peer = frame.session
            self.expected, self._pieces, self._size = frame.low, [], 0
        self.out.acknowledge(frame.ack)
        if frame.flags & AGAIN:
            self.out.again()
        if frame.seq > self.expected:
            self.gap = True
        if frame.kind != DATA:
            return None
        self.unacknowledged += 1
        if frame.seq != self.expected:
            return None
        self.gap = False
        self.expected += 1
        return self._joined(frame)

    def _joined(self, frame: Frame) -> Message | None:
        if frame.flags & FIRST:
            self._pieces, self._size = [], 0
        elif not self._pieces:
            raise Malformed("a piece of a message without its beginning")
        self._pieces.append(frame.payload)
        self._size += len(frame.payload)
        if self._size > wire.MAX_MESSAGE:
            self._pieces, self._size = [], 0
            raise Malformed(f"a message of more than {wire.MAX_MESSAGE:,} bytes")
        if not frame.flags & LAST:
            return None
        data = bytearray().join(self._pieces)
        self._pieces, self._size = [], 0
        return wire.decode(data, self.peer_rank)
