"""Pictures that are stored under several names: each counts once, and none may be in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cl2cm_jax.data.captions import Caption, CaptionTable, ShardOffset, by_image
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.text.languages import is_translation

_SHOWN = 3  # pairs of names in the summary


def merge_equal(table: CaptionTable, contents: Mapping[str, str], *, file: str) -> CaptionTable:
    """The table with one image for all names of a picture, the first one, with the captions of all of them.

    A test picture that was trained on makes the results too good, so names in different splits are a problem.

    Args:
      table: captions of images that can be used.
      contents: a hash of the content of each image.
      file: that names the images, for the problems; of samples it is their shard.
    """
    first_of: dict[str, str] = {}  # the first name of each content
    kept: dict[str, list[Caption]] = {}
    problems, pairs = list(table.problems), list[tuple[str, str]]()
    for image, rows in by_image(table.rows).items():
        first = first_of.setdefault(contents[image], image)
        if first == image:
            kept[image] = rows
            continue
        own, split = kept[first], rows[0].split
        if split == own[0].split:
            kept[first] = _joined(own, rows)
            pairs.append((image, first))
            reason = f"{image!r} is the same picture as {first!r} and counts as one with it"
        else:
            reason = f"{image!r} in {split!r} is the same picture as {first!r} in {own[0].split!r}; keep one of them"
        problems.append(_problem(rows[0], file, reason, is_note=split == own[0].split))
    if pairs:
        problems.append(Problem(file, None, "image", _summary(pairs), is_note=True, is_logged=True))
    return CaptionTable([row for rows in kept.values() for row in rows], problems)


def _problem(row: Caption, file: str, reason: str, *, is_note: bool) -> Problem:
    if isinstance(row.picture, ShardOffset):
        return Problem(row.picture.shard, None, row.image, reason, is_note=is_note)
    return Problem(file, row.line, "image", reason, is_note=is_note)


def _joined(own: Sequence[Caption], further: Sequence[Caption]) -> list[Caption]:
    """The captions of both, equal ones once; with translated queries all of them, since these are paired by place."""
    moved = [row._replace(image=own[0].image, picture=own[0].picture) for row in further]
    if any(is_translation(row.language) for row in (*own, *moved)):
        return [*own, *moved]
    known = {(row.language, row.caption, row.origin) for row in own}
    return [*own, *(row for row in moved if (row.language, row.caption, row.origin) not in known)]


def _summary(pairs: Sequence[tuple[str, str]]) -> str:
    listed = [f"{image!r} = {first!r}" for image, first in pairs[:_SHOWN]] + ["..."] * (len(pairs) > _SHOWN)
    names = "1 picture has a second name" if len(pairs) == 1 else f"{len(pairs):,} pictures have a second name"
    return f"{names} ({', '.join(listed)}); each picture counts once, with the captions of all its names"
