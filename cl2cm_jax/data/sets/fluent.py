"""The `fluent` set: a small one of real clips, the animated emoji of one package of Microsoft's Fluent Emoji.

Of the 999 files of the npm package `@lobehub/fluent-emoji-anim-1` (MIT) 477 are animated, 256 x 256 pixels and 28 to
97 frames; the others are left out. Names, concepts and the split are those of the `emoji` set: 187 clips show an emoji
that has a drawing there, the group "headline". The other 290 are 58 of these in five skin tones, the group "tones":
near-twins, so they share the concept, and thus the split, of the emoji without a tone and are evaluated apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from cl2cm_jax.data import builders
from cl2cm_jax.data.records import SPLITS, Caption, Record
from cl2cm_jax.data.sets.drawings import LANGUAGES, SKIN_TONES, Drawing, drawings, emoji_names, plain_name
from cl2cm_jax.errors import UserError

ANIMATED = 477  # of 999 files, as published
TONES = "tones"

_HEADER = 30  # bytes of a WebP file up to the end of its VP8X chunk
_ANIMATION = 0x02  # of the flags in it
_PRESENTATION = "\ufe0f"


class Clip(NamedTuple):
    """One animated file, and the emoji that it shows."""

    path: Path
    group: str  # "headline" or "tones"
    drawing: Drawing  # of the emoji without its skin tone
    captions: tuple[Caption, ...]


def clips(root: str | os.PathLike[str]) -> list[Clip]:
    """The animated files of the package in the order of their names. Source: ours.

    Args:
      root: the unpacked package, with the folder assets/.

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
    return [_clip(file, by_emoji, names) for file in animated]


def _clip(file: Path, by_emoji: dict[str, Drawing], names: dict[str, dict[str, str]]) -> Clip:
    """A file is called by its emoji's code points, e.g. 1f3c4-1f3fb.webp."""
    emoji = "".join(chr(int(point, 16)) for point in file.stem.split("-"))
    drawing = by_emoji[_plain(emoji)]
    if not SKIN_TONES & set(emoji):
        return Clip(file, drawing.group, drawing, drawing.captions)
    captions = tuple(Caption(language, plain_name(names[emoji][language]), "human") for language in LANGUAGES)
    return Clip(file, TONES, drawing, captions)


def _plain(emoji: str) -> str:
    """An emoji without its skin tone and presentation selectors."""
    return "".join(c for c in emoji if c not in SKIN_TONES and c != _PRESENTATION)


def _is_animated(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.read(_HEADER)
    return header[12:16] == b"VP8X" and bool(header[20] & _ANIMATION)


class Fluent(tfds.core.GeneratorBasedBuilder):
    """Animated emoji and their names.

    Args:
      root: the unpacked package.
      **options: those of tfds.
    """

    VERSION = tfds.core.Version("1.0.0")  # raise it when the names, the files or the split change

    def __init__(self, *, root: str, **options: Any) -> None:
        self._root = root
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=builders.features(),
            homepage="https://github.com/lobehub/fluent-emoji",
            license="Clips: MIT. Names: Unicode CLDR.",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        found = clips(self._root)
        return {split: self._generate_examples(found, split) for split in SPLITS}

    def _generate_examples(self, found: list[Clip], split: str) -> Iterator[tuple[int, Any]]:
        for key, clip in enumerate(found):
            if clip.drawing.split == split:
                record = Record(
                    image=clip.path.read_bytes(),
                    feature=None,
                    image_id=clip.path.stem.upper(),
                    group=clip.group,
                    concept=clip.drawing.concept,
                    path=os.path.abspath(clip.path),
                    captions=clip.captions,
                )
                yield key, builders.example(record)
