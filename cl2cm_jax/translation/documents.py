"""Caption files: which captions to translate, and a file of the same kind with their translations.

CSV, TSV and JSONL files are those of the `captions` data set; all rows are kept, and translations follow with origin
"machine". A .txt file has lines `cap_id sentence` with cap_id `media#tag#k`, the format of the files of NRCCR; its
translations become a file of their own, as NRCCR publishes them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.corpus import translation_tag
from cl2cm_jax.data.readers.cap_ids import CapLine, Key, parse_line
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.text_lines import read_entries
from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item

EVALUATED = ("validation", "test")  # splits whose captions should be written by people
_ROWS = (".csv", ".tsv", ".jsonl")


class Written(NamedTuple):
    """The text of the new file, and what it lacks."""

    text: str
    added: int
    empty: int  # captions without a translation
    duplicates: int  # translations that the image has already
    lacking: tuple[str, ...] = ()  # evaluation splits without a caption in the target language


class Document(Protocol):
    """A file of captions."""

    language: str  # of the translations
    items: list[Item]  # all captions in the source language, in their order
    chosen: list[Item]  # those to be translated

    def written(self, translations: Mapping[Item, str]) -> Written:
        """The new file; `translations` has all of `chosen`, with "" for a missing one."""
        ...


def read_document(
    path: Path, *, source: str, target: str, splits: Sequence[str] = (), are_queries: bool = False
) -> Document:
    """Reads a file of captions.

    Args:
      path: ends in .csv, .tsv, .jsonl, or .txt.
      source: the language to translate from; must be that of a .txt file's tags.
      target: the language to translate into. Images that have captions in it are left as they are.
      splits: those to translate; all if empty. A .txt file has none.
      are_queries: write them as language "de2en", one per caption and in the same order, for fused queries.

    Raises:
      UserError: the file cannot be read, a line is wrong, or it has no caption in `source`.
    """
    ending = path.suffix.lower()
    if ending not in (*_ROWS, ".txt"):
        raise UserError(
            f"--captions={str(path)!r} must end in .csv, .tsv, .jsonl, or .txt (lines of 'cap_id sentence')"
        )
    if not path.is_file():
        raise UserError(f"--captions={str(path)!r} is not a file; give a caption file")
    if ending == ".txt":
        if are_queries:
            raise UserError(f"--queries: the tags of {path} have this information; leave the option out")
        if splits:
            raise UserError(f"--splits={','.join(splits)}: {path} has no splits; leave the option out")
        return _CapLines(path, source=source, target=target)
    return _Rows(path, source=source, target=target, splits=splits, are_queries=are_queries)


class _Rows:
    def __init__(self, path: Path, *, source: str, target: str, splits: Sequence[str], are_queries: bool):
        found = read_caption_file(str(path), image_is_path=False)
        _refuse(found.serious)
        self._path, self._rows, self._are_queries = path, found.rows, are_queries
        self.language = translation_tag(source, target) if are_queries else target
        languages = sorted({row.language for row in self._rows})
        if source not in languages:
            raise UserError(f"--source={source!r}: {path} has no captions in it; it has {', '.join(languages)}")
        if splits and not self._rows[0].split:
            raise UserError(f"--splits={','.join(splits)}: {path} has no column split; leave the option out")
        rows = [row for row in self._rows if row.language == source]
        self.items = [Item(number, row.image, row.caption, row.split) for number, row in enumerate(rows)]
        translated = {row.image for row in self._rows if row.language == self.language}
        self.chosen = [
            item for item in self.items if item.name not in translated and (not splits or item.split in splits)
        ]

    def written(self, translations: Mapping[Item, str]) -> Written:
        if self._are_queries and (empty := [item for item, text in translations.items() if not text]):
            raise UserError(
                f"{len(empty)} captions have no translation, first {empty[0].text!r} of {empty[0].name!r}, and each "
                "query needs one; write it as 'caption' in its line of the provenance file, then run the command again"
            )
        added: dict[object, Caption] = {}
        for item, text in translations.items():
            if text:
                row = Caption(item.name, self.language, text, item.split, "machine")
                added.setdefault(item if self._are_queries else (item.name, text), row)
        empty = sum(not text for text in translations.values())
        rows = [*self._rows, *added.values()]
        text = _formatted(rows, self._path.suffix.lower())
        present = {row.split for row in rows if row.language == self.language}
        lacking = tuple(split for split in EVALUATED if split in {row.split for row in rows} - present)
        duplicates = len(translations) - empty - len(added)
        return Written(text, len(added), empty, duplicates, () if self._are_queries else lacking)


def _formatted(rows: Sequence[Caption], ending: str) -> str:
    columns = ("image", "language", "caption", *(("split",) if rows[0].split else ()), "origin")
    cells = [[getattr(row, column) for column in columns] for row in rows]
    if ending == ".jsonl":
        objects = (dict(zip(columns, row, strict=True)) for row in cells)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects)
    table = io.StringIO()
    csv.writer(table, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n").writerows([columns, *cells])
    return table.getvalue()


class _CapLines:
    def __init__(self, path: Path, *, source: str, target: str):
        self.language = target
        self.items: list[Item] = []
        problems: list[Problem] = []
        seen: dict[Key, int] = {}
        for number, content in enumerate(read_entries(path), start=1):
            line = parse_line(content)
            reason = _wrong(line, content, source=source, seen=seen, number=number)
            if reason or line is None:
                problems.append(Problem(str(path), number, "cap_id sentence", reason))
            else:
                name = translated_cap_id(line.cap_id, target)
                self.items.append(Item(len(self.items), name, " ".join(line.sentence.split()), ""))
        _refuse(problems)
        self.chosen = self.items

    def written(self, translations: Mapping[Item, str]) -> Written:
        lines = [f"{item.name} {text}\n" for item, text in translations.items() if text]
        return Written("".join(lines), len(lines), len(translations) - len(lines), 0)


def _wrong(line: CapLine | None, content: str, *, source: str, seen: dict[Key, int], number: int) -> str:
    """What is wrong with a line, or ""; `seen` maps each key to the number of its first line."""
    if line is None:
        return f"is {content[:40]!r}; write media#tag#k, a space and the sentence"
    if "\0" in content or not line.sentence:
        return f"{line.cap_id!r} has no sentence; write one or remove the line"
    earlier = seen.setdefault(line.key, number)
    if earlier != number:
        return f"{line.cap_id!r} is already in line {earlier}; remove one"
    if line.tag.rsplit("2", 1)[-1] not in (source, _tag(source)):
        return (
            f"{line.cap_id!r} has the tag {line.tag!r}, not that of --source={source!r} ({_tag(source)!r}); "
            "give its language"
        )
    return ""


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        more = f" ({len(problems)} lines are wrong)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0]}{more}")


def cap_key(cap_id: str) -> Key | None:
    """Media id and k, which a caption shares with its translation; None if it is not a cap_id."""
    parsed = parse_line(cap_id)
    return parsed.key if parsed and not parsed.sentence else None


def translated_cap_id(cap_id: str, target: str) -> str:
    """The cap_id of a translation: "7#enc#0" becomes "7#enc2de#0". Source: NRCCR (the format)."""
    media, tag, k = cap_id.split("#")
    return f"{media}#{tag}2{_tag(target)}#{k}"


def _tag(language: str) -> str:
    return "enc" if language == "en" else language
