"""Who may listen and talk: CurveZMQ keys, and the file that tells where a run is."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

_HEX = re.compile(r"[0-9a-f]{64}")
_NAMES = ("address", "keys", "pid", "host")


class Keys(NamedTuple):
    """Curve25519 keys as 64 hex digits each. The hub knows its own secret and lets in
    who shows the client's key; ranks and viewers have no ``server_secret`` ("")."""

    server_public: str
    server_secret: str
    client_public: str
    client_secret: str

    @classmethod
    def new(cls) -> Keys:
        """Fresh keys for one run. Raises RuntimeError where libzmq has no CURVE."""
        import zmq
        from zmq.utils import z85

        if not zmq.has("curve"):
            raise RuntimeError(
                f"libzmq {zmq.zmq_version()} was built without CURVE, and a run's stream "
                "is not sent in the clear: install pyzmq from its wheel "
                "(pip install --force-reinstall pyzmq)"
            )
        pairs = [zmq.curve_keypair(), zmq.curve_keypair()]
        return cls(*(z85.decode(key).hex() for pair in pairs for key in pair))

    def for_clients(self) -> Keys:
        """Without the hub's secret: what ranks and viewers get."""
        return self._replace(server_secret="")

    def to_text(self) -> str:
        """For an environment variable or a file that others cannot read: hex digits
        and colons, which no shell takes for anything else."""
        return ":".join(self)

    @classmethod
    def from_text(cls, text: str) -> Keys:
        """The inverse of ``to_text``. Raises ValueError, which does not show them."""
        parts = text.strip().split(":")
        fits = [bool(_HEX.fullmatch(part)) for part in parts]
        if len(parts) == 4 and not parts[1]:
            fits[1] = True
        if len(parts) != 4 or not all(fits):
            raise ValueError(
                f"a text of {len(text)} characters is not a run's keys: four times 64 "
                "hex digits with colons between (WORKBENCH_KEYS, or keys in live.json)"
            )
        return cls(*parts)

    def __repr__(self) -> str:
        return f"Keys(server_public={self.server_public!r}, ...)"


def write_live(folder: str | Path, address: str, keys: Keys, **more: Any) -> Path:
    """Writes ``live.json`` (mode 0600) into a run's folder: by it, whoever may read the
    file can attach. The hub's secret is left out. ``more`` must hold ``pid`` (of the
    hub's owner) and ``host``."""
    path = Path(folder) / "live.json"
    about = {"address": address, "keys": keys.for_clients().to_text(), **more}
    missing = [name for name in _NAMES if name not in about]
    if missing:
        raise ValueError(f"live.json needs {', '.join(missing)}")
    part = path.with_name(f".live-{os.getpid()}.json")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(about, file)
    part.replace(path)
    return path


def read_live(folder: str | Path) -> dict[str, Any]:
    """What ``write_live`` wrote, ``keys`` as Keys. Raises FileNotFoundError when the run
    is not live, PermissionError when others could read the file or it is another
    user's, ValueError when it is no such file."""
    path = Path(folder) / "live.json"
    with path.open(encoding="utf-8") as file:
        told = os.fstat(file.fileno())
        if told.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user: not trusted")
        if told.st_mode & 0o077:
            raise PermissionError(
                f"{path} can be read by others (mode {told.st_mode & 0o777:o}), so its "
                f"keys are no secret: chmod 600 {path}, if nobody has read it, else "
                "start the run anew"
            )
        text = file.read(1 << 16)
    try:
        about = json.loads(text)
        missing = [name for name in _NAMES if name not in about]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return {**about, "keys": Keys.from_text(about["keys"])}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no live.json of a run: {error}") from error
