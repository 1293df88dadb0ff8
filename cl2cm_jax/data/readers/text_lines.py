"""Reads text files of one sentence or one id a line, gzipped or not."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from pathlib import Path

from cl2cm_jax.errors import UserError

MAX_UNPACKED = 300_000_000  # bytes of a gzipped file once it is unpacked
MAX_RATIO, ALWAYS_UNPACKED = 20, 20_000_000  # and as many times its size, or bytes; text shrinks to a third or a tenth
MAX_MEMBERS, _MEMBER = 10_000, b"\x1f\x8b\x08"  # parts of a gzipped file; bgzip writes one for 64 kB
MAX_LINES = 4_000_000  # the largest of the paper's sets has 0.6 million; a line takes 60 bytes and more, empty or not


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, of a gzipped one if its name ends in .gz; the last may lack its newline.

    Raises:
      UserError: it cannot be read, is not UTF-8, or has more than `MAX_LINES` lines.
    """
    try:
        content = read_gzipped(path) if path.suffix == ".gz" else path.read_bytes()
        _check_lines(path, content)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); get a fresh copy") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not valid UTF-8 (byte {error.start}); save it as UTF-8 or get a fresh copy"
        ) from error
    return text.removesuffix("\n").split("\n")  # not splitlines: U+2028 ends no line here


def read_gzipped(path: Path) -> bytes:
    """The content of a gzipped file.

    Raises:
      UserError: it cannot be read, is damaged, or unpacks to more bytes or lines than are read.
    """
    try:
        packed = path.read_bytes()
        if (members := packed.count(_MEMBER)) > MAX_MEMBERS:
            raise UserError(f"{path} has {members:,} parts, and {MAX_MEMBERS:,} are read; pack it anew")
        limit = min(MAX_UNPACKED, max(ALWAYS_UNPACKED, MAX_RATIO * len(packed)))
        with gzip.open(io.BytesIO(packed)) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); get a fresh copy"
        ) from error
    if len(content) > limit:
        raise UserError(f"{path} unpacks to more than {limit:,} bytes; unpack it yourself, or get a fresh copy")
    _check_lines(path, content)
    return content


def _check_lines(path: Path, content: bytes) -> None:
    if (lines := content.count(b"\n")) > MAX_LINES:
        raise UserError(f"{path} has {lines:,} lines, and {MAX_LINES:,} are read; divide it, or get a fresh copy")


def read_entries(path: Path) -> list[str]:
    """The lines of a list without spaces around them; blank ones may follow the last entry.

    Raises:
      UserError: see `read_lines`.
    """
    lines = [line.strip() for line in read_lines(path)]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def read_ids(path: Path, *, id_of: Callable[[str], str] = str) -> dict[str, int]:
    """The ids of a list, one per line, each with its row counted from 0; blank lines may follow the last one.

    Raises:
      UserError: it cannot be read or is not UTF-8, or an id is empty or occurs twice.
    """
    row_of: dict[str, int] = {}
    for row, line in enumerate(read_entries(path)):
        found = id_of(line)
        if not found:
            raise UserError(f"{path}, line {row + 1}: the id is empty; write one id a line")
        if found in row_of:
            raise UserError(f"{path}, line {row + 1}: duplicate id {found!r}, first in line {row_of[found] + 1}")
        row_of[found] = row
    return row_of
