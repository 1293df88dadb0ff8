"""Captions that are read as they are and may be meant otherwise: counted, and named in a note of the data's report."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator

from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.errors import shortened

_LIMIT = 60  # characters of an example
_MARKUP = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{2,7}|#x[0-9A-Fa-f]{2,6});|</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>")
_EMPTY = frozenset({"nan", "null", "none", "n/a", "na", "nil", "unknown", "untitled", "no caption", "todo", "tbd"})
_PAGES = {  # code pages, with two characters that a letter in UTF-8 can become in it
    "cp1252": re.compile("[Â-ô][\u0080-\u00bf\u0152-\u2122]"),
    "cp1251": re.compile(r"[В-ф][^\x00-\x7fА-я]"),
}


class OddCaptions:
    """Counts odd captions by kind, with the first of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[int, str]] = {}

    def see(self, line: int, text: str) -> None:
        """Notes a caption, as it is in the file, if it is odd; `line` is 0 where it comes from no line."""
        kind, reading = _kind(text)
        if kind:
            self._counts[kind] += 1
            self._first.setdefault(kind, (line, f"{shortened(text.strip(), limit=_LIMIT)!r}{reading}"))

    def notes(self, file: str) -> Iterator[Problem]:
        """A note for each kind, which is logged as well."""
        for kind, count in self._counts.items():
            line, example = self._first[kind]
            reason = f"{count:,} captions {kind}, the first is {example}"
            yield Problem(file, line or None, "caption", reason, is_note=True, is_logged=True)


def _kind(text: str) -> tuple[str, str]:
    """What a caption seems to be, "" if nothing; and how it reads otherwise, where that is known."""
    if not text.isascii():
        if "\ufffd" in text:
            return "have a mark (U+FFFD) in place of letters that a program could not read", ""
        if (otherwise := _decoded(text)) is not None:
            return (
                "look like UTF-8 that was read as another encoding",
                f" (UTF-8: {shortened(otherwise, limit=_LIMIT)!r})",
            )
    if _MARKUP.search(text):
        return "have HTML in them, which is read as words", ""
    if text.strip().casefold() in _EMPTY or not any(map(str.isalnum, text)) and text.isascii():
        return "look like missing values", ""
    return "", ""


def _decoded(text: str) -> str | None:
    """A text that was read in a code page of Windows, as UTF-8; None for any other text."""
    for page, pattern in _PAGES.items():
        if pattern.search(text):
            with contextlib.suppress(UnicodeError):
                decoded = _bytes(text, page).decode()
                if page == "cp1252" or len(text) > len(decoded) + 1:  # Russian may end with a letter and "…"
                    return decoded
    return None


def _bytes(text: str, page: str) -> bytes:
    """A text in a code page, with bytes that this lacks as programs read them, as control characters."""
    parts = re.split("([\x80-\x9f]+)", text)
    return b"".join(part.encode("latin-1" if number % 2 else page) for number, part in enumerate(parts))
