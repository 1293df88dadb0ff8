"""A list of the checksums of a folder's files, kept in the folder: finds changes that decoding would not notice."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from cl2cm_jax.runtime.atomic import write_text

LIST_NAME = "checksums.json"
_CHUNK = 1 << 20


def write_checksums(folder: Path) -> None:
    """Records the CRC-32 of every file under `folder` in `folder`/checksums.json."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = sorted(name for name in names if not name.lstrip(".").startswith(LIST_NAME))
    write_text(folder / LIST_NAME, json.dumps({name: _crc(folder / name) for name in files}))


def verify_checksums(folder: Path) -> None:
    """Compares the files with the list; a folder without one passes.

    Raises:
        ValueError: a listed file is missing or its content changed, or the list itself cannot be read.
    """
    if not (folder / LIST_NAME).exists():  # the process was killed between the files and the list
        return
    try:
        checksums = dict(json.loads((folder / LIST_NAME).read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{LIST_NAME} is damaged") from None
    for name, expected in checksums.items():
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _crc(folder / name) != expected:
            raise ValueError(f"{name} is damaged")


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
