"""What an index knows of a picture, and which pictures a search is narrowed to.

Source: ours.
"""

from __future__ import annotations

import calendar
import datetime
import hashlib
import heapq
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cl2cm_jax.errors import UserError

Captions = Mapping[str, tuple[str, ...]]  # by language

LAST = "\U0010ffff"  # sorts behind whatever a path goes on with
DAY = 24 * 60 * 60  # seconds
_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}){0,2}")
_UNITS = {4: "year", 7: "month", 10: "day"}  # by the length of a date
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture or clip of an index.

    Attributes:
      id: 32 hexadecimal digits, a function of `path`; the only name that the service gives and takes.
      path: inside the folder, with slashes.
      size, mtime: bytes, and nanoseconds since 1970, of its files when it was embedded.
      hash: SHA-256 of its files; "" where they were not read.
      date: seconds since 1970: when it was taken, by its EXIF block, else last changed.
      captions: by language.
    """

    id: str
    path: str
    size: int = 0
    mtime: int = 0
    hash: str = ""
    date: int = 0
    captions: Captions = field(default_factory=dict)

    def caption(self, *languages: str) -> tuple[str, str]:
        """(language, caption): the first that there is in one of `languages`, else in any; ("", "") if none."""
        for language in (*languages, *self.captions):
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
    """Which pictures may be found; the empty ones are all.

    Attributes:
      language: those with a caption in it.
      path: those whose path inside the folder begins with it.
      since, until: those whose date is at or after, and before, in seconds since 1970.
    """

    language: str = ""
    path: str = ""
    since: int | None = None
    until: int | None = None

    def __post_init__(self) -> None:
        if self.language and not _LANGUAGE.fullmatch(self.language):
            raise UserError(f"language={self.language[:40]!r} is no code of a language; write de, or zh-TW")
        if any("\ud800" <= char <= "\udfff" or char < " " for char in self.path):
            raise UserError(f"path={self.path[:40]!r} has control characters; write how paths begin, as in beach/")

    def expression(self) -> str:
        """The same in Milvus's language; "" is all. What users write stands in quotes and cannot end them."""
        terms = []
        if self.language:
            terms.append(f"ARRAY_CONTAINS(languages, {_quoted(self.language)})")
        if self.path:  # a range, since `like` would see patterns in % and _
            terms.append(f"path >= {_quoted(self.path)} and path < {_quoted(self.path + LAST)}")
        if self.since is not None:
            terms.append(f"date >= {self.since}")
        if self.until is not None:
            terms.append(f"date < {self.until}")
        return " and ".join(terms)

    def admits(self, entry: Entry) -> bool:
        """The same in Python."""
        return (
            (not self.language or self.language in entry.captions)
            and entry.path.startswith(self.path)
            and (self.since is None or entry.date >= self.since)
            and (self.until is None or entry.date < self.until)
        )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def day(text: str, *, name: str, after: bool = False) -> int | None:
    """A date, "2024", "2024-05" or "2024-05-31", as the second (UTC) when it begins; `after`: when it has ended.

    Raises:
      UserError: it is none.
    """
    if not text:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        begin = datetime.datetime.fromisoformat(text + "-01-01"[len(text) - 4 :]).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise UserError(f"{name}={text[:40]!r} is no date; write 2024, 2024-05 or 2024-05-31") from None
    seconds = int(begin.timestamp())
    return seconds + _days(begin, unit=_UNITS[len(text)]) * DAY if after else seconds


def _days(begin: datetime.datetime, *, unit: str) -> int:
    """How many days the day, month or year has that begins then."""
    if unit == "day":
        return 1
    if unit == "month":
        return calendar.monthrange(begin.year, begin.month)[1]
    return 365 + calendar.isleap(begin.year)


def captions_to_text(captions: Captions, *, most: int) -> str:
    """Captions as JSON of at most `most` bytes; the last ones are left out where that is too little."""
    kept = {language: list(texts) for language, texts in captions.items() if texts}
    sizes = {language: [_size(text) + 2 for text in texts] for language, texts in kept.items()}  # 2: ", " or "[]"
    lengths = {language: sum(map(len, texts)) for language, texts in kept.items()}
    heads = {language: _size(language) + 4 for language in kept}  # 4: ": " and ", " or "{}"
    total = sum(heads.values()) + sum(map(sum, sizes.values())) if kept else 2
    heap = [(-length, place, language) for place, (language, length) in enumerate(lengths.items())]
    heapq.heapify(heap)
    while total > most and heap:
        _, place, longest = heapq.heappop(heap)
        lengths[longest] -= len(kept[longest].pop())
        total -= sizes[longest].pop()
        if kept[longest]:
            heapq.heappush(heap, (-lengths[longest], place, longest))
        else:
            del kept[longest]
            total -= heads[longest]
    return json.dumps(kept, ensure_ascii=False)


def _size(text: str) -> int:
    """Bytes of a text as JSON."""
    return len(json.dumps(text, ensure_ascii=False).encode())


def captions_from_text(text: str) -> Captions:
    """Reads what `captions_to_text` wrote; damaged text is no caption."""
    try:
        found: Any = json.loads(text or "{}")
        captions = {str(language): tuple(map(str, texts)) for language, texts in found.items()}
        json.dumps(captions, ensure_ascii=False).encode()  # half a character (a lone surrogate) cannot be written
        return captions
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}
