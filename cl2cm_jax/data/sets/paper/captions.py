"""Reads the caption files of the paper's sets: UTF-8 lines `cap_id sentence`, see `cl2cm_jax.data.readers.cap_ids`.

What is wrong with a line becomes a `Problem` with file and line, and the line is left out.

Source: siblings (the format).
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
    """The good lines of a file in their order, and what is wrong with the others."""

    path: Path
    tags: tuple[str, ...]  # those that its lines may have
    lines: dict[Key, Line]
    problems: list[Problem]

    @property
    def tag(self) -> str:
        """The tag that its lines have."""
        return next((line.tag for line in self.lines.values()), self.tags[0])


class _BadLine(Exception):
    pass


def read_caption_lines(
    path: Path, *, tags: Sequence[str], parse: Callable[[str], CapLine | None] = parse_line
) -> CaptionLines:
    """Reads and checks every line; the last one may lack its newline.

    Args:
      path: the file.
      tags: those that its captions may have.
      parse: reads a line; None where it does not begin with an id.

    Raises:
      UserError: it cannot be read, or has no line.
    """
    try:
        # Bytes that are no UTF-8 become lone surrogates, so that the line they are in can be named.
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); allow it, or get a fresh copy") from error
    found = CaptionLines(path, tuple(tags), {}, [])
    # str.splitlines would also end a line at U+2028 and the like, which sentences contain
    for number, content in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        try:
            key, line = _parsed(number, parse(content), content, tags)
            if key in found.lines:
                first = found.lines[key].number
                raise _BadLine(f"duplicate id {'#'.join((key[0], line.tag, key[1]))!r}, first in line {first}")
            found.lines[key] = line
        except _BadLine as bad:
            found.problems.append(Problem(str(path), number, "cap_id sentence", str(bad)))
    if not found.lines and not text.strip():
        raise UserError(f"{path} is empty; get a fresh copy")
    return found


def _parsed(number: int, line: CapLine | None, content: str, tags: Sequence[str]) -> tuple[Key, Line]:
    """Raises _BadLine."""
    if _UNREADABLE.search(content):
        raise _BadLine("is not valid UTF-8, or has a NUL byte; get a fresh copy")
    if line is None:
        raise _BadLine(f"{cap_id_of(content)!r} is no id of the form {_form(tags)}")
    if line.tag not in tags:
        raise _BadLine(f"{line.cap_id!r} has the tag {line.tag!r}; this file has {' or '.join(map(repr, tags))}")
    if not line.sentence:
        raise _BadLine(f"{line.cap_id!r} has no sentence")
    return line.key, Line(number, line.tag, line.sentence)


def _form(tags: Sequence[str]) -> str:
    return "media#tag#k" if any(tags) else "media#k before a tab"


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
