"""Atomic file writes: a file is replaced as a whole, or unchanged."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(\d+)\.partial", re.DOTALL)  # of the process with this number
_ABANDONED = 3600.0  # seconds without a change, for a folder that other machines write to as well


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the name of the file that the block writes to a system error without one, as a full disk gives it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` if the block succeeds; else `path` is unchanged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@functools.cache  # once in a process and folder: there may be many files in it
def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of processes that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = _TEMPORARY.fullmatch(entry.name)
            if owner and not _is_running(int(owner[1])) and time.time() - entry.stat().st_mtime > _ABANDONED:
                with contextlib.suppress(OSError):  # Windows does not remove a file that is open
                    os.unlink(entry)


def _is_running(process: int) -> bool:
    """Whether there is a process of this number; unknown on Windows, where asking would end it."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
