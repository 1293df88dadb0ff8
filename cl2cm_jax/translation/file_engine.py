"""Captions that were translated elsewhere, in a file: one line a caption, or lines of `cap_id sentence`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.readers.cap_ids import CapLine, Key, parse_line
from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.cap_lines import cap_key
from cl2cm_jax.translation.engine import Item


class TranslatedFile:
    """An engine that reads what another made.

    Args:
      path: UTF-8, gzipped if it ends in .gz. Line n is the translation of the n-th caption in the source language, an
        empty line none; or, if every line starts with a cap_id, a line belongs to the caption of the same media and k.
      items: all captions in the source language, in the order of their file.

    Raises:
      UserError: no such file, not UTF-8, fewer or more lines than captions, or a caption without its line.
    """

    name = "file"
    by_sentence = False
    version = ""

    def __init__(self, path: Path, items: Sequence[Item]):
        lines, content = read_lines(path), path.read_bytes()
        lines = lines if content else []
        parsed = [line for content in lines if (line := parse_line(content))]
        found = _by_cap_id(path, parsed, items) if lines and len(parsed) == len(lines) else None
        if found is None:
            if len(lines) != len(items):
                raise UserError(f"{path} has {len(lines)} lines for {len(items)} captions; give it one line a caption")
            found = lines
        self._translations = found
        self.model = f"{path.name}@sha256:{hashlib.sha256(content).hexdigest()[:16]}"

    def translate(self, items: Sequence[Item]) -> list[str]:
        return [self._translations[item.number] for item in items]


def _by_cap_id(path: Path, lines: Sequence[CapLine], items: Sequence[Item]) -> list[str] | None:
    """The sentences of `items` by media and k; None if the captions have no cap_id."""
    wanted = [cap_key(item.name) for item in items]
    if not all(wanted):
        return None
    sentences: dict[Key, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.key in sentences:
            raise UserError(f"{path}, line {number}: {line.cap_id!r} is there twice; remove one")
        sentences[line.key] = line.sentence
    if missing := [item.name for item, key in zip(items, wanted, strict=True) if key not in sentences]:
        raise UserError(
            f"{path} has {len(lines)} lines for {len(items)} captions and lacks {len(missing)} of them, "
            f"first that of {missing[0]!r}; translate them too"
        )
    return [sentences[key] for key in wanted if key is not None]
