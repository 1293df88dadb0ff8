"""The `fluent` set: a small one of real clips, the animated emoji of one package of Microsoft's Fluent Emoji.

Of the 999 files of the npm package `@lobehub/fluent-emoji-anim-1` (MIT) 477 are animated, 256 x 256 pixels and 28 to
97 frames; the others are left out. Names, concepts and the split are those of the `emoji` set: 187 clips show an emoji
that has a drawing there, the group "headline". The other 290 are 58 of these in five skin tones, the group "tones":
near-duplicates, so they have the concept, and thus the split, of the emoji without a tone and are evaluated separately.
"""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.captions import Caption, CaptionTable
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.data.sets.pictograms.drawings import (
    LANGUAGES,
    SKIN_TONES,
    Drawing,
    drawings,
    emoji_names,
    plain_name,
)
from cl2cm_jax.errors import UserError

ANIMATED = 477  # of 999 files, as published
TONES = "tones"

_HEADER = 30  # bytes of a WebP file up to the end of its VP8X chunk
_ANIMATION = 0x02  # of the flags in it
_PRESENTATION = "\ufe0f"


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of the unpacked package in `data.root`."""

    def read(folder: Path, mapper: Mapper) -> CaptionTable:
        del folder, mapper
        root = os.path.abspath(data.root)
        return CaptionTable([row._replace(picture=os.path.relpath(str(row.picture), root)) for row in clips(root)])

    return CaptionSet(
        name="fluent",
        read=read,
        pictures=data.root,
        description=__doc__,
        homepage="https://github.com/lobehub/fluent-emoji",
        license="Clips: MIT. Names: Unicode CLDR.",
    )


def clips(root: str | os.PathLike[str]) -> list[Caption]:
    """The captions of the animated files of the package in the order of the files' names.

    Raises:
      UserError: the folder is not there, or not as published.
    """
    files = sorted(Path(root, "assets").glob("*.webp"))
    animated = [file for file in files if _is_animated(file)]
    if len(animated) != ANIMATED:
        raise UserError(
            f"config.data.root={os.fspath(root)!r} has {len(animated)} animated files in assets/ ({ANIMATED} as "
            "published); fetch the package with: make fluent"
        )
    by_emoji = {_plain(drawing.emoji): drawing for drawing in drawings()}
    names = emoji_names()
    return [row for file in animated for row in _captions(file, by_emoji, names)]


def _captions(file: Path, by_emoji: dict[str, Drawing], names: dict[str, dict[str, str]]) -> list[Caption]:
    """The captions of a file, which is named by its emoji's code points, e.g. 1f3c4-1f3fb.webp."""
    emoji = "".join(chr(int(point, 16)) for point in file.stem.split("-"))
    rows = by_emoji[_plain(emoji)].rows
    if SKIN_TONES & set(emoji):
        first = rows[0]._replace(group=TONES)
        rows = [first._replace(language=name, caption=plain_name(names[emoji][name])) for name in LANGUAGES]
    return [row._replace(image=file.stem.upper(), picture=os.path.abspath(file)) for row in rows]


def _plain(emoji: str) -> str:
    """An emoji without its skin tone and presentation selectors."""
    return "".join(c for c in emoji if c not in SKIN_TONES and c != _PRESENTATION)


def _is_animated(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.read(_HEADER)
    return header[12:16] == b"VP8X" and bool(header[20] & _ANIMATION)
