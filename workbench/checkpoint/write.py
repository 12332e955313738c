"""Atomic writes: a file is there as it was before or complete, never in between.

Written under another name in the same folder, forced to disk, then renamed over the old
one, and the folder forced to disk too. Errors name the path that was to be written.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def _told(error: OSError, path: Path) -> OSError:
    """The same error (class and errno), naming the path and what was being done."""
    reason = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{reason}, while writing", str(path))


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Forces a folder's entries to disk, where that can be done."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(path, os.O_RDONLY)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has ``write`` write a temporary file beside ``path``, then renames it to that.

    The temporary name keeps the suffix, for writers that go by it. Raises OSError
    naming ``path``; the temporary file is then gone and the old file, if any,
    untouched.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        try:
            write(temporary)
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _told(error, path) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Atomic. Raises OSError naming the path."""
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Atomic; UTF-8, line ends as given. Raises OSError naming the path."""
    write_bytes(path, content.encode("utf-8"))
