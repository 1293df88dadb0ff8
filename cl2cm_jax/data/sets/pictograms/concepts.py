"""Which emoji are variants of one concept, so that near-duplicates are never in two splits.

Two emoji are of one concept when they share any of these, transitively:

1. *Structure*: the same code points once presentation selectors, gender signs, "facing right" arrows, hair and colour
   components are dropped and man / woman / person are read as one. Sequences of people only (couples, families) are
   all of one structure.
2. *Name*: the same English name once man / woman / person, "facing right", "oncoming", "small" and a last "face" are
   dropped.
3. *Family*: the first pattern of `FAMILIES` that their English name matches ("one o'clock", "three-thirty": clock
   face).
4. *Caption*: the same English caption.

The concept, hashed with a fixed salt, decides the split: it depends neither on a run's seed nor on the other concepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from cl2cm_jax.data.sets.pictograms.grouping import grouped, hashed_split

SPLIT_SALT = "cl2cm_jax/emoji/1"
TRAIN_SHARE, VALIDATION_SHARE = 0.70, 0.15

_JOINER = 0x200D
_DROPPED = {
    0xFE0F,  # presentation selector
    *(0x2640, 0x2642),  # female, male sign
    0x27A1,  # right arrow: "facing right"
    *range(0x1F9B0, 0x1F9B4),  # hair
    *(0x2B1B, 0x1F7E9, 0x1F7EB),  # black, green, brown square: "black cat", "lime", "brown mushroom"
}
_ADULT, _ADULTS, _CHILDREN = 0x1F9D1, {0x1F468, 0x1F469, 0x1F9D1}, {0x1F466, 0x1F467, 0x1F9D2}
_BETWEEN_PEOPLE = {0x2764, 0x1F48B, 0x1F91D}  # heart, kiss mark, handshake

_NOT_THE_CONCEPT = re.compile(r"\b(man|woman|person|men|women|people|facing right|oncoming|small)\b| face$")

FAMILIES: Mapping[str, str] = {
    # people and hands
    "person": r"^(man|woman|person|boy|girl|child|baby|older person|old (man|woman))$"
    r"|^(man|woman|person) (bald|beard|(curly|red|white|blond) hair)$",
    "family": r"^family|^couple with|^kiss\b(?! mark)|holding hands$|^people hugging$",
    "royalty": r"^prince(ss)?$|^person with crown$",
    "claus": r"\bclaus$",
    "merperson": r"^mer(maid|man|person)$",
    "restroom": r"^(men|women)’s room$|^restroom$|^water closet$",
    "pointing hand": r"index pointing|wards (pushing )?hand$|^palm (up|down) hand$|\bfist$",
    "thumb": r"^thumbs ",
    # faces
    "cat": r"\bcat\b",
    "monkey": r"\bmonkey\b",
    "kissing face": r"^kissing face|blowing a kiss$",
    "grinning face": r"^(grinning|beaming) ",
    "face with tongue": r"\bwith tongue$",
    "face with horns": r"face with horns$",
    "smiling face": r"smiling face",
    "frowning face": r"^(slightly )?frowning face",
    "face with open mouth": r"with open mouth$|hand over mouth$",
    "moon": r"\bmoon\b(?! (cake|viewing))",
    # animals, plants, food
    "dog": r"\bdog$(?<!hot dog)",
    "camel": r"\bcamel$",
    "whale": r"\bwhale$",
    "bear": r"^(polar )?bear$",
    "chick": r"\bchick$",
    "nest": r"\bnest\b",
    "tree": r"\btree$",
    "apple": r"\bapple$",
    "beer": r"\bbeer mugs?$",
    # signs and shapes; a button shows an arrow, a square or letters, so it comes first
    "check mark": r"\bcheck (mark|box)\b",
    "cross mark": r"\bcross mark\b",
    "button": r"\bbutton\b",
    "clock face": r"o’clock$|-thirty$",
    "arrow": r"\barrows?\b(?<!bow and arrow)(?<!with arrow)",
    "heart": r"^(?!anatomical|couple).*\bhearts?\b(?! hands)(?!-)",
    "circle": r"\bcircle$",
    "square": r"\bsquare$",
    "triangle": r"\btriangle\b",
    "diamond": r"\bdiamond\b(?! suit)",
    "keycap": r"^keycap\b",
    "input symbol": r"^input ",
    "zodiac": r"^(aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus)$",
    "punctuation mark": r"\b(question|exclamation)\b",
    "curly loop": r"\bcurly loop$",
    "card suit": r" suit$",
    "star": r"^(glowing |shooting )?star$",
    "medal": r"\bmedal$",
    "mailbox": r"\bmailbox\b",
    "flag": r"\bflags?$",
    # things
    "book": r"^(red|blue|green|orange|closed|open) book$|^books$",
    "bell": r"^bell\b(?! pepper)",
    "banknote": r"\bbanknote$",
    "calendar": r"\bcalendar$",
    "camera": r"^camera\b",
    "chart": r"\bchart\b",
    "envelope": r"^(incoming )?envelope\b",
    "hourglass": r"^hourglass\b",
    "lock": r"^(un)?locked\b",
    "magnifying glass": r"^magnifying glass\b",
    "mobile phone": r"\bmobile phones?\b",
    "musical notes": r"^musical notes?$",
    "newspaper": r"\bnewspaper$",
    "page": r"^page ",
    "paperclip": r"\bpaperclips?$",
    "speaker": r"\bspeaker\b",
    "umbrella": r"\bumbrella\b",
    # places, weather and vehicles
    "globe": r"^globe showing\b",
    "cloud": r"\bcloud\b(?<!fight cloud)",
    "snowman": r"\bsnowman\b",
    "sunrise": r"^sunrise|^sunset$",
    "house": r"^houses?\b",
    "post office": r"\bpost office$",
    "mountain": r"\bmountain$",
    "airplane": r"\bairplane\b",
    "traffic light": r"\btraffic light$",
    "train": r"\btrain$",
}
_FAMILIES = [(concept, re.compile(pattern)) for concept, pattern in FAMILIES.items()]


def structure_key(emoji: str) -> str:
    """What is left of an emoji's code points without its variants, e.g. "1F9D1-1F692" for every firefighter."""
    points = [_ADULT if ord(c) in _ADULTS else ord(c) for c in emoji]
    kept = [point for point in points[1:] if point not in _DROPPED and point != _JOINER]
    people = {_ADULT, *_CHILDREN}
    if kept and points[0] in people and all(point in people | _BETWEEN_PEOPLE for point in kept):
        return "family"
    return "-".join(f"{point:X}" for point in [points[0], *kept])


def name_key(english_name: str) -> str:
    """The English name without gender and direction: "firefighter" for "man firefighter"."""
    return " ".join(_NOT_THE_CONCEPT.sub(" ", english_name.lower()).split()) or "person"


def family_of(english_name: str) -> str | None:
    """The family of `FAMILIES` that an English name belongs to, if any."""
    name = english_name.lower()
    return next((concept for concept, pattern in _FAMILIES if pattern.search(name)), None)


def concepts_of(emoji: Sequence[str], english_captions: Sequence[Sequence[str]]) -> list[str]:
    """The concept of each emoji by the rule of this module.

    Returns:
      n concepts, each called by its family, or else by the first of its members' names in (length, alphabet) order.
    """
    groups = grouped([list(_keys(text, captions)) for text, captions in zip(emoji, english_captions, strict=True)])
    names: dict[int, list[str]] = {}
    for group, captions in zip(groups, english_captions, strict=True):
        names.setdefault(group, []).append(captions[0])
    labels = {group: _label(members) for group, members in names.items()}
    return [labels[group] for group in groups]


def split_of(concept: str) -> str:
    """The split "train", "validation" or "test": a fixed hash of the concept, 70 / 15 / 15 in expectation."""
    return hashed_split(concept, salt=SPLIT_SALT, train=TRAIN_SHARE, validation=VALIDATION_SHARE)


def _keys(emoji: str, captions: Sequence[str]) -> Iterable[str]:
    yield f"structure {structure_key(emoji)}"
    yield f"name {name_key(captions[0])}"
    yield from (f"caption {caption.lower()}" for caption in captions)
    if family := family_of(captions[0]):
        yield f"family {family}"


def _label(names: Sequence[str]) -> str:
    families = sorted({family for name in names if (family := family_of(name))})
    return families[0] if families else min((name_key(name) for name in names), key=lambda name: (len(name), name))
