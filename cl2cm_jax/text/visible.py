"""Captions and queries as text, before a tokenizer gets them."""

from __future__ import annotations

import itertools
import re
import unicodedata
from typing import Literal

# Nothing that is seen: control characters but blanks, and what Unicode calls default ignorable (soft hyphens, marks of
# direction, zero-width spaces, fillers of Hangul), without joiners and what changes pictures and Mongolian letters;
# also the marks of objects and notes that word processors leave in copied text.
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffc\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0100-\U000e01ef]+"
)
# forms that are chosen by a selector behind a letter, and the letters that flags of regions are spelt with
_SELECTED = re.compile("(?<=[^\\W0-9_])[\ufe00-\ufe0f]+|(\U0001f3f4[\U000e0020-\U000e007f]+)|[\U000e0000-\U000e00ff]+")
# the letters and pictures that the two joiners change: Arabic to Myanmar, Khmer to Mongolian, emoji; and the marks
# (virama) behind which they change the letter before, also where no other follows
_JOINED = "\u0600-\u109f\u1780-\u18af\u2190-\u2bff\ufe0f\U0001f000-\U0001faff"
_VIRAMA = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
_LOOSE_JOINER = re.compile(f"(?<![{_JOINED}])[\u200c\u200d]+|(?<![{_VIRAMA}])[\u200c\u200d]+(?![{_JOINED}])")
# letters and digits that are another one of other width or font, joined to others, or within a ligature
_COMPATIBLE = re.compile(
    "[\ufb00-\ufdf9\ufe70-\ufefc\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff66-\uff9f\U0001d400-\U0001d7ff]+"
)
# what may hold many combining marks in a row: none is a letter or digit
_UNSPELT = re.compile(r"\W{32,}")
_PAIRS_OF_MARKS = {ord(pair): unicodedata.normalize("NFD", pair) for pair in "\u0f73\u0f75\u0f81"}
_QUOTES = ('""', "''", "``", "“”", "„“", "„”", "””", "‘’", "‚‘", "«»", "»«", "‹›", "›‹", "「」", "『』", "＂＂")
_CHEROKEE = re.compile("[\u13f8-\u13fd\uab70-\uabbf]+")
# Letters that are one in capitals, as they are in most languages and in Turkish or German.
_ONE_IN_CAPITALS = (("i", "ı"), ("ss", "ß"))


def normal_form(form: Literal["NFC", "NFD"], text: str) -> str:
    """A text as `unicodedata.normalize` writes it, in time in proportion to its length.

    Python sorts combining marks in a row in quadratic time: 100,000 take 8 s. So many in a row are sorted before.
    """
    if not text.isascii():
        text = _UNSPELT.sub(lambda found: _with_sorted_marks(found[0].translate(_PAIRS_OF_MARKS)), text)
    return unicodedata.normalize(form, text)


def _with_sorted_marks(text: str) -> str:
    """A text with the combining marks in a row in the order of their classes; 0 is that of all other characters."""
    runs = itertools.groupby(text, key=lambda char: unicodedata.combining(char) > 0)
    return "".join("".join(sorted(run, key=unicodedata.combining) if is_mark else run) for is_mark, run in runs)


def visible(text: str) -> str:
    """What a reader sees of a text: composed letters (NFC), single blanks, no character that is not seen.

    Letters of other width or font are the usual ones. Joiners stay where they change what is seen, as in Persian words
    and in pictures that are joined from several emoji.
    """
    if not text.isascii():
        text = _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
        text = _SELECTED.sub(r"\1", _INVISIBLE.sub("", normal_form("NFC", text))).replace("\u2800", " ")
        text = _LOOSE_JOINER.sub("", text)
    elif not text.isprintable():
        text = _INVISIBLE.sub("", text)
    return " ".join(text.split())


def prepared_query(text: str) -> str:
    """A query in one form, however it was typed: what is seen of it, in the lower case of its capitals.

    So ı is i and ß is ss; `spellings` has the others. Marks of quotation around all of it and Arabic letters that are
    drawn out (tatweel) are left out.
    """
    text = visible(text).replace("\u0640", "")
    while len(text) > 2 and text[0] + text[-1] in _QUOTES and not set(text[1:-1]) & {text[0], text[-1]}:
        text = text[1:-1].strip()
    lower = text.lower().replace("i\u0307", "i")  # of the Turkish capital with a dot
    if not lower.isascii():  # some letters have several lower-case ones, or become two letters in capitals
        lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", lower).upper().lower())
    return _CHEROKEE.sub(lambda found: found[0].upper(), lower)  # usually written in capitals


def spellings(word: str) -> tuple[str, ...]:
    """The words of one spelling in capitals: as `prepared_query` has it, with ı, with ß, and with a first capital."""
    others = [word.replace(one, other) for one, other in _ONE_IN_CAPITALS if one in word]
    return tuple(dict.fromkeys((word, *others, word[:1].title() + word[1:])))
