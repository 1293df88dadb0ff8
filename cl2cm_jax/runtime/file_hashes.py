"""SHA-256 of files, each computed once in a process."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from cl2cm_jax.text.regular_file import open_regular

_SETTLED = 2_000_000_000  # nanoseconds; a write within the clock's resolution of the last one would not be noticed
_State = tuple[int, ...]
_known: dict[str, tuple[_State, str]] = {}  # by real path; of this process alone, since a disk changes files unnoticed


def user_cache() -> Path | None:
    """The folder of this package in the user's cache; None for a user without a home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl2cm_jax"
    except RuntimeError:
        return None


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits.

    A file is read again when its place on the disk, size or times differ from those of the last time in this process.

    Raises:
      OSError: it cannot be read.
    """
    path = os.path.realpath(path)
    state, start = _state(path), time.time_ns()
    if path in _known and _known[path][0] == state:
        return _known[path][1]
    digest = _digest(path)
    if _state(path) == state and max(state[3:]) < start - _SETTLED:
        _known[path] = state, digest
    return digest


def _state(path: str) -> _State:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: str) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
