"""What the cap_ids of translations are called, `media#tag#k`. Source: siblings (the format)."""

from __future__ import annotations

from cl2cm_jax.data.readers.cap_ids import Key, parse_line


def cap_key(cap_id: str) -> Key | None:
    """Media id and k, which a caption shares with its translation; None if it is no cap_id."""
    parsed = parse_line(cap_id)
    return parsed.key if parsed and not parsed.sentence else None


def translated_cap_id(cap_id: str, target: str) -> str:
    """The cap_id of a translation: "7#enc#0" into German is "7#enc2de#0", "7#de#0" into English "7#de2enc#0"."""
    media, tag, k = cap_id.split("#")
    return f"{media}#{tag}2{tag_of(target)}#{k}"


def tag_of(language: str) -> str:
    """What the files call a language."""
    return "enc" if language == "en" else language
