"""Reads a picture's file, which a stranger may have named: not a pipe or a device, and only up to a limit."""

from __future__ import annotations

import os

from cl2cm_jax.data.media.headers import HeaderError
from cl2cm_jax.text.regular_file import IrregularError, open_regular


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
      HeaderError: it is another kind of file, or larger.
      OSError: it cannot be read.
    """
    try:
        file = open_regular(path)
    except IrregularError as error:
        raise HeaderError("is not a regular file but a pipe or device; replace it or leave it out") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise HeaderError(f"has {size:,} bytes, over the limit of {limit:,}; scale it down")
        return file.read(size)
