"""Captions and queries as text, before a tokenizer gets them."""

from __future__ import annotations

import re
import unicodedata

# nothing that is seen: soft hyphens, marks of direction, zero-width spaces and joiners of words, byte-order marks
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")
# the letters and pictures that the two joiners change: Arabic to Myanmar, Khmer to Mongolian, emoji
_JOINED = "\u0600-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_LOOSE_JOINER = re.compile(f"(?<![{_JOINED}])[\u200c\u200d]+|[\u200c\u200d]+(?![{_JOINED}])")


def visible(text: str) -> str:
    """What a reader sees of a text: composed letters (NFC), single blanks, no character that is not seen.

    Joiners stay where they change what is seen, as in Persian words and in pictures that are joined from several emoji.
    """
    if not text.isascii():
        text = _LOOSE_JOINER.sub("", _INVISIBLE.sub("", unicodedata.normalize("NFC", text)))
    return " ".join(text.split())


def prepared_query(text: str) -> str:
    """A query as the text encoder gets it: what is seen of it, and in lower case if all its letters are capitals.

    Most encoders are cased and were trained on captions with few capitals: of emoji names in capitals 1 to 7 % find
    their drawing among the first ten, in lower case 8 to 13 %, as many as of the names as they are. A query with other
    letters keeps its capitals: German nouns, names, and the letters of a word such as TV in a Chinese query.
    """
    text = visible(text)
    if all(letter.isupper() for letter in text if letter.isalpha()):
        return text.lower().replace("i\u0307", "i")  # of the Turkish capital with a dot
    return text
