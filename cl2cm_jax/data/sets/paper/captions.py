"""Reads the caption files of the paper's sets: UTF-8 lines `cap_id sentence`, see `cl2cm_jax.data.readers.cap_ids`.

A wrong line becomes a `Problem` with file and line, and is left out. Source: NRCCR, LECCR (the format).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.data.readers.cap_ids import CapLine, Key, cap_id_of, parse_line
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.errors import UserError

_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class Line(NamedTuple):
    """One caption."""

    number: int  # of the line, counted from 1
    tag: str
    text: str


class CaptionLines(NamedTuple):
    """The good lines of a file in their order, and the problems of the others."""

    path: Path
    tags: tuple[str, ...]  # those that its lines may have
    lines: dict[Key, Line]
    problems: list[Problem]

    @property
    def tag(self) -> str:
        """The tag that its lines have."""
        return next((line.tag for line in self.lines.values()), self.tags[0])


def read_caption_lines(
    path: Path, *, tags: Sequence[str], parse: Callable[[str], CapLine | None] = parse_line
) -> CaptionLines:
    """Reads and checks every line; the last one may lack its newline.

    Raises:
      UserError: it cannot be read, or has no line.
    """
    try:
        # Bytes that are not UTF-8 become lone surrogates, so that the line they are in can be named.
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); allow it, or get a fresh copy") from error
    found = CaptionLines(path, tuple(tags), {}, [])
    # str.splitlines would also end a line at U+2028 and the like, which sentences contain
    for number, content in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        line = parse(content)
        reason = _reason_against(line, content, tags)
        if line and not reason and line.key in found.lines:
            first = found.lines[line.key].number
            reason = f"duplicate id {'#'.join((line.key[0], line.tag, line.key[1]))!r}, first in line {first}"
        if line and not reason:
            found.lines[line.key] = Line(number, line.tag, line.sentence)
        else:
            found.problems.append(Problem(str(path), number, "cap_id sentence", reason))
    if not found.lines and not text.strip():
        raise UserError(f"{path} is empty; get a fresh copy")
    return found


def _reason_against(line: CapLine | None, content: str, tags: Sequence[str]) -> str:
    """Why a line cannot be used; "" if it is good."""
    if _UNREADABLE.search(content):
        return "is not valid UTF-8, or has a NUL byte; get a fresh copy"
    if line is None:
        form = "media#tag#k" if any(tags) else "media#k before a tab"
        return f"{cap_id_of(content)!r} is not an id of the form {form}"
    if line.tag not in tags:
        return f"{line.cap_id!r} has the tag {line.tag!r}; this file has {' or '.join(map(repr, tags))}"
    return "" if line.sentence else f"{line.cap_id!r} has no sentence"


def partners(first: CaptionLines, others: Iterable[CaptionLines]) -> tuple[list[Key], list[Problem]]:
    """Keys that every file has, in the order of the first, and a problem for each caption without its partner."""
    kept, problems = list(first.lines), []
    for other in others:
        problems += _alone(first, other) + _alone(other, first)
        kept = [key for key in kept if key in other.lines]
    return kept, problems


def _alone(one: CaptionLines, other: CaptionLines) -> list[Problem]:
    """Captions of one file without a partner in the other; those whose partner's line is bad are named as well."""
    problems = []
    for (media, k), line in one.lines.items():
        if (media, k) not in other.lines:
            reason = (
                f"{media}#{line.tag}#{k} has no partner {media}#{other.tag}#{k} in {other.path.name}; "
                "add it or remove this line"
            )
            problems.append(Problem(str(one.path), line.number, "cap_id", reason))
    return problems
