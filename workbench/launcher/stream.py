"""What ranks, the hub's owner and notebooks say to one another, over zmq.

Ranks push events, which may be lost but are numbered, so that a loss is known; all else
(what they are, states, losses, tensors, commands) is told reliably and in order. Both
ways are encrypted and authenticated by CurveZMQ. docs/engine.md says more.
"""

from __future__ import annotations

from .clocks import Clock
from .hub import Hub
from .keys import Keys, read_live, write_live
from .reporter import BEAT_SECONDS, Reporter
from .viewer import Viewer
from .wire import Message

__all__ = [
    "BEAT_SECONDS",
    "Clock",
    "Hub",
    "Keys",
    "Message",
    "Reporter",
    "Viewer",
    "read_live",
    "write_live",
]
