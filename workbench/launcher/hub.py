"""The collecting end of the stream. It has no thread: its owner calls ``poll``."""

from __future__ import annotations

import os
import socket as sockets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schedule import KINDS
from . import wire
from .clocks import Alignment, Clock, Estimate, Exchange, here
from .keys import Keys
from .link import Link
from .wire import BARE, BEAT, EVENTS, PING, PONG, Frame, Malformed, Message

if TYPE_CHECKING:
    import zmq

#: Events of a rank that wait for its clock to be known; more are lost, and counted.
MOST_HELD = 20_000
MOST_VIEWERS = 64
VIEWER_SECONDS = 60.0  # a viewer not heard for so long is forgotten
_AT_ONCE = 256  # frames taken from one socket before the others have their turn
_BATCHES_WAITING = 64


class _End(Link):
    """The hub's end of a link, and by which connection its peer is reached now."""

    def __init__(self, rank: int | None) -> None:
        super().__init__(-1, int.from_bytes(os.urandom(7), "little"), rank)
        self.identity = b""
        self.heard = time.monotonic()


@dataclass
class _Rank:
    """What the hub knows of one rank."""

    heard: float
    link: _End | None = None
    waiting: list[bytes] = field(default_factory=list)  # commands, until it is there
    session: int | None = None  # of its events
    expected: int = 0  # events before this number have come, or are lost
    held: list[np.ndarray] = field(default_factory=list)
    alignment: Alignment | None = None
    estimate: Estimate = field(default_factory=Estimate)
    same: bool = False  # it reads the very clock that the hub reads
    contradicted: bool = False


class Hub:
    """Where all ranks of a run and its viewers meet.

    Binds two ports on ``host``, for control and for events; ``ports`` names them, 0
    for free ones. Nobody without ``keys`` gets anything in or out. Raises ValueError for
    a host that is not this machine's and for keys without the hub's secret.
    """

    def __init__(
        self,
        size: int,
        host: str = "127.0.0.1",
        keys: Keys | None = None,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        import zmq

        self.size = size
        self.keys = keys or Keys.new()
        if not self.keys.server_secret:
            raise ValueError("a hub needs its own secret: keys=Keys.new()")
        self.malformed = 0  # frames and messages that were none of ours, dropped
        self.refused = 0  # connections without the right key
        self.lost: dict[int, int] = dict.fromkeys(range(size), 0)
        self._here = here()
        now = time.monotonic()
        self._ranks = [_Rank(now) for _ in range(size)]
        self._viewers: dict[int, _End] = {}
        self._busy: set[_End] = set()  # ends of links that have just been heard
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        try:
            numeric = _numeric(host)
            self._control = self._bind(zmq.ROUTER, numeric, ports[0])
            self._events = self._bind(zmq.PULL, numeric, ports[1])
        except BaseException:
            self._context.destroy(linger=0)
            raise
        ends = [socket.getsockopt(zmq.LAST_ENDPOINT) for socket in self._sockets[1:]]
        bound = [bytes(end).rstrip(b"\0").rpartition(b":")[2] for end in ends]
        where = sockets.gethostname() if numeric in ("0.0.0.0", "::") else numeric
        self.address = ":".join([where, *(port.decode() for port in bound)])
        self._poller = zmq.Poller()
        for socket in self._sockets:
            self._poller.register(socket, zmq.POLLIN)

    @property
    def _sockets(self) -> tuple[zmq.Socket, zmq.Socket, zmq.Socket]:
        return self._zap, self._control, self._events

    def _bind(self, kind: int, host: str, port: int) -> zmq.Socket:
        import zmq

        socket = self._context.socket(kind)
        socket.curve_server = True
        socket.zap_domain = b"workbench"
        socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(self.keys.server_secret))
        socket.maxmsgsize = wire.MAX_FRAME
        socket.ipv6 = ":" in host
        if kind == zmq.ROUTER:
            socket.router_mandatory = True
        else:
            socket.rcvhwm = _BATCHES_WAITING
        shown = f"[{host}]" if ":" in host else host
        try:
            socket.bind(f"tcp://{shown}:{port or '*'}")
        except zmq.ZMQError as error:
            socket.close(0)
            raise ValueError(
                f"host={host!r}, port {port or 'any'}: {error}; wanted: an address of "
                "this machine that the ranks can reach, and a free port"
            ) from error
        return socket

    # ---- the owner's side ------------------------------------------------------------

    def poll(self, seconds: float) -> list[Message]:
        """What has arrived; waits up to ``seconds`` for something. Events are kind
        "events", arrays {"events": (n,) rows of ``tables.EVENT``}, by the hub's clock.
        Pings are answered here, so it should be called all the time."""
        deadline = time.monotonic() + seconds
        while True:
            found = self._drain()
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            self._poller.poll(int(1000 * left) + 1)

    def tell(self, command: Mapping[str, Any], rank: int | None = None) -> None:
        """Sends a command to one rank, or to all; a rank that is not there yet, or not
        now, gets it when it is. Raises ValueError for a rank that there is not."""
        if rank is not None and not 0 <= rank < self.size:
            raise ValueError(f"rank={rank}: there are {self.size}, from 0 on")
        data = wire.encode("command", command)
        for state in self._ranks if rank is None else [self._ranks[rank]]:
            if state.link is None:
                state.waiting.append(data)
            else:
                state.link.out.put(data)
                self._flush(state.link)

    def answer(
        self,
        message: Message,
        body: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Answers a viewer's ask. One that has gone is no error."""
        session, number = _asked(message.reply_to)
        end = self._viewers.get(session)
        if end is not None:
            end.out.put(wire.encode("answer", {"id": number, "body": body}, arrays))
            self._flush(end)

    def heard(self, rank: int) -> float:
        """Seconds since anything came from this rank, or since the hub began."""
        return time.monotonic() - self._ranks[rank].heard

    def numbered(self, rank: int) -> int:
        """How many of this rank's events have come or are known to be lost."""
        return self._ranks[rank].expected

    def clock(self, rank: int) -> Clock:
        """This rank's clock as far as it is known; 0 samples when it is not."""
        alignment = self._ranks[rank].alignment
        return Clock() if alignment is None else alignment.clock

    def close(self, seconds: float = 0.5) -> None:
        """Ends the sockets; what was told may take so long to leave."""
        if not self._context.closed:
            for socket in self._sockets:
                socket.close(int(1000 * seconds))
            self._context.term()

    # ---- what arrives ----------------------------------------------------------------

    def _drain(self) -> list[Message]:
        found: list[Message] = []
        for _ in range(_AT_ONCE):
            parts = _receive(self._zap)
            if parts is None:
                break
            self._zap.send_multipart(self._judge(parts))
        for socket in (self._control, self._events):
            for _ in range(_AT_ONCE):
                parts = _receive(socket)
                if parts is None:
                    break
                try:
                    self._take(parts, socket is self._control, found)
                except Malformed:
                    self.malformed += 1
        self._answer_links()
        return found

    def _judge(self, parts: list[bytes]) -> list[bytes]:
        """An answer of ZAP (ZeroMQ RFC 27): whether a client's key is the run's."""
        request, mechanism, key = (
            parts[1] if len(parts) > 1 else b"",
            parts[5] if len(parts) > 5 else b"",
            parts[6] if len(parts) > 6 else b"",
        )
        if mechanism == b"CURVE" and key == bytes.fromhex(self.keys.client_public):
            return [b"1.0", request, b"200", b"OK", b"client", b""]
        self.refused += 1
        return [b"1.0", request, b"400", b"unknown key", b"", b""]

    def _take(self, parts: list[bytes], control: bool, found: list[Message]) -> None:
        if len(parts) != 1 + control:
            raise Malformed(f"a frame in {len(parts)} parts")
        frame = Frame.unpack(parts[-1])
        if not -1 <= frame.rank < self.size:
            raise Malformed(f"rank {frame.rank} of {self.size}")
        if control == (frame.kind == EVENTS):
            raise Malformed("a frame on the wrong way")
        if not control:
            self._take_events(frame, found)
            return
        end = self._end_of(frame)
        end.identity, end.heard = parts[0], time.monotonic()
        if frame.rank >= 0:
            self._ranks[frame.rank].heard = end.heard
        self._busy.add(end)
        message = end.receive(frame)
        if message is not None:
            found.append(self._ask(message, frame) if frame.rank < 0 else message)
        elif frame.kind == PING:
            self._ping(end, frame, found)
        elif frame.kind == BEAT:
            found.append(Message(frame.rank, "beat", wire.load(frame.payload)))

    def _end_of(self, frame: Frame) -> _End:
        if frame.rank >= 0:
            state = self._ranks[frame.rank]
            if state.link is None or (
                state.link.peer is not None and state.link.peer != frame.session
            ):
                state.link = _End(frame.rank)
                for data in state.waiting:
                    state.link.out.put(data)
                state.waiting = []
            return state.link
        end = self._viewers.get(frame.session)
        if end is None:
            if len(self._viewers) >= MOST_VIEWERS:
                self._forget_viewers()
            end = self._viewers[frame.session] = _End(None)
        return end

    def _forget_viewers(self) -> None:
        """Those long silent, and if there are none the most silent one."""
        now = time.monotonic()
        ends = sorted(self._viewers.items(), key=lambda item: item[1].heard)
        for i, (session, end) in enumerate(ends):
            full = i == 0 and len(ends) >= MOST_VIEWERS
            if full or now - end.heard > VIEWER_SECONDS:
                del self._viewers[session]

    def _ask(self, message: Message, frame: Frame) -> Message:
        number, body = (message.body.get(name) for name in ("id", "body"))
        if type(number) is not int or not 0 <= number < 1 << 62:
            raise Malformed("a question without its number")
        if message.kind != "ask" or not isinstance(body, dict):
            raise Malformed("no question")
        reply = b"".join(n.to_bytes(8, "little") for n in (frame.session, number))
        return Message(None, "ask", body, message.arrays, reply)

    def _answer_links(self) -> None:
        for end in list(self._busy):
            self._flush(end)
        now = time.monotonic()
        if any(now - end.heard > VIEWER_SECONDS for end in self._viewers.values()):
            self._forget_viewers()

    def _flush(self, end: _End) -> None:
        if end.identity:
            end.flush(lambda data: self._send(end, data))
            if end.unacknowledged:
                self._send(end, end.frame(BARE))
        # Until an acknowledgement makes room, nothing more can be done.
        self._busy.discard(end)

    def _send(self, end: _End, data: bytes) -> bool:
        import zmq

        try:
            self._control.send_multipart([end.identity, data], zmq.NOBLOCK)
        except zmq.ZMQError:  # it has gone, or takes nothing now
            return False
        return True

    # ---- pings and clocks ------------------------------------------------------------

    def _ping(self, end: _End, frame: Frame, found: list[Message]) -> None:
        t2 = time.monotonic_ns()
        about = wire.load(frame.payload)
        state, last = self._ranks[frame.rank], about.get("last")
        if frame.rank < 0 or not _whole(about.get("n"), about.get("t1")):
            raise Malformed("a ping without its number and time")
        if last is not None:
            if not isinstance(last, list) or len(last) != 4 or not _whole(*last):
                raise Malformed("an exchange that is none")
            exchange = Exchange(*last)
            state.estimate.add(exchange)
            state.contradicted |= exchange.contradicts_zero
        state.same = (
            about.get("here") == self._here
            and not about.get("skewed")
            and not state.contradicted
        )
        if state.same:
            state.alignment = Alignment(Clock(samples=state.estimate.samples))
        elif state.estimate.samples:
            clock = state.estimate.clock()
            if state.alignment is None:
                state.alignment = Alignment(clock)
            else:
                state.alignment.set(clock)
        pong = {
            "n": about["n"],
            "t1": about["t1"],
            "t2": t2,
            "samples": state.estimate.samples,
            "events": state.expected if state.session == frame.session else 0,
            "t3": time.monotonic_ns(),
        }
        self._send(end, end.frame(PONG, wire.dump(pong)))
        self._release(frame.rank, found)

    def _release(self, rank: int, found: list[Message]) -> None:
        """Gives out what waited for the clock."""
        state = self._ranks[rank]
        if state.alignment is not None:
            for rows in state.held:
                found.append(_aligned(rank, state.alignment, rows))
            state.held = []

    def _take_events(self, frame: Frame, found: list[Message]) -> None:
        rows = wire.event_rows(frame.payload)
        self._check_events(frame, rows)
        state = self._ranks[frame.rank]
        state.heard = time.monotonic()
        if state.session != frame.session:
            state.session, state.expected = frame.session, 0
        if frame.seq < state.expected:
            if len(rows):
                raise Malformed("events that have been here already")
            return
        self.lost[frame.rank] += frame.seq - state.expected
        state.expected = frame.seq + len(rows)
        if not len(rows):
            return
        if state.alignment is not None:
            found.append(_aligned(frame.rank, state.alignment, rows))
        elif sum(map(len, state.held)) + len(rows) <= MOST_HELD:
            state.held.append(rows)
        else:
            self.lost[frame.rank] += len(rows)

    def _check_events(self, frame: Frame, rows: np.ndarray) -> None:
        if frame.rank < 0:
            raise Malformed("events of a viewer")
        for name, most in (("kind", len(KINDS)), ("rank", self.size)):
            if ((rows[name] < 0) | (rows[name] >= most)).any():
                raise Malformed(f"events with a {name} that there is not")
        for name in ("start", "end"):
            if (np.abs(rows[name] >> 1) >= 1 << 60).any():
                raise Malformed("events out of all time")


def _aligned(rank: int, alignment: Alignment, rows: np.ndarray) -> Message:
    # Together: what ends later than the next begins must not come under another
    # estimate.
    times = alignment.align(np.concatenate([rows["start"], rows["end"]]))
    rows["start"], rows["end"] = times[: len(rows)], times[len(rows) :]
    return Message(rank, "events", {}, {"events": rows})


def _whole(*values: Any) -> bool:
    return all(type(v) is int and abs(v) < 1 << 61 for v in values)


def _asked(reply_to: bytes) -> tuple[int, int]:
    if len(reply_to) != 16:
        raise ValueError("only a viewer's ask can be answered")
    parts = reply_to[:8], reply_to[8:]
    session, number = (int.from_bytes(part, "little") for part in parts)
    return session, number


def _numeric(host: str) -> str:
    """A host's address, for zmq binds to no names."""
    try:
        return str(sockets.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        raise ValueError(
            f"host={host!r}: {error}; wanted: an address or name of this machine that "
            "the ranks can reach"
        ) from error


def _receive(socket: zmq.Socket) -> list[bytes] | None:
    import zmq

    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
