"""The notebook's end of the stream: it asks and is answered."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import wire
from .keys import Keys
from .link import Link
from .reporter import connect, ports, receive, send
from .wire import BARE, Frame, Malformed, Message

_AGAIN_SECONDS = 0.5  # what may have been lost is looked for so often


class Viewer:
    """Asks the owner of a hub. Any thread may ask; one at a time is answered.

    Raises ValueError for an address or keys that are none.
    """

    def __init__(self, address: str, keys: Keys) -> None:
        import zmq

        host, port, _ = ports(address)
        session = int.from_bytes(os.urandom(7), "little")
        self._link = Link(-1, session, None)
        self._asking = threading.Lock()
        self._asked = 0
        self.address = address
        self._context = zmq.Context()
        keys = Keys.from_text(keys.to_text())
        self._socket = connect(self._context, zmq.DEALER, port, host, keys)

    def ask(
        self, body: Mapping[str, Any], seconds: float = 5.0
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(body, arrays) of the answer. Raises TimeoutError when none has come in
        time, ValueError for a body that is not JSON."""
        with self._asking:
            if self._context.closed:
                raise ValueError("this viewer was closed: make another")
            self._asked += 1
            self._link.out.put(wire.encode("ask", {"id": self._asked, "body": body}))
            found = self._wait(time.monotonic() + seconds)
        if found is None:
            raise TimeoutError(
                f"no answer from {self.address} within {seconds:g} s: the run is over, "
                "or cannot be reached from here, or its keys are others"
            )
        return found.body["body"], found.arrays

    def close(self) -> None:
        """Ends the connection; asking again is an error."""
        with self._asking:
            if not self._context.closed:
                self._socket.close(0)
                self._context.term()

    def _wait(self, deadline: float) -> Message | None:
        nudge = 0.0
        while (now := time.monotonic()) < deadline:
            self._link.flush(lambda data: send(self._socket, data))
            if now >= nudge or self._link.unacknowledged:
                nudge = now + _AGAIN_SECONDS
                send(self._socket, self._link.frame(BARE))
            wait = min(deadline - now, 0.05 if self._link.peer is None else 0.25)
            self._socket.poll(int(1000 * wait) + 1)
            for _ in range(64):
                data = receive(self._socket)
                if data is None:
                    break
                message = self._taken(data)
                if message is not None and message.body.get("id") == self._asked:
                    return message
        return None

    def _taken(self, data: bytes) -> Message | None:
        try:
            message = self._link.receive(Frame.unpack(data))
        except Malformed:
            return None
        if message is None or message.kind != "answer":
            return None
        return message if isinstance(message.body.get("body"), dict) else None
