"""Atomic file writes: a file is replaced as a whole, or unchanged."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.partial", re.DOTALL)  # of a machine, and of a process of it
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"


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
    temporary = path.with_name(f".{path.name}.{_MACHINE}-{os.getpid()}.partial")
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
    """Removes the temporary files of processes of this machine that were killed."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = _TEMPORARY.fullmatch(entry.name)
            if owner and owner[1] == _MACHINE and not _is_running(int(owner[2])):
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
