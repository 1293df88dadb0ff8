"""Checksums of files in a list beside them, checksums.json: finds changes that decoding would not notice.

They are CRC-32, which finds every flipped bit and takes a quarter of the time of SHA-256. They guard against faults of
disks, memory and copies; they are no proof of who wrote a file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import replacing, write_text
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.text.json_file import LARGEST, parse_json, read_json
from cl2cm_jax.text.regular_file import open_regular

LIST_NAME = "checksums.json"
_CHUNK = 1 << 20
# what a system or another program keeps between the files, and changes or removes at any time
_NOT_OURS = re.compile(r"\.DS_Store|\._.*|\.nfs.*|Thumbs\.db|desktop\.ini|\..*\.partial", re.IGNORECASE)


def write_checksums(folder: Path, pattern: str = "**/*") -> None:
    """Records the CRC-32 of the files of a pattern below `folder` in `folder`/checksums.json."""
    ours = (path for path in folder.glob(pattern) if path.is_file() and not _NOT_OURS.fullmatch(path.name))
    names = (path.relative_to(folder).as_posix() for path in ours)
    files = sorted(name for name in names if not name.lstrip(".").startswith(LIST_NAME))
    write_text(folder / LIST_NAME, json.dumps(dict(zip(files, _sums(folder, files), strict=True))))


def has_checksums(folder: Path) -> bool:
    """Whether the files of a folder have a list."""
    return (folder / LIST_NAME).exists()


def add_checksums(folder: Path, pattern: str = "**/*") -> None:
    """Gives a folder without a list one of its files as they are; a warning says so."""
    logging.warning("%s has no checksums (an earlier version wrote it?); its files are taken as they are", folder)
    with contextlib.suppress(OSError):  # a folder that is only read
        write_checksums(folder, pattern)


def verify_checksums(folder: Path, *names: str) -> None:
    """Reads the listed files, or `names` of them, and compares them with the list; a folder without one passes.

    Raises:
        ValueError: such a file is missing or its content changed, or the list itself cannot be read.
    """
    checksums = {name: value for name, value in _listed(folder).items() if not names or name in names}
    for name in checksums:
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
    for (name, expected), found in zip(checksums.items(), _sums(folder, checksums), strict=True):
        if found != expected:
            raise ValueError(f"{name} is damaged")


def write_checked(path: Path, content: str | bytes) -> None:
    """Writes a file atomically, and its checksum into the list of its folder. Text is encoded in UTF-8."""
    content = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        _set(path, None)  # a kill between the two leaves a file without a checksum, not one with a wrong one
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        _set(path, zlib.crc32(content))


def write_checked_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_checked` does; raises ValueError for NaN and infinity, which no reader of JSON takes."""
    write_checked(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_checked(path: Path, *, fix: str, largest: int | None = None) -> bytes:
    """The content of a file of `write_checked`.

    A file without a checksum, as earlier versions wrote it, is taken as it is: a warning says so once, and it gets one.

    Args:
        path: the file.
        fix: how it is restored, for the message.
        largest: the largest number of bytes that are read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
        UserError: it changed after it was written.
    """
    content = _content(path, largest)
    if _expected(path) == zlib.crc32(content):
        return content
    with _locked(path.parent):  # else another process may be between writing the file and its checksum
        content = _content(path, largest)
        expected, found = _expected(path), zlib.crc32(content)
        if expected is None:
            logging.warning("%s has no checksum (an earlier version wrote it?); it is taken as it is", path)
            with contextlib.suppress(OSError):  # a folder that is only read
                _set(path, found)
    if expected not in (None, found):
        raise UserError(
            f"{path} changed after it was written, by its checksum; {fix}; "
            f"or, if you changed it yourself, delete {path.parent / LIST_NAME} to take it as it is",
            id="changed-file",
        )
    return content


def read_checked_json(path: Path, *, fix: str) -> Any:
    """The JSON in a file of `write_checked_json`; raises as `read_checked`, and ValueError if it is damaged."""
    return parse_json(read_checked(path, fix=fix, largest=LARGEST))


def _content(path: Path, largest: int | None) -> bytes:
    with open_regular(path) as file:
        content = file.read(-1 if largest is None else largest + 1)
    if largest is not None and len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return content


def _expected(path: Path) -> int | None:
    try:
        return _listed(path.parent).get(path.name)
    except ValueError as error:
        raise UserError(f"{path.parent}: {error}; delete {LIST_NAME} to take the files as they are") from error


def _listed(folder: Path) -> dict[str, int]:
    if not has_checksums(folder):
        return {}
    try:
        return dict(read_json(folder / LIST_NAME))
    except (ValueError, TypeError):
        raise ValueError(f"{LIST_NAME} is damaged") from None


def _set(path: Path, value: int | None) -> None:
    """Sets a checksum in the list of the folder, or removes it; a damaged list is begun anew."""
    checksums: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        checksums = _listed(path.parent)
    before = dict(checksums)
    checksums.pop(path.name, None)
    if value is not None:
        checksums[path.name] = value
    if checksums != before:
        write_text(path.parent / LIST_NAME, json.dumps(dict(sorted(checksums.items()))))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a list; nothing where the folder is only read."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(exclusive(folder / f".{LIST_NAME}.lock"))
        yield


def _sums(folder: Path, names: Iterable[str]) -> list[int]:
    """The checksums of files, which are read in parallel."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: checksum(folder / name), names))


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
