"""Existing translations from a file: one line per caption, or lines `cap_id sentence`."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.data.readers.cap_ids import CapLine, Key, parse_line
from cl2cm_jax.data.readers.text_lines import read_lines
from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.documents import cap_key
from cl2cm_jax.translation.engine import Item

OPTIONS = {"--translations": {"type": Path, "help": "the translations, one line per caption", "required": True}}


def create(options: argparse.Namespace, items: Sequence[Item]) -> TranslatedFile:
    """The engine of a command line."""
    return TranslatedFile(options.translations, items)


class TranslatedFile:
    """An engine that reads translations of another program.

    Args:
      path: UTF-8, gzipped if it ends in .gz. Line n is the translation of the n-th caption in the source language, an
        empty line is none; if every line starts with a cap_id, a line belongs to the caption of the same media and k.
      items: all captions in the source language, in the order of their file.

    Raises:
      UserError: no such file, not UTF-8, a wrong number of lines, or a caption without a line.
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
                raise UserError(f"{path} has {len(lines)} lines for {len(items)} captions; write one line per caption")
            found = lines
        self._translations = found
        self.model = f"{path.name}@sha256:{hashlib.sha256(content).hexdigest()[:16]}"

    def translate(self, items: Sequence[Item]) -> list[str]:
        return [self._translations[item.number] for item in items]


def _by_cap_id(path: Path, lines: Sequence[CapLine], items: Sequence[Item]) -> list[str] | None:
    """The translations of `items`, matched by media and k; None if the captions have no cap_ids."""
    wanted = [cap_key(item.name) for item in items]
    if not all(wanted):
        return None
    sentences: dict[Key, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.key in sentences:
            raise UserError(f"{path}, line {number}: {line.cap_id!r} occurs twice; remove one")
        sentences[line.key] = line.sentence
    if missing := [item.name for item, key in zip(items, wanted, strict=True) if key not in sentences]:
        raise UserError(
            f"{path} has {len(lines)} lines for {len(items)} captions and lacks {len(missing)} of them, "
            f"first {missing[0]!r}; add their translations"
        )
    return [sentences[key] for key in wanted if key is not None]
