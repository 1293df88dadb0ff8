"""The provenance of translated captions: `<out>.provenance.jsonl`, with one JSON object per line.

The file is also the journal of the job: it is only appended to, and a batch is on disk before the next one starts. A
line that a kill truncated is ignored. The caption file is written from it when all translations are present.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import canonical
from cl2cm_jax.text.visible import visible
from cl2cm_jax.translation.engine import Engine, Item

_CRC = "crc32"  # in each line, of the other values


class Entry(NamedTuple):
    """One translation. `image` may be a cap_id; `caption` is "" if the engine gave none."""

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
    """The provenance file of a caption file."""
    return captions.with_name(f"{captions.name}.provenance.jsonl")


class Provenance:
    """A provenance file, which need not exist yet; entries of `inherited`, that of the input, are taken over."""

    def __init__(self, path: Path, *, inherited: Path | None):
        self.path = path
        self._entries = {_key(entry): entry for entry in _read(path)}
        earlier = _read(inherited) if inherited else []
        if earlier := [entry for entry in earlier if _key(entry) not in self._entries]:
            self.append(earlier)
            self._entries |= {_key(entry): entry for entry in earlier}

    def finished(self, items: Iterable[Item], *, source: str, target: str) -> dict[Item, Entry]:
        """The entries of those items that have one."""
        keys = ((item, (item.name, target, source, visible(item.text))) for item in items)
        return {item: self._entries[key] for item, key in keys if key in self._entries}

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries and flushes them to disk."""
        data = "".join(map(_line, entries)).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill truncated the last line; keep it as a line of its own
                    data = b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def check_same_engine(entries: Iterable[Entry], engine: Engine, *, path: Path) -> None:
    """Raises a UserError if an entry was made by another engine or model."""
    for entry in entries:
        for field, value in (("engine", engine.name), ("model", engine.model)):
            if getattr(entry, field) != value:
                raise UserError(
                    f"{path} was started with {field} {getattr(entry, field)!r}, not {value!r}; "
                    "use that one, remove the file, or choose another --out"
                )


def _key(entry: Entry) -> tuple[str, str, str, str]:
    """An earlier version wrote language codes and sources as they were in the caption file."""
    return entry.image, canonical(entry.language), canonical(entry.source_language), visible(entry.source)


def _line(entry: Entry) -> str:
    return json.dumps(entry._asdict() | {_CRC: _crc(entry)}, ensure_ascii=False) + "\n"


def _crc(entry: Entry) -> int:
    return zlib.crc32("\0".join(entry).encode("utf-8", "surrogatepass"))


def _read(path: Path) -> list[Entry]:
    """The complete lines of a file, without damaged ones, which are translated again; none if it does not exist."""
    entries = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            cells = json.loads(line)
            known = cells.pop(_CRC, None)  # earlier versions wrote none
            entry = Entry(**cells)
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        if all(isinstance(value, str) for value in entry) and known in (None, _crc(entry)):
            entries.append(entry)
    return entries
