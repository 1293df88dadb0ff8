"""What a `captions` set can be made of: the images that can be used, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import Any, NamedTuple

from cl2cm_jax.data.readers.caption_file import CaptionFile, Row
from cl2cm_jax.data.readers.feature_file import FeatureFile
from cl2cm_jax.data.readers.picture_checks import Mapper, bad_features, bad_pictures
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.shards import Place, Sample, read_shard
from cl2cm_jax.data.records import Caption


class Entry(NamedTuple):
    """An image that can be used."""

    image: str
    split: str  # "" where none is named
    captions: tuple[Caption, ...]
    place: Place | None = None  # of an image in a shard


class Found(NamedTuple):
    """The images of a set by their ids, and the problems of the others."""

    entries: dict[str, Entry]
    problems: list[Problem]


def from_folder(captions: CaptionFile, file: str, images: str, *, frames: int, mapper: Mapper) -> Found:
    """The pictures or clips of a folder that the captions name.

    Args:
      captions: what the caption file holds.
      file: its path.
      images: the folder.
      frames: most frames of a clip; 1 is pictures.
      mapper: where the pictures are decoded to check them.
    """
    by_image = _by_image(captions.rows)
    return _without(by_image, bad_pictures(by_image, captions=file, images=images, frames=frames, mapper=mapper))


def from_features(captions: CaptionFile, file: str, features: FeatureFile, *, ids: str, path: str) -> Found:
    """The features that the captions of `file` name; `ids` and `path` are the files of the features."""
    by_image = _by_image(captions.rows)
    return _without(by_image, bad_features(by_image, features, captions=file, feature_ids=ids, path=path))


def from_shards(
    captions: CaptionFile, file: str, shards: Sequence[str], *, source: str, frames: int, mapper: Mapper
) -> Found:
    """The samples of shards, with their own captions and those that a caption file gives to their keys.

    Args:
      captions: what the caption file holds, nothing if there is none.
      file: its path, "" if there is none.
      shards: paths of the tars.
      source: language of captions that do not name theirs.
      frames: most frames of a clip; 1 is pictures.
      mapper: where the shards are read to check them.
    """
    found = mapper(partial(_shard_as_json, source=source, frames=frames), shards)
    samples, known, problems = _merged(found)
    by_image = _by_image(captions.rows)
    for key, rows in by_image.items():
        if key not in known:
            reason = f"{key!r} is the key of no sample in config.data.shards; remove its rows"
            problems.append(Problem(file, rows[0].line, "image", reason))
    entries = {}
    for sample in samples:
        entry, problem = _entry(sample, by_image.get(sample.key, []), file)
        if problem:
            problems.append(problem)
        if entry:
            entries[sample.key] = entry
    if any(entry.split for entry in entries.values()):
        for entry in [entry for entry in entries.values() if not entry.split]:
            del entries[entry.image]
            problems.append(_problem(entry, "has no split, where other samples have one; name it in its .json"))
    return Found(entries, problems)


def _shard_as_json(path: str, *, source: str, frames: int) -> list[Any]:
    """A shard so that a pipeline can pass it on: samples, keys of those left out, problems."""
    shard = read_shard(path, source=source, frames=frames)
    samples = [[s.key, s.place, s.split, [astuple(row) for row in s.rows]] for s in shard.samples]
    return [samples, shard.left_out, [astuple(problem) for problem in shard.problems]]


def _merged(found: Iterable[Sequence[Any]]) -> tuple[list[Sample], set[str], list[Problem]]:
    """The samples of all shards, the keys of these and of those left out, and problems; one is a key in two shards."""
    samples: dict[str, Sample] = {}
    left_out: set[str] = set()
    problems: list[Problem] = []
    for good, bad, reasons in found:
        problems += [Problem(*reason) for reason in reasons]
        left_out.update(bad)
        for key, place, split, rows in good:
            sample = Sample(key, Place(*place), split, tuple(Row(*row) for row in rows))
            first = samples.setdefault(key, sample)
            if first is not sample:
                reason = f"is also the key of a sample in {first.place.shard}, which is kept; rename one"
                problems.append(Problem(sample.place.shard, None, key, reason))
    return list(samples.values()), left_out | samples.keys(), problems


def _entry(sample: Sample, rows: Sequence[Row], file: str) -> tuple[Entry | None, Problem | None]:
    """A sample with its own captions and the rows of a caption file; or why it cannot be used."""
    further = next((row.split for row in rows if row.split), "")
    if sample.split and further and sample.split != further:
        reason = f"is {further!r} but the sample {sample.key!r} itself says {sample.split!r}; keep one"
        return None, Problem(file, rows[0].line, "split", reason)
    captions = [Caption(row.language, row.caption, row.origin) for row in sample.rows]
    own = {(row.language, row.caption) for row in sample.rows}
    captions += [
        Caption(row.language, row.caption, row.origin) for row in rows if (row.language, row.caption) not in own
    ]
    entry = Entry(sample.key, sample.split or further, tuple(captions), sample.place)
    if captions:
        return entry, None
    if file:
        return None, replace(_problem(entry, "has no caption and is not used"), is_note=True)
    return None, _problem(entry, "has no caption; give it a .txt, or remove the sample")


def _problem(entry: Entry, reason: str) -> Problem:
    assert entry.place is not None
    return Problem(entry.place.shard, None, entry.image, reason)


def _by_image(rows: Iterable[Row]) -> dict[str, list[Row]]:
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    return by_image


def _without(by_image: dict[str, list[Row]], problems: Sequence[tuple[str, Problem]]) -> Found:
    left_out = {image for image, problem in problems if not problem.is_note}
    entries = {
        image: Entry(image, rows[0].split, tuple(Caption(row.language, row.caption, row.origin) for row in rows))
        for image, rows in by_image.items()
        if image not in left_out
    }
    return Found(entries, [problem for _, problem in problems])
