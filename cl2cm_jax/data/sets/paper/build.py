"""Builds the sets of the paper as their authors publish them: captions joined with pictures or features, and checked.

A number of images or captions other than the published one is a warning that names both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet, files_below, fingerprint
from cl2cm_jax.data.captions import Caption, CaptionTable, by_split
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.sets.paper.files import PaperSet, Search
from cl2cm_jax.data.sets.paper.text import TextFiles
from cl2cm_jax.data.sets.paper.vision import Vision, VisionFiles, find_vision

Splits = Mapping[str, Mapping[str, Sequence[Caption]]]  # captions by split and media id


class Text(Protocol):
    """The caption files of a set, found and not yet read."""

    @property
    def paths(self) -> list[Path]:
        """All files."""
        ...

    def read(self) -> CaptionTable:
        """The captions of all splits, and the problems of lines."""
        ...


def paper_set(
    paper: PaperSet, data: ConfigDict, *, raw: Callable[[Search, ConfigDict], Text | None] = lambda search, data: None
) -> CaptionSet:
    """A set of the paper in its published tree, or in the folder that trees of several sets are in.

    Args:
      paper: what is published of it.
      data: `config.data`; of mscoco one target language, since each has validation and test images of its own.
      raw: finds its text in another layout; None where the tree has not that layout.

    Raises:
      UserError: files are missing, which are listed.
    """
    targets = (*data.targets, *data.reported)
    search = Search(paper, data.root)
    text = raw(search, data) or TextFiles(search, targets=targets, task=data.task)
    vision = find_vision(search, target=targets[0], images=data.images, features=data.features)
    search.check()
    settings = [paper.name, *targets, str(data.task), data.images, data.features, data.on_error]
    return joined(paper, text, vision, targets=targets, settings=settings, origin=("root", data.root))


def joined(
    paper: PaperSet,
    text: Text,
    vision: VisionFiles,
    *,
    targets: Sequence[str],
    settings: Sequence[str],
    origin: tuple[str, str],
) -> CaptionSet:
    """The set of some caption files and vision files.

    Args:
      paper: what is published of it.
      text: its caption files.
      vision: its pictures or features.
      targets: target languages.
      settings: part of the fingerprint; the last one is `config.data.on_error`.
      origin: the field of `config.data` that names where they are, and its value.
    """
    files = [
        file for path in (*text.paths, *vision.paths) for file in (files_below(path) if path.is_dir() else [str(path)])
    ]
    field, root = origin
    visions = functools.cache(vision.read)

    def read(folder: Path, mapper: Mapper) -> CaptionTable:
        del folder, mapper
        return _checked(paper, text.read(), visions(), targets=targets, root=root)

    return CaptionSet(
        name=paper.name,
        read=read,
        inputs=fingerprint(files, settings),
        description=paper.description,
        on_error=settings[-1],  # type: ignore[arg-type]
        feature_shape=vision.shape,
        feature=vision.shape and (lambda split, media: visions()[split].row(media)),
        origin=f"config.data.{field}={root!r}",
    )


def _checked(
    paper: PaperSet, table: CaptionTable, vision: Mapping[str, Vision], *, targets: Sequence[str], root: str
) -> CaptionTable:
    """The captions of images that can be used, with the paths of their pictures."""
    splits = by_split(table.rows)
    problems = list(table.problems)
    for listed in vision.values():
        problems += _unused(listed, splits)
    rows: list[Caption] = []
    for split, images in splits.items():
        reasons = list(ahead(vision[split].reason_against, images))
        problems += [Problem(f"{root} ({split})", None, "id", reason) for reason in reasons if reason]
        for (media, own), reason in zip(images.items(), reasons, strict=True):
            if not reason:
                picture = vision[split].picture(media)
                rows += [row._replace(picture=picture) for row in own]
    usable = by_split(rows)
    for split in splits:
        problems += _shared(split, vision[split], usable)
    problems += _differences(paper, targets, usable)
    return CaptionTable(rows, list(dict.fromkeys(problems)))


def _unused(vision: Vision, splits: Splits) -> list[Problem]:
    """A note on listed images or videos that no split has captions of."""
    known = set().union(*splits.values())
    unused = [media for media in vision.ids() if media not in known]
    reason = f"{len(unused)} of {vision.where} have no caption and are not used"
    return [Problem(vision.where, None, "id", f"{reason}, first {unused[0]!r}", is_note=True)] if unused else []


def _shared(split: str, vision: Vision, splits: Splits) -> list[Problem]:
    """A note on images or videos of an evaluation split that are trained on."""
    twice = [media for media in splits[split] if split != "train" and media in splits["train"]]
    if not twice:
        return []
    reason = f"{len(twice)} of the {split} split are in the train split as well, first {twice[0]!r}"
    return [Problem(vision.where, None, "id", reason, is_note=True, is_logged=True)]


def _differences(paper: PaperSet, targets: Sequence[str], splits: Splits) -> list[Problem]:
    """A note for each split that is not as published: its number of images, or the captions of each."""
    reasons = []
    sizes = {**paper.sizes.get("", {}), **paper.sizes.get(targets[0], {})}
    for split, images in splits.items():
        if len(images) != sizes.get(split, len(images)):
            reasons.append(f"the {split} split has {len(images):,} images or videos, {sizes[split]:,} as published")
        if paper.captions_each:
            reasons += _uneven(split, images, paper.captions_each)
    return [Problem(paper.name, None, "split", reason, is_note=True, is_logged=True) for reason in reasons]


def _uneven(split: str, images: Mapping[str, Iterable[Caption]], each: int) -> list[str]:
    """One line for each language in which images have not exactly `each` captions."""
    found: dict[str, list[str]] = {}
    for media, rows in images.items():
        languages = [row.language for row in rows]
        for language in dict.fromkeys(languages):
            if languages.count(language) != each:
                found.setdefault(language, []).append(f"{media!r} has {languages.count(language)}")
    return [
        f"{len(medias):,} of {len(images):,} in the {split} split have not exactly {each} captions in {language!r} "
        f"as published, e.g. {medias[0]}"
        for language, medias in found.items()
    ]
