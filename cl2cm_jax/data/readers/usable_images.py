"""Which images of a caption table can be used: in a folder of pictures, in a feature file or in shards.

A clip has at most `frames` frames; 1 is a picture. `mapper` decodes the pictures, perhaps on other machines.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from cl2cm_jax.data.captions import Caption, CaptionTable, ShardOffset, by_image, merge_equal
from cl2cm_jax.data.media.images import SUFFIXES
from cl2cm_jax.data.media.looks import Look, maybe_equal
from cl2cm_jax.data.media.unread import is_ignored, is_unread, unread_kind
from cl2cm_jax.data.readers.feature_file import FeatureFile
from cl2cm_jax.data.readers.odd_captions import OddCaptions
from cl2cm_jax.data.readers.picture_checks import Checked, Earlier, Mapper, check, state_of, whole_pixels
from cl2cm_jax.data.readers.picture_names import similar, similar_files
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.shards import read_picture, read_shard
from cl2cm_jax.text.languages import counted, is_translation

_ENDINGS = 100  # of a shard, that are counted
_KINDS = 8  # of files that are not read, that are named


def from_folder(captions: CaptionTable, file: str, images: str, *, frames: int, mapper: Mapper) -> CaptionTable:
    """The captions whose picture or clip is in a folder and can be decoded, with its path inside the folder."""
    known = by_image(captions.rows)
    paths = [os.path.join(images, image) for image in known]
    names = [f"look of {frames} frames of {path} in {os.path.abspath(images)}" for path in paths]
    earlier = Earlier(names, [state_of(path, frames) for path in paths], lambda result: not result[0] or result[1])
    found = mapper(partial(_checked_file, images=images, frames=frames), list(known), earlier)
    checked = dict(zip(known, (Checked(*result) for result in found), strict=True))
    table = CaptionTable([], list(captions.problems))
    near = similar_files([image for image in known if not os.path.exists(os.path.join(images, image))], images)
    for image, rows in known.items():
        reason, is_note, sha256, _ = checked[image]
        if reason:
            reason += _meant(near, image)
            table.problems.append(Problem(file, rows[0].line, "image", reason, is_note=is_note))
        if not reason or is_note:
            table.rows.extend(row._replace(picture=image, sha256=sha256) for row in rows)
    files = list(_files(images))
    for image in sorted(name.as_posix() for name in files if name.suffix.lower() in SUFFIXES):
        if image not in known and not (frames > 1 and os.path.dirname(image) in known):
            table.problems.append(_unused(images, None, "image", image))
    if unread := [path for path in files if is_unread(path.suffix.lower()) and path.as_posix() not in known]:
        table.problems.append(_unread(images, unread))
    looks = {image: Look(*found.look) for image, found in checked.items()}
    return merge_equal(table, _contents(table.rows, looks, images, frames=frames, mapper=mapper), file=file)


def _files(folder: str) -> Iterator[Path]:
    """The files of a folder, as paths inside it, without those that are hidden or in folders that are left out."""
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_ignored(name)]
        yield from (Path(base, name).relative_to(folder) for name in names if not is_ignored(name))


def from_features(captions: CaptionTable, file: str, features: FeatureFile, *, ids: str, path: str) -> CaptionTable:
    """The captions of `file` that have finite features; `ids` and `path` are the files of the features."""
    known = by_image(captions.rows)
    table = CaptionTable([], list(captions.problems))
    near = similar([image for image in known if image not in features.row_of], list(features.row_of))
    for image, rows in known.items():
        if image not in features.row_of:
            reason = f"{image!r} is not in {ids}; add it or remove its rows{_meant(near, image)}"
        elif not np.isfinite(features.row(image)).all():
            reason = f"{image!r} has NaN or infinite values in {path} (as float32); compute them anew"
        else:
            table.rows.extend(rows)
            continue
        table.problems.append(Problem(file, rows[0].line, "image", reason))
    unused = [(image, row) for image, row in features.row_of.items() if image not in known]
    table.problems.extend(_unused(ids, row + 1, "id", image) for image, row in unused)
    return table


def _meant(near: Mapping[str, str], image: str) -> str:
    return f"; did you mean {near[image]!r}?" if image in near else ""


def from_shards(
    captions: CaptionTable, file: str, shards: Sequence[str], *, source: str, frames: int, mapper: Mapper
) -> CaptionTable:
    """The captions of the samples of shards, and those that a caption file has for their keys."""
    names = [f"looks of {frames} frames, captions in {source}, of {path} in {os.getcwd()}" for path in shards]
    earlier = Earlier(names, [state_of(path, frames) for path in shards], _has_only_notes)
    found = list(mapper(partial(_shard_as_json, source=source, frames=frames), shards, earlier))
    samples, left_out, problems = _merged(found)
    odd = OddCaptions()
    for caption in (row.caption for rows in samples.values() for row in rows if row.caption):
        odd.see(0, caption)
    problems = [*captions.problems, *problems, *odd.notes(shards[0])]
    further = by_image(captions.rows)
    strangers = [key for key in further if key not in samples and key not in left_out]
    near = similar(strangers, list(samples))
    for key in strangers:
        reason = f"{key!r} is the key of no sample in config.data.shards; remove its rows{_meant(near, key)}"
        problems.append(Problem(file, further[key][0].line, "image", reason))
    images = []
    for key, rows in samples.items():
        joined = _joined(rows, further.get(key, []), file)
        if isinstance(joined, Problem):
            problems.append(joined)
        else:
            images.append(joined)
    if any(rows[0].split for rows in images):
        reason = "has no split, where other samples have one; name it in its .json"
        problems += [_of_sample(rows[0], reason) for rows in images if not rows[0].split]
        images = [rows for rows in images if rows[0].split]
    # of a key in two shards the first counts
    looks = {key: Look(*look) for *_, looks, _ in reversed(found) for key, look in looks.items()}
    if unread := sum((Counter(counts) for *_, counts in found), Counter[str]()):
        reason = f"files of samples that are not read, by ending: {counted(unread)}"
        problems.append(Problem(shards[0], None, "shard", reason, is_note=True, is_logged=True))
    table = CaptionTable([row for rows in images for row in rows], problems)
    contents = _contents(table.rows, looks, "", frames=frames, mapper=mapper)
    return merge_equal(table, contents, file=file or shards[0])


def row_from_json(cells: Sequence[Any]) -> Caption:
    """A row that a pipeline passed on as JSON."""
    row = Caption(*cells)
    return row if isinstance(row.picture, str) else row._replace(picture=ShardOffset(*row.picture))


def _checked_file(image: str, *, images: str, frames: int) -> Checked:
    if os.path.isabs(image) or image in (".", "..") or image.startswith("../"):
        return Checked(f"is {image!r}, which is not within config.data.images; copy the picture into it")
    return check(os.path.join(images, image), frames)


def _contents(
    rows: Iterable[Caption], looks: Mapping[str, Look], images: str, *, frames: int, mapper: Mapper
) -> dict[str, str]:
    """A hash of what each image shows, of the pixels as they were checked.

    Where these are equal and the files are not, or were decoded at different scales and look alike, the pictures are
    decoded whole if the check did not: it sees an eighth of a JPEG.
    """
    first = {row.image: row for row in rows}
    files: dict[str, set[str]] = {}
    for image, row in first.items():
        files.setdefault(looks[image].pixels, set()).add(row.sha256)
    alike = maybe_equal({image: looks[image] for image in first})
    unsure = [image for image in first if looks[image].scale > 1]
    unsure = [image for image in unsure if image in alike or len(files[looks[image].pixels]) > 1]
    names = [f"whole, {frames} frames of {first[image].sha256}" for image in unsure]
    earlier = Earlier(names, [PIL.__version__] * len(unsure), bool)
    places = [first[image].picture for image in unsure]
    whole = mapper(partial(_whole_picture, images=images, frames=frames), places, earlier)
    equal = {image: found or first[image].sha256 for image, found in zip(unsure, whole, strict=True)}
    return {image: looks[image].pixels for image in first} | equal


def _whole_picture(place: str | Sequence[Any], *, images: str, frames: int) -> str:
    source = os.path.join(images, place) if isinstance(place, str) else read_picture(ShardOffset(*place))
    return whole_pixels(source, frames)


def _unread(folder: str, files: Sequence[Path]) -> Problem:
    found = Counter(path.suffix.lower() for path in files)
    counts = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    kinds = ", ".join(f"{unread_kind(suffix)} {count:,}" for suffix, count in counts[:_KINDS])
    kinds += f" and {len(counts) - _KINDS:,} more kinds" if len(counts) > _KINDS else ""
    reason = f"files of formats that are not read: {kinds}, such as {min(files).as_posix()!r}; convert them"
    return Problem(folder, None, "image", reason, is_note=True, is_logged=True)


def _unused(file: str, line: int | None, field: str, image: str) -> Problem:
    return Problem(file, line, field, f"{image!r} has no caption and is not used", is_note=True)


def _shard_as_json(path: str, *, source: str, frames: int) -> list[Any]:
    """A shard as JSON, which a pipeline can pass on: the fields of `Shard`, problems as lists."""
    shard = read_shard(path, source=source, frames=frames)
    problems = [astuple(problem) for problem in shard.problems]
    return [shard.samples, shard.left_out, problems, shard.looks, dict(shard.unread.most_common(_ENDINGS))]


def _has_only_notes(shard: Sequence[Any]) -> bool:
    return all(Problem(*problem).is_note for problem in shard[2])


def _merged(shards: Iterable[Sequence[Any]]) -> tuple[dict[str, list[Caption]], set[str], list[Problem]]:
    """The samples of all shards by key, keys of those left out, and problems; a key in two shards is one."""
    samples: dict[str, list[Caption]] = {}
    left_out: set[str] = set()
    problems: list[Problem] = []
    for good, bad, reasons, *_ in shards:
        problems += [Problem(*reason) for reason in reasons]
        left_out.update(bad)
        for rows in ([row_from_json(cells) for cells in sample] for sample in good):
            first = samples.setdefault(rows[0].image, rows)
            if first is not rows:
                reason = f"is also the key of a sample in {_shard(first[0])}, which is kept; rename one"
                problems.append(Problem(_shard(rows[0]), None, rows[0].image, reason))
    return samples, left_out, problems


def _joined(sample: Sequence[Caption], further: Sequence[Caption], file: str) -> list[Caption] | Problem:
    """The rows of a sample and those of a caption file that differ from them, or why the sample cannot be used.

    Two captions may have one translation ("de2en"), and each needs its own row.
    """
    first = sample[0]
    split = next((row.split for row in further if row.split), "")
    if first.split and split and first.split != split:
        reason = f"is {split!r} but the sample {first.image!r} itself has {first.split!r}; keep one"
        return Problem(file, further[0].line, "split", reason)
    own = {(row.language, row.caption) for row in sample}
    rows = [row for row in sample if row.caption]
    rows += [row for row in further if is_translation(row.language) or (row.language, row.caption) not in own]
    if rows:
        return [row._replace(split=first.split or split, picture=first.picture, sha256=first.sha256) for row in rows]
    if file:
        return replace(_of_sample(first, "has no caption and is not used"), is_note=True)
    return _of_sample(first, "has no caption; give it a .txt, or remove the sample")


def _of_sample(row: Caption, reason: str) -> Problem:
    return Problem(_shard(row), None, row.image, reason)


def _shard(row: Caption) -> str:
    assert isinstance(row.picture, ShardOffset)
    return row.picture.shard
