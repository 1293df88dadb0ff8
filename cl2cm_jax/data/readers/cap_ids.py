"""Lines `cap_id sentence` of the paper's sets, where cap_id is `media#tag#k`.

The media id is the part before the first "#", without .jpg or .mp4. The tag names the language and the origin of the
sentence; a caption and its translation, its partner, have the same media id and k and another tag.
Source: NRCCR, LECCR (the format).
"""

from __future__ import annotations

import re
from typing import NamedTuple

Key = tuple[str, str]  # media id and k

_SUFFIX = re.compile(r"\.(jpg|mp4)$", re.IGNORECASE)


class CapLine(NamedTuple):
    """A parsed line."""

    cap_id: str  # as written, with the suffix of its picture
    key: Key  # which a caption shares with its translation
    tag: str
    sentence: str  # "" where there is none


def media_id(name: str) -> str:
    """The id of a picture or video: "123.jpg#enc#0", "123.jpg" and "123" are one."""
    return _SUFFIX.sub("", name.split("#", 1)[0])


def cap_id_of(content: str) -> str:
    """The part before a line's first space, whether it is a cap_id or not."""
    return content.strip(" \t\r").partition(" ")[0]


def parse_line(content: str) -> CapLine | None:
    """A line split once at its first space; None if it does not begin with a cap_id."""
    cap_id, _, sentence = content.strip(" \t\r").partition(" ")
    parts = cap_id.split("#")
    if len(parts) != 3 or not all(parts) or len(cap_id.split()) != 1:
        return None
    _, tag, k = parts
    return CapLine(cap_id, (media_id(cap_id), k), tag, sentence.strip())


def parse_token_line(content: str) -> CapLine | None:
    """A line `media#k TAB sentence`, which has no tag, as Flickr8k's own captions are written; None if it is none.

    Source: Flickr8k's authors (the format).
    """
    cap_id, tab, sentence = content.strip(" \r").partition("\t")
    media, _, k = cap_id.rpartition("#")
    if not tab or not media or not k or len(cap_id.split()) != 1:
        return None
    return CapLine(cap_id, (media_id(media), k), "", sentence.strip())
