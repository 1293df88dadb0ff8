"""Finds the published files of Flickr8k and Flickr8k-CN.

Flickr8k has the pictures, English captions and lists of its splits; Flickr8k-CN has Chinese captions by people and by
two engines, the English ones again, and lists of the same splits. Mirrors unpack them into folders of any name, so the
files are found by their own names. Source: the two sets' authors (names and formats).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.errors import UserError

NAME = "flickr8k_cn"
PUBLISHED = (
    "https://forms.illinois.edu/sec/1713398 (Flickr8k: pictures, English captions, split lists) and "
    "https://github.com/li-xirong/flickr8kcn, folder data/ (Flickr8k-CN: Chinese captions, split lists)"
)
SIZES = {"train": 6_000, "validation": 1_000, "test": 1_000}  # images of each split, as published
DEPTH = 4  # folders below data.root that are looked into
TOKENS = "Flickr8k.token.txt"  # English captions, lines "media#k TAB sentence"; the others are "media#tag#k sentence"
_ENGLISH = (TOKENS, "flickr8kenc.caption.txt")
_CHINESE = ("flickr8kzhc.caption.txt",)  # written for the pictures, without the English captions
# by engine; the later translations first
_TRANSLATED = {
    "baidu": ("flickr8kzhb.caption.txt.v20160815", "flickr8kzhb.caption.txt"),
    "google": ("flickr8kzhg.caption.txt.v20160816", "flickr8kzhg.caption.txt"),
}
_LISTS = {
    "train": ("Flickr_8k.trainImages.txt", "flickr8ktrain.txt"),
    "validation": ("Flickr_8k.devImages.txt", "flickr8kval.txt"),
    "test": ("Flickr_8k.testImages.txt", "flickr8ktest.txt"),
}
_PICTURES = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images")  # the first is the published spelling
_NO_FOLDER = ("__MACOSX",)  # of the published archive; holds no pictures but files of their names


class Published(NamedTuple):
    """The files of the set."""

    english: Path
    chinese: Path
    translated: Path
    lists: dict[str, Path]  # by split
    pictures: Path | None  # their folder, None if it is not needed

    @property
    def texts(self) -> list[Path]:
        """All but the pictures."""
        return [self.english, self.chinese, self.translated, *self.lists.values()]


def find(root: str, *, engine: str, with_pictures: bool) -> Published:
    """Looks for the files in a folder and in those below it, `DEPTH` deep.

    Raises:
      UserError: `root` is not a folder, or lists the files that are missing and who publishes them.
    """
    if not Path(root).is_dir():
        raise UserError(
            f"config.data.root={root!r} is not a folder; name the one that holds the published files of {NAME}: "
            f"{PUBLISHED}"
        )
    files, folders = _below(root)
    missing: list[str] = []

    def found(known: dict[str, Path], names: Sequence[str], what: str = "") -> Path:
        path = next((known[name] for name in names if name in known), None)
        if path is None:
            missing.append(f"{what}{' or '.join(names)}")
        return path or Path()

    published = Published(
        english=found(files, _ENGLISH),
        chinese=found(files, _CHINESE),
        translated=found(files, _TRANSLATED[engine]),
        lists={split: found(files, names) for split, names in _LISTS.items()},
        pictures=found(folders, _PICTURES, "the folder of pictures ") if with_pictures else None,
    )
    if missing:
        raise UserError(
            f"config.data.root={root!r}: {NAME} lacks {', '.join(missing)}; looked in that folder and {DEPTH} deep "
            f"below it; published at {PUBLISHED}",
            id="missing-files",
        )
    return published


def _below(root: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Text files and folders of pictures by name, `DEPTH` deep; of two of one name the one nearest to the root."""
    walked: list[tuple[int, Path, list[str]]] = []
    for base, folders, names in os.walk(root):
        depth = len(Path(base).relative_to(root).parts)
        walked.append((depth, Path(base), sorted(name for name in names if name[0] != ".")))
        kept = sorted(name for name in folders if name[0] != "." and name not in _NO_FOLDER)
        folders[:] = kept if depth < DEPTH else []
    files: dict[str, Path] = {}
    folders_of_pictures: dict[str, Path] = {}
    for _, folder, names in sorted(walked, key=lambda found: found[0]):
        files = {name: folder / name for name in names} | files
        if folder.name in _PICTURES and any(name.lower().endswith(".jpg") for name in names):
            folders_of_pictures.setdefault(folder.name, folder)
    return files, folders_of_pictures
