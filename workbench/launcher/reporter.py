"""The rank's end of the stream: it hands over and goes on; a thread does the rest."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cython_kernels import tables

from . import wire
from .clocks import Skew, here
from .keys import Keys
from .link import Link
from .wire import BARE, BATCH, BEAT, EVENTS, PING, PONG, Frame, Malformed

if TYPE_CHECKING:
    import zmq

BEAT_SECONDS = 0.25
PING_SECONDS = 1.0
#: Exchanges that are made one after another when a hub is new.
BURST = 8
#: Events that may wait here; what comes on top is dropped, and its numbers tell so.
MOST_WAITING = 1 << 16
_FLUSH_SECONDS = 0.03  # a batch that is not full waits at most so long, and a tick
_TICK_SECONDS = 0.02
_FRAMES_WAITING = 64  # batches that zmq may hold at each end


def connect(context: zmq.Context, kind: int, port: int, host: str, keys: Keys) -> Any:
    """A socket of a client. What is sent while there is no hub is refused by zmq, so
    that nothing stale piles up; nothing lingers once it is closed."""
    import zmq

    socket = context.socket(kind)
    socket.linger = 0
    socket.immediate = True
    socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 1000
    socket.maxmsgsize = wire.MAX_FRAME
    socket.setsockopt(zmq.CURVE_SERVERKEY, bytes.fromhex(keys.server_public))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, bytes.fromhex(keys.client_public))
    socket.setsockopt(zmq.CURVE_SECRETKEY, bytes.fromhex(keys.client_secret))
    if kind == zmq.PUSH:
        socket.sndhwm = _FRAMES_WAITING
    socket.ipv6 = ":" in host
    shown = f"[{host}]" if ":" in host else host
    socket.connect(f"tcp://{shown}:{port}")
    return socket


def ports(address: str) -> tuple[str, int, int]:
    """(host, port for control, port for events) of ``Hub.address``; raises
    ValueError."""
    try:
        host, control, events = address.rsplit(":", 2)
        found = host, int(control), int(events)
    except ValueError:
        found = "", 0, 0
    if not found[0] or not all(0 < port < 1 << 16 for port in found[1:]):
        raise ValueError(
            f"address={address!r} is no stream's: host:port:port is wanted, as "
            "WORKBENCH_STREAM and live.json have it"
        )
    return found


class _Queue:
    """Events that wait, numbered: those dropped leave a gap in the numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: deque[tuple[int, np.ndarray]] = deque()
        self._waiting = 0
        self.numbered = 0
        self.dropped = 0

    def put(self, events: np.ndarray) -> None:
        with self._lock:
            room = max(0, MOST_WAITING - self._waiting)
            # A copy; several times as fast as copy(), which goes field by field.
            taken = np.frombuffer(events[:room].tobytes(), tables.EVENT)
            if len(taken):
                self._parts.append((self.numbered, taken))
            self._waiting += len(taken)
            self.numbered += len(events)
            self.dropped += len(events) - len(taken)

    def batch(self) -> tuple[int, np.ndarray] | None:
        """The first events, up to ``BATCH`` with numbers in a row; they stay."""
        with self._lock:
            if not self._parts:
                return None
            first, found, count = self._parts[0][0], [], 0
            for number, part in self._parts:
                if number != first + count or count == BATCH:
                    break
                found.append(part[: BATCH - count])
                count += len(found[-1])
        return first, found[0] if len(found) == 1 else np.concatenate(found)

    def gone(self, count: int) -> None:
        """The first ``count`` events have been sent."""
        with self._lock:
            self._waiting -= count
            while count:
                first, part = self._parts.popleft()
                if len(part) > count:
                    self._parts.appendleft((first + count, part[count:]))
                count -= min(count, len(part))

    @property
    def waiting(self) -> int:
        return self._waiting


class Reporter:
    """What one rank tells the hub. Its methods return at once, hub or no hub.

    Raises ValueError for an address or keys that are none. A hub that is not there, or
    goes away, is waited for; whatever ``tell`` was given is kept until it is back.
    """

    def __init__(self, address: str, keys: Keys, rank: int) -> None:
        self._where = ports(address)
        self._keys = Keys.from_text(keys.to_text())
        self._skew = Skew.from_environment()
        self._here = here()
        self.rank = rank
        self.beat: Callable[[], dict[str, Any]] | None = None
        self.error: Exception | None = None  # what ended the thread, if anything did
        self._queue = _Queue()
        self._marked = 0  # the hub was told of all events before this one
        self._settled = 0  # and says that it knows of those before this one
        session = int.from_bytes(os.urandom(7), "little")
        self._link = Link(rank, session, None)
        self._telling = threading.Lock()
        self._told: deque[bytes] = deque()
        self._commands: deque[dict[str, Any]] = deque()
        self._last: list[int] | None = None  # the newest exchange
        self._pings = 0
        self._ping_at = self._beat_at = self._flush_at = 0.0
        self._heard = time.monotonic()
        self._closing = threading.Event()
        self._close_by = 0.0
        self._flushed = False
        self._thread = threading.Thread(
            target=self._run, name=f"reporter-{rank}", daemon=True
        )
        self._thread.start()

    # ---- the rank's side -------------------------------------------------------------

    def events(self, events: np.ndarray) -> None:
        """Hands over rows of ``tables.EVENT``, which are copied; never waits.

        They leave within 50 ms. Where too many wait already they are dropped; the hub
        knows by their numbers how many.
        """
        if len(events) and not self._closing.is_set():
            self._queue.put(np.asarray(events, tables.EVENT))

    def tell(
        self,
        kind: str,
        body: Mapping[str, Any] | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Queues a message, which arrives once, in order and whole. Arrays are copied.
        Raises ValueError for what cannot be sent."""
        data = wire.encode(kind, body or {}, arrays)
        with self._telling:
            self._told.append(data)

    def commands(self) -> list[dict[str, Any]]:
        """What the hub has told since this was last asked; does not wait."""
        found = []
        while self._commands:
            found.append(self._commands.popleft())
        return found

    @property
    def silence(self) -> float:
        """Seconds since the hub was last heard, or since the beginning."""
        return time.monotonic() - self._heard

    @property
    def numbered(self) -> int:
        """Events that were handed over so far."""
        return self._queue.numbered

    @property
    def dropped(self) -> int:
        """Events that were dropped here, because too many waited."""
        return self._queue.dropped

    def close(self, seconds: float = 2.0) -> bool:
        """Sends what is left, for so long at most, and ends the thread. True when the
        hub has said that everything has arrived."""
        self._close_by = time.monotonic() + seconds
        self._closing.set()
        self._thread.join(seconds + 5.0)
        return self._flushed

    # ---- the thread ------------------------------------------------------------------

    def _run(self) -> None:
        import zmq

        context = zmq.Context()
        control = events = None
        try:
            host, one, other = self._where
            control = connect(context, zmq.DEALER, one, host, self._keys)
            events = connect(context, zmq.PUSH, other, host, self._keys)
            while not self._over():
                self._turn(control, events)
        except Exception as error:  # the rank goes on, whatever happens here
            self.error = error
        finally:
            for socket in (control, events):
                if socket is not None:
                    socket.close()
            context.term()

    def _over(self) -> bool:
        if not self._closing.is_set():
            return False
        with self._telling:
            said = not self._told and self._link.out.low == self._link.out.end
        self._flushed = said and self._settled >= self._queue.numbered
        return self._flushed or time.monotonic() >= self._close_by

    def _turn(self, control: zmq.Socket, events: zmq.Socket) -> None:
        with self._telling:
            while self._told:
                self._link.out.put(self._told.popleft())
        now = time.monotonic()
        self._timely(now, control)
        self._link.flush(lambda data: send(control, data))
        if now >= self._flush_at or self._queue.waiting >= BATCH:
            self._flush_at = now + _FLUSH_SECONDS
            self._send_events(events)
        if control.poll(int(1000 * _TICK_SECONDS)):
            self._hear(control)
        if self._link.unacknowledged:
            send(control, self._link.frame(BARE))

    def _now(self) -> int:
        return self._skew.now() if self._skew else time.monotonic_ns()

    def _timely(self, now: float, control: zmq.Socket) -> None:
        """Pings and beats whose time has come."""
        if now >= self._ping_at:
            quick = self._closing.is_set()
            sent = self._ping(control)
            self._ping_at = now + (PING_SECONDS if sent and not quick else 0.02)
        if now >= self._beat_at and self.beat is not None:
            self._beat_at = now + BEAT_SECONDS
            try:
                body = wire.dump(self.beat())
            except Exception as error:  # its owner's mistake; the hub shall know
                body = wire.dump({"error": f"{type(error).__name__}: {error}"})
            send(control, self._link.frame(BEAT, body))

    def _ping(self, control: zmq.Socket) -> bool:
        self._pings += 1
        about = {
            "n": self._pings,
            "here": self._here,
            "skewed": self._skew is not None,
            "last": self._last,
            "t1": self._now(),
        }
        return send(control, self._link.frame(PING, wire.dump(about)))

    def _hear(self, control: zmq.Socket) -> None:
        while (data := receive(control)) is not None:
            t4 = self._now()
            try:
                frame = Frame.unpack(data)
                message = self._link.receive(frame)
                pong = wire.load(frame.payload) if frame.kind == PONG else None
            except Malformed:
                continue
            self._heard = time.monotonic()
            if message is not None and message.kind == "command":
                self._commands.append(message.body)
            if pong is not None:
                self._pong(pong, t4, control)

    def _pong(self, pong: dict[str, Any], t4: int, control: zmq.Socket) -> None:
        self._settled = max(self._settled, int(pong.get("events", 0)))
        if pong.get("n") != self._pings:
            return  # of an older ping
        self._last = [pong["t1"], pong["t2"], pong["t3"], t4]
        if pong.get("samples", BURST) < BURST:
            self._ping(control)

    def _send_events(self, events: zmq.Socket) -> None:
        if self._last is None:
            return  # not before the hub can know what our times mean
        while (batch := self._queue.batch()) is not None:
            first, rows = batch
            if not self._push(events, first, rows):
                return
            self._queue.gone(len(rows))
            self._marked = first + len(rows)
        # Dropped at the end, or the last batches perhaps lost: an empty batch behind
        # them tells how far the numbers go.
        numbered = self._queue.numbered
        behind = self._closing.is_set() and self._settled < numbered
        wanted = self._queue.waiting == 0 and (self._marked < numbered or behind)
        if wanted and self._push(events, numbered, np.empty(0, tables.EVENT)):
            self._marked = numbered

    def _push(self, events: zmq.Socket, first: int, rows: np.ndarray) -> bool:
        if self._skew is not None and len(rows):
            rows = rows.copy()
            for name in ("start", "end"):
                rows[name] = self._skew.apply(rows[name])
        frame = Frame(
            EVENTS, self.rank, self._link.session, first, payload=rows.tobytes()
        )
        return send(events, frame.pack())


def send(socket: zmq.Socket, data: bytes) -> bool:
    """False when it cannot be sent now."""
    import zmq

    try:
        socket.send(data, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def receive(socket: zmq.Socket) -> bytes | None:
    import zmq

    try:
        parts = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return parts[0]
