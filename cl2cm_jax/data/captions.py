"""The caption table: what readers and data sets yield, and what checks, splits, storage and features work on.

Pictures that are stored under several names count once, and none may be in two splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import is_translation

SPLITS = ("train", "validation", "test")
ORIGINS = ("human", "machine", "human_noised")
HEADLINE = "headline"  # the group of the images that count; other groups are evaluated separately
_VALIDATION_SHARE = _TEST_SHARE = 0.1
_SHOWN = 3  # pairs of names in the summary of equal pictures


class ShardOffset(NamedTuple):
    """Where a picture is stored in a tar shard."""

    shard: str
    offset: int
    size: int


class Caption(NamedTuple):
    """A row of the table: one caption of one image or clip. The other columns are the same in all rows of an image."""

    image: str  # id, often the path within the picture folder
    language: str  # such as "en"
    caption: str
    split: str = ""  # one of SPLITS, "" if there is no such column
    origin: str = "human"  # one of ORIGINS
    concept: str = ""  # images of one concept belong to one split; "": each image is its own concept
    group: str = HEADLINE  # such as "flags"
    picture: str | ShardOffset = ""  # path of a file or of a folder of frames; "" if the image has features
    line: int = 0  # of the caption file, counted from 1; 0 if it comes from elsewhere
    sha256: str = ""  # of the files of the picture, hexadecimal, end to end; "" if they were not read yet


@dataclass(frozen=True)
class CaptionTable:
    """Captions in the order of their images, and the problems of those that were left out."""

    rows: list[Caption]
    problems: list[Problem] = field(default_factory=list)

    @property
    def serious(self) -> list[Problem]:
        """The problems that are more than notes."""
        return [problem for problem in self.problems if not problem.is_note]


def by_image(rows: Iterable[Caption]) -> dict[str, list[Caption]]:
    """The rows of each image, images in the order of their first row."""
    images: dict[str, list[Caption]] = {}
    for row in rows:
        images.setdefault(row.image, []).append(row)
    return images


def by_split(rows: Iterable[Caption]) -> dict[str, dict[str, list[Caption]]]:
    """The rows of each split by image; without a split column, 80 / 10 / 10 of the images, at least one.

    Images are drawn in the order of a hash of their ids, so the split depends on nothing else.

    Raises:
      UserError: a row has another split, or none where others have one.
    """
    rows = list(rows)
    if any(row.split for row in rows):
        splits: dict[str, dict[str, list[Caption]]] = {split: {} for split in SPLITS}
        for row in rows:
            if row.split not in splits:
                raise UserError(f"image {row.image!r} has split={row.split!r}; use one of {', '.join(SPLITS)}")
            splits[row.split].setdefault(row.image, []).append(row)
        return splits
    images = sorted(by_image(rows).items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    validation = max(1, round(_VALIDATION_SHARE * len(images)))
    test = max(1, round(_TEST_SHARE * len(images)))
    return {
        "train": dict(images[validation + test :]),
        "validation": dict(images[:validation]),
        "test": dict(images[validation : validation + test]),
    }


def merge_equal(table: CaptionTable, contents: Mapping[str, str], *, file: str) -> CaptionTable:
    """The table with one image for all names of a picture, the first one, with the captions of all of them.

    A test picture that was trained on makes the results too good, so names in different splits are a problem.

    Args:
      table: captions of images that can be used.
      contents: a hash of the pixels of each image.
      file: that names the images, for the problems; of samples it is their shard.
    """
    first_of: dict[str, str] = {}  # the first name of each content
    kept: dict[str, list[Caption]] = {}
    problems, pairs, resaved = list(table.problems), list[tuple[str, str]](), 0
    for image, rows in by_image(table.rows).items():
        first = first_of.setdefault(contents[image], image)
        if first == image:
            kept[image] = rows
            continue
        own, split = kept[first], rows[0].split
        is_resaved = rows[0].sha256 != own[0].sha256
        if split == own[0].split:
            kept[first] = _all_captions(own, rows)
            pairs.append((image, first))
            resaved += is_resaved
            reason = f"{image!r} is the same picture as {first!r} and counts as one with it"
        else:
            reason = f"{image!r} in {split!r} is the same picture as {first!r} in {own[0].split!r}; keep one of them"
        reason += " (the files differ, the pixels do not)" if is_resaved else ""
        problems.append(_problem_of(rows[0], file, reason, is_note=split == own[0].split))
    if pairs:
        problems.append(Problem(file, None, "image", _second_names(pairs, resaved), is_note=True, is_logged=True))
    return CaptionTable([row for rows in kept.values() for row in rows], problems)


def _problem_of(row: Caption, file: str, reason: str, *, is_note: bool) -> Problem:
    if isinstance(row.picture, ShardOffset):
        return Problem(row.picture.shard, None, row.image, reason, is_note=is_note)
    return Problem(file, row.line, "image", reason, is_note=is_note)


def _all_captions(own: Sequence[Caption], further: Sequence[Caption]) -> list[Caption]:
    """The captions of both, equal ones once; with translated queries all of them, since these are paired by place."""
    moved = [row._replace(image=own[0].image, picture=own[0].picture, sha256=own[0].sha256) for row in further]
    if any(is_translation(row.language) for row in (*own, *moved)):
        return [*own, *moved]
    known = {(row.language, row.caption, row.origin) for row in own}
    return [*own, *(row for row in moved if (row.language, row.caption, row.origin) not in known)]


def _second_names(pairs: Sequence[tuple[str, str]], resaved: int) -> str:
    listed = [f"{image!r} = {first!r}" for image, first in pairs[:_SHOWN]] + ["..."] * (len(pairs) > _SHOWN)
    names = "1 picture has a second name" if len(pairs) == 1 else f"{len(pairs):,} pictures have a second name"
    names += f" ({', '.join(listed)})" + f", {resaved:,} of them in other files with the same pixels" * bool(resaved)
    return f"{names}; the same picture counts once, with the captions of all its names"
