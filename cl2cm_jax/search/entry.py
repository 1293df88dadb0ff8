"""The entries of an index, search results, and the filters of a search."""

from __future__ import annotations

import calendar
import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cl2cm_jax.errors import UserError
from cl2cm_jax.text.json_file import MOST_OF_A_RECORD, parse_json
from cl2cm_jax.text.languages import canonical, is_code, spellings

Captions = Mapping[str, tuple[str, ...]]  # by language

LAST = "\U0010ffff"  # sorts behind any continuation of a path
DAY = 24 * 60 * 60  # seconds
_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}){0,2}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture or clip of an index."""

    id: str  # 32 hexadecimal digits, a function of `path`; the only identifier in the service's API
    path: str  # inside the folder, with slashes
    size: int = 0  # bytes of its files when it was embedded
    mtime: int = 0  # their modification time, in nanoseconds since 1970
    hash: str = ""  # SHA-256 of its files; "" if they were not read
    date: int = 0  # seconds since 1970: when it was taken (EXIF), else when the file was last changed
    captions: Captions = field(default_factory=dict)

    def caption(self, *languages: str) -> tuple[str, str]:
        """(language, caption) in the first of `languages` that has one, else in any; ("", "") if there is none."""
        for language in (*map(canonical, languages), *self.captions):
            if self.captions.get(language):
                return language, self.captions[language][0]
        return "", ""


@dataclass(frozen=True)
class Found:
    """An entry with its score, the cosine of its vector and the query's."""

    entry: Entry
    score: float


def id_of(path: str) -> str:
    """The id of the picture at `path` inside the folder."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Conditions on the pictures to be found; empty ones do not restrict."""

    language: str = ""  # the picture has a caption in it; any form of its code
    path: str = ""  # the picture's path begins with it
    since: int | None = None  # its date is at or after this, in seconds since 1970
    until: int | None = None  # its date is before this

    def __post_init__(self) -> None:
        if self.language and not is_code(self.language):
            raise UserError(f"language={self.language[:40]!r} is not a language code; write e.g. de or zh-TW")
        if any("\ud800" <= char <= "\udfff" or char < " " for char in self.path):
            raise UserError(
                f"path={self.path[:40]!r} has control characters; give the beginning of a path, e.g. beach/"
            )

    def expression(self) -> str:
        """The filter expression for Milvus, "" for no restriction; user input is quoted and escaped."""
        terms = []
        first, last = (json.dumps(one, ensure_ascii=False) for one in (self.path, self.path + LAST))
        if self.language:  # an index of an earlier version has codes as they were written
            terms.append(f"ARRAY_CONTAINS_ANY(languages, {json.dumps(spellings(self.language))})")
        if self.path:  # a range, since `like` would treat % and _ as wildcards
            terms.append(f"path >= {first} and path < {last}")
        if self.since is not None:
            terms.append(f"date >= {self.since}")
        if self.until is not None:
            terms.append(f"date < {self.until}")
        return " and ".join(terms)

    def admits(self, entry: Entry) -> bool:
        """Whether an entry meets the conditions."""
        return (
            (not self.language or canonical(self.language) in entry.captions)
            and entry.path.startswith(self.path)
            and (self.since is None or entry.date >= self.since)
            and (self.until is None or entry.date < self.until)
        )


def without_captions(language: str, languages: Sequence[str]) -> str:
    """A line that says that an index with captions in `languages` has none in `language`; "" if it has."""
    if not language or canonical(language) in languages:
        return ""
    there = f"captions in {', '.join(languages)}" if languages else "no captions; give it some with --captions"
    return f"no picture has a caption in {canonical(language)!r}; the index has {there}"


def day(text: str, *, name: str, after: bool = False) -> int | None:
    """Converts a date, "2024", "2024-05" or "2024-05-31", to seconds since 1970 (UTC): its begin, or `after` its end.

    Raises:
      UserError: it is not a date.
    """
    if not text:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        begin = datetime.datetime.fromisoformat(text + "-01-01"[len(text) - 4 :]).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise UserError(f"{name}={text[:40]!r} is not a date; write 2024, 2024-05 or 2024-05-31") from None
    lengths = {4: 365 + calendar.isleap(begin.year), 7: calendar.monthrange(begin.year, begin.month)[1], 10: 1}  # days
    return int(begin.timestamp()) + (lengths[len(text)] * DAY if after else 0)


def captions_to_text(captions: Captions, *, limit: int) -> str:
    """Captions as JSON of at most `limit` bytes; the last ones of the longest languages are dropped to fit."""
    kept = {language: list(texts) for language, texts in captions.items() if texts}
    lengths = {language: sum(map(len, texts)) for language, texts in kept.items()}
    size = _size(kept)
    while size > limit and kept:
        longest = max(lengths, key=lambda language: lengths[language])
        text = kept[longest].pop()
        lengths[longest] -= len(text)
        size -= _size(text) + len(", ")
        if not kept[longest]:
            del kept[longest], lengths[longest]
            size -= _size(longest) + len(": , ")
    return json.dumps(kept, ensure_ascii=False)


def _size(content: object) -> int:
    """Bytes as JSON."""
    return len(json.dumps(content, ensure_ascii=False).encode())


def captions_from_text(text: str) -> Captions:
    """Reads the output of `captions_to_text`; damaged text gives no captions."""
    try:
        found: Any = parse_json(text or "{}", values=MOST_OF_A_RECORD, strict=False)
        captions: dict[str, tuple[str, ...]] = {}
        for language, texts in found.items():
            code = canonical(str(language))
            texts = [texts] if isinstance(texts, str) else texts
            captions[code] = captions.get(code, ()) + tuple(map(str, texts))
        json.dumps(captions, ensure_ascii=False).encode()  # raises on a lone surrogate
        return captions
    except (ValueError, AttributeError, TypeError):
        return {}
