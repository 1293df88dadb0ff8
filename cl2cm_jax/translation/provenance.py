"""Where every translated caption comes from: one JSON object a line in `<out>.provenance.jsonl`.

The file is the journal of the job too: it is only appended to, and a batch is on the disk before the next one starts.
A line that a kill cut short does not count. The file of captions is written from it when all are there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Engine, Item


class Entry(NamedTuple):
    """One translation, as a line has it. `image` may be a cap_id; `caption` is "" where the engine gave nothing."""

    image: str
    language: str
    caption: str
    source_language: str
    source: str
    engine: str
    model: str
    version: str
    date: str  # of the translation, UTC, as 2025-01-31


def provenance_path(captions: Path) -> Path:
    """The file beside a file of captions."""
    return captions.with_name(f"{captions.name}.provenance.jsonl")


class Provenance:
    """Reads what is there and appends.

    Args:
      path: of the file; need not be there yet.
      inherited: the file beside the input, if any; what it has of rows that are taken over is taken over too.
    """

    def __init__(self, path: Path, *, inherited: Path | None):
        self.path = path
        self._entries = {_key(entry): entry for entry in _read(path)}
        earlier = _read(inherited) if inherited else []
        if earlier := [entry for entry in earlier if _key(entry) not in self._entries]:
            self.append(earlier)
            self._entries |= {_key(entry): entry for entry in earlier}

    def finished(self, items: Iterable[Item], *, source: str, target: str) -> dict[Item, Entry]:
        """The entries of those items that have one."""
        keys = ((item, (item.name, target, source, item.text)) for item in items)
        return {item: self._entries[key] for item, key in keys if key in self._entries}

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries; they are on the disk at return.

        Raises:
          UserError: the place takes no files, as /proc does not.
        """
        data = "".join(map(_line, entries)).encode()
        with self._opened() as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill cut the last line short; it stays a line of its own
                    data = b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _opened(self) -> BufferedRandom:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("ab+")
        except FileNotFoundError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}); choose another --out") from error


def check_same_engine(entries: Iterable[Entry], engine: Engine, *, path: Path) -> None:
    """Refuses to go on with what another engine or model began.

    Raises:
      UserError: an entry names another.
    """
    for entry in entries:
        for field, value in (("engine", engine.name), ("model", engine.model)):
            if getattr(entry, field) != value:
                raise UserError(
                    f"{path} was begun with {field} {getattr(entry, field)!r}, not {value!r}; "
                    "go on with that one, remove the file, or choose another --out"
                )


def _key(entry: Entry) -> tuple[str, str, str, str]:
    return entry.image, entry.language, entry.source_language, entry.source


def _line(entry: Entry) -> str:
    return json.dumps(entry._asdict(), ensure_ascii=False) + "\n"


def _read(path: Path) -> list[Entry]:
    """The whole lines of a file, none if it is not there; one that was cut short is left out."""
    entries = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            cells = json.loads(line)
            entry = Entry(**cells)
        except (ValueError, TypeError, RecursionError):
            continue
        if all(isinstance(value, str) for value in entry):
            entries.append(entry)
    return entries
