"""The captions that a webdataset sample carries: KEY.txt, and "caption", "captions", "origins", "split" of KEY.json.

Each line of KEY.txt is a caption, as in the shards of CLIP_benchmark. img2dataset writes it and "caption", which then
agree and are one caption even if it has several lines. The other three are optional:

    {"caption": "two dogs", "captions": {"de": "zwei Hunde", "fr": ["deux chiens", "des chiens"]},
     "origins": {"de": "machine"}, "split": "train"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.readers.caption_file import checked_row, known_split
from cl2cm_jax.text.json_file import MOST_OF_A_RECORD, parse_json
from cl2cm_jax.text.languages import canonical, is_translation

MAX_CAPTIONS = 1000  # of a sample, and its languages; a set of videos has 40 captions in each of some languages
_LINE_END = re.compile(r"\r\n?|\n")


class SampleError(Exception):
    """Why a sample cannot be used. `ending` names the file of it that is wrong."""

    def __init__(self, ending: str, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


class SampleCaptions(NamedTuple):
    """The captions of a sample."""

    split: str  # "" if the sample has none
    rows: tuple[Caption, ...]
    problems: tuple[tuple[str, str], ...]  # (ending, reason) of captions that are left out


def read_captions(key: str, *, text: bytes | None, described: bytes | None, source: str) -> SampleCaptions:
    """Reads and checks the captions of a sample. One that is repeated counts once.

    Raises:
      SampleError: a file is not UTF-8 or no JSON object, or a field is of the wrong kind.
    """
    description = _object(described)
    split = description.get("split") or ""
    if not isinstance(split, str) or bool(split) != bool(known_split(split)):
        raise SampleError("json", f"split is {_shown(split)}; write 'train', 'validation' or 'test'")
    rows: list[Caption] = []
    seen: set[tuple[str, str]] = set()
    problems = []
    for ending, language, caption, origin in _entries(text, description, source):
        row = checked_row({"image": key, "language": language, "caption": caption, "origin": origin})
        if not isinstance(row, Caption):
            field, reason = row
            problems.append((ending, f"{field} in {language!r} {reason.replace('the row', 'it')}"))
        elif is_translation(row.language) or (row.language, row.caption) not in seen:
            rows.append(row)  # in "de2en", two captions may have the same translation
            seen.add((row.language, row.caption))
    return SampleCaptions(known_split(split), tuple(rows), tuple(problems))


def _entries(text: bytes | None, description: dict[str, Any], source: str) -> Iterator[tuple[str, str, str, str]]:
    """(ending, language, caption, origin) of every caption that is there: neither null nor an empty .txt."""
    captions, origins = (_mapping(description, field) for field in ("captions", "origins"))
    origins = {canonical(language): origin for language, origin in origins.items()}
    origin = origins.get(source, "human")
    try:
        plain = (text or b"").decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise SampleError("txt", f"is not valid UTF-8 (byte {error.start}); save it as UTF-8") from error
    if (lines := len(_LINE_END.findall(plain)) + 1) > MAX_CAPTIONS:
        raise SampleError("txt", f"has {lines:,} captions, and {MAX_CAPTIONS:,} are read; keep those of this picture")
    agreed = description.get("caption")
    is_one = isinstance(agreed, str) and agreed.split() == plain.split()
    for caption in [plain] if is_one else _LINE_END.split(plain):
        if caption.strip():
            yield "txt", source, caption, origin
    further: list[tuple[str, Any]] = [(source, description.get("caption") or None)]
    for language, entry in captions.items():
        further += [(language, caption) for caption in (entry if isinstance(entry, list) else [entry])]
    if len(further) > MAX_CAPTIONS:
        raise SampleError("json", f"has {len(further):,} captions, and {MAX_CAPTIONS:,} are read; keep the best")
    for language, caption in further:
        if caption is not None and not isinstance(caption, str):
            raise SampleError("json", f"caption in {language!r} is {_shown(caption)}; write text")
        if caption is not None:
            yield "json", language, caption, origins.get(canonical(language), "human")


def _object(described: bytes | None) -> dict[str, Any]:
    try:
        text = "{}" if described is None else described.decode("utf-8-sig")
        found = parse_json(text, values=MOST_OF_A_RECORD, strict=False, once=True)
    except ValueError as error:
        raise SampleError("json", f"is not JSON in UTF-8 ({error}); fix it") from error
    if not isinstance(found, dict):
        raise SampleError("json", f"is a JSON {type(found).__name__}; write an object")
    return found


def _mapping(description: dict[str, Any], field: str) -> dict[str, Any]:
    found = description.get(field) or {}
    if not isinstance(found, dict):
        raise SampleError("json", f"{field} is {_shown(found)}; write an object by language, such as {{'de': ...}}")
    if len(found) > MAX_CAPTIONS:
        raise SampleError("json", f"{field} has {len(found):,} languages, and {MAX_CAPTIONS:,} are read; keep some")
    if field == "origins" and not all(isinstance(value, str) for value in found.values()):
        raise SampleError("json", f"origins is {_shown(found)}; write text for each language")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
