"""Lines `cap_id sentence` of the paper's sets; cap_id is `media#tag#k`. Source: siblings (the format)."""

from __future__ import annotations

import re

from cl2cm_jax.data.paper_captions import media_id

_LINE = re.compile(r"([^\s#]+#[^\s#]+#[^\s#]+)(?: (.*))?")


def split_line(line: str) -> tuple[str, str] | None:
    """cap_id and sentence ("" where there is none); None if the line has no cap_id."""
    match = _LINE.fullmatch(line.rstrip("\r"))
    return (match[1], (match[2] or "").strip()) if match else None


def cap_key(cap_id: str) -> tuple[str, str] | None:
    """Media id and k, which a caption shares with its translation; None if it is no cap_id."""
    parts = cap_id.split("#")
    return (media_id(cap_id), parts[2]) if len(parts) == 3 else None


def translated_cap_id(cap_id: str, target: str) -> str:
    """The cap_id of a translation: "7#enc#0" into German is "7#enc2de#0", "7#de#0" into English "7#de2enc#0"."""
    media, tag, k = cap_id.split("#")
    return f"{media}#{tag}2{tag_of(target)}#{k}"


def tag_of(language: str) -> str:
    """What the files call a language."""
    return "enc" if language == "en" else language
