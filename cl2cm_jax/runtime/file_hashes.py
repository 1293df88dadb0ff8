"""SHA-256 of files. That of a large file is kept in the user's cache while the system reports the file unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.text.regular_file import open_regular

_LARGE = 4_000_000  # bytes; smaller files are hashed at once
_SETTLED = 2_000_000_000  # nanoseconds; a write within the clock's resolution of the last one would not be noticed


def user_cache() -> Path | None:
    """The folder of this package in the user's cache; None for a user without a home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl2cm_jax"
    except RuntimeError:
        return None


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits.

    A large file is read again only when its place on the disk, size, modification time or change time differ: the last
    is set by the system at every write, and no program can set it back.

    Raises:
      OSError: it cannot be read.
    """
    path, cache = os.path.realpath(path), user_cache()
    state = _state(path)
    if state[2] < _LARGE or cache is None:
        return _digest(path)
    kept = cache / "hashes" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["state"] == state:
            return str(known["sha256"])
    start, digest = time.time_ns(), _digest(path)
    if _state(path) == state and max(state[3:]) < start - _SETTLED:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
            write_text(kept, json.dumps({"state": state, "sha256": digest}))
    return digest


def _state(path: str) -> list[int]:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _digest(path: str) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
