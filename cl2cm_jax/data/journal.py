"""Results that are kept as they are found, so that neither a kill nor the next run computes them again.

The file has one result a line, with its CRC-32; a line that was cut or damaged is left out, and computed again.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

from cl2cm_jax.runtime.atomic import write_text

_SPARE = 1000  # replaced lines that are always kept


class Journal:
    """The last result of each name, JSON, and the state of the inputs that it was found from."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, tuple[str, Any]] = {}
        with contextlib.suppress(OSError):
            self._read(path.read_text(encoding="utf-8", errors="replace").splitlines())

    def get(self, name: str, state: str) -> Any | None:
        """The result that is known of a name in this state; None if there is none."""
        before, result = self._known.get(name, ("", None))
        return result if before == state else None

    def add(self, name: str, state: str, result: Any) -> None:
        """Keeps a result, which is not None; a journal that cannot be written costs time only."""
        self._known[name] = state, result
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"\n{_line(name, state, result)}\n")  # a line that a kill cut may stand before it

    def _read(self, lines: list[str]) -> None:
        lines = [line for line in lines if line]
        for line in lines:
            checksum, _, text = line.partition(" ")
            if checksum == _checksum(text):
                with contextlib.suppress(ValueError, TypeError, RecursionError):  # another program wrote it
                    name, state, result = json.loads(text)
                    self._known[name] = state, result
        if len(lines) > 2 * len(self._known) + _SPARE:
            kept = (_line(name, state, result) for name, (state, result) in self._known.items())
            write_text(self._path, "".join(f"{line}\n" for line in kept))


def _line(name: str, state: str, result: Any) -> str:
    text = json.dumps([name, state, result])
    return f"{_checksum(text)} {text}"


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
