"""A run's folder: made once for each run, never shared, its files written whole.

It refuses a folder in which there is something already, and names that lead out of it.
What is in it when a run has ended is decided by the engine.
"""

from __future__ import annotations

import csv
import io
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from . import weights as weight_files
from .write import replace_file, write_bytes

RUNS = Path("runs")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _new_id(name: str | None) -> str:
    """UTC time, then the name or four random characters: sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name or secrets.token_hex(2)}"


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes. ``path`` is absolute; its last part is the run's id."""

    path: Path

    @classmethod
    def create(
        cls, folder: str | Path | None = None, *, name: str | None = None
    ) -> RunFolder:
        """A new folder: ``folder`` itself, or ``runs/<UTC time>-<name or random>``.

        Raises ValueError for a name that is no plain file name and for a folder that
        holds something already, and OSError naming the path when it cannot be made.
        """
        if name is not None and not _PLAIN.fullmatch(name):
            raise ValueError(
                f"the run's name {name!r} must be 1 to 64 letters, digits, '.', '_' "
                "or '-', and begin with a letter or digit"
            )
        if folder is not None:
            return cls._at(Path(folder).expanduser())
        identity = _new_id(name)
        for _ in range(100):
            path = RUNS / identity
            try:
                path.mkdir(parents=True)
                return cls(path.resolve())
            except FileExistsError:
                if path.parent.exists() and not path.parent.is_dir():
                    raise
                identity = f"{_new_id(name)}-{secrets.token_hex(2)}"
        raise FileExistsError(f"no free name for a run in {RUNS.resolve()}")

    @classmethod
    def _at(cls, path: Path) -> RunFolder:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; give a folder for the run")
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ValueError(
                f"the folder {path} is not empty; a run never writes over another: "
                "give a new folder, or empty this one"
            )
        return cls(path.resolve())

    def file(self, name: str) -> Path:
        """The path of a file of this folder; ``name`` may lie deeper, as "a/b".

        Raises ValueError for names that are empty or lead out of the folder.
        """
        pure, windows = PurePosixPath(name), PureWindowsPath(name)
        astray = pure.is_absolute() or bool(windows.anchor) or ".." in windows.parts
        if not pure.name or astray or "\0" in name:
            raise ValueError(
                f"{name!r} is not the name of a file inside the run's folder"
            )
        path = self.path / pure
        # A link inside may lead out, too.
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ValueError(f"{name!r} leads out of the run's folder {self.path}")
        return path

    def write_with(self, name: str, write: Callable[[Path], object]) -> Path:
        """Atomically: ``write(path)`` writes a temporary file of the same suffix, which
        then takes the file's place. Returns the path. Raises OSError naming it."""
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
        return path

    def write_bytes(self, name: str, content: bytes) -> Path:
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return path

    def write_text(self, name: str, content: str) -> Path:
        """UTF-8, line ends as given."""
        return self.write_bytes(name, content.encode("utf-8"))

    def write_json(self, name: str, value: Any) -> Path:
        """Indented; raises ValueError for what JSON lacks, such as NaN."""
        return self.write_text(
            name, json.dumps(value, indent=2, allow_nan=False) + "\n"
        )

    def write_csv(
        self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> Path:
        """A header and rows; floats in full (repr). Raises ValueError for a row of
        another length than the header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for number, row in enumerate(rows):
            if len(row) != len(header):
                raise ValueError(
                    f"row {number} of {name} has {len(row)} values for {len(header)} "
                    "columns"
                )
            writer.writerow([repr(v) if isinstance(v, float) else v for v in row])
        return self.write_text(name, text.getvalue())

    def save_weights(
        self,
        name: str,
        weights: Mapping[str, np.ndarray],
        metadata: Mapping[str, str] | None = None,
    ) -> Path:
        """As ``checkpoint.save_weights``, into this folder."""
        path = self.file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        weight_files.save_weights(path, weights, metadata)
        return path
