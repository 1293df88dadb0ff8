"""Reads a text file of one sentence a line, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from cl2cm_jax.errors import UserError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, of a gzipped one if its name ends in .gz; the last may lack its newline.

    Raises:
      UserError: it cannot be read, or is no UTF-8.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); get a fresh copy") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 (byte {error.start}); get a fresh copy") from error
    return text.removesuffix("\n").split("\n")  # not splitlines: U+2028 ends no line here
