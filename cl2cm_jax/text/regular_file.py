"""Opens a file of unknown origin: a pipe would never end or never begin, and a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader


class IrregularError(OSError):
    """A pipe, a socket or a device."""


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file to read its bytes, and refuses a pipe, a socket or a device, also behind a link.

    Raises:
      IrregularError: it is one of these.
      OSError: it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # of the open file, in case the path was replaced
        file.close()
        raise IrregularError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have no writer; Windows has no such flag
