"""Reads a picture's file, which a stranger may have named: not a pipe or a device, and only up to a limit."""

from __future__ import annotations

import os
import stat

from cl2cm_jax.data.media.headers import HeaderError


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
      HeaderError: it is another kind of file, or larger.
      OSError: it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())  # of the open file, in case the path was replaced
        if not stat.S_ISREG(status.st_mode):
            raise HeaderError("is not a regular file but a pipe or device; replace it or leave it out")
        if status.st_size > limit:
            raise HeaderError(f"has {status.st_size:,} bytes, over the limit of {limit:,}; scale it down")
        return file.read(status.st_size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have no writer; Windows has no such flag
