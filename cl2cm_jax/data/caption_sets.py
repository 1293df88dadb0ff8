"""What a data set declares before it is built; see CONTRIBUTING.md for a set of your own."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cl2cm_jax.data.captions import Caption, CaptionTable
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.errors import UserError


@dataclass(frozen=True)
class CaptionSet:
    """A data set: what it is made of, and how its caption table is read when it is built.

    Attributes:
      name: of the folder of its builds: letters, digits and underscores.
      read: (folder, mapper) -> the table. Relative paths of pictures are in `pictures`, else in `folder`, where it may
        write them; `mapper` runs checks on all workers of the build.
      inputs: fingerprint of the inputs: another one is another build. "" if they never change.
      pictures: the folder that the pictures or shards are in and their paths relative to; "": that of the built set.
      description, homepage, license: of the set, kept with it.
      on_error: "stop" at problems or "skip" what has one, each with a report beside the set; "": it has no problems.
      frames: limit of frames of a clip; 1: no clips.
      feature_shape: () -> (frames or None, d) of a set of precomputed features; None: of pictures.
      feature: (split, image) -> (frames, d) float32.
      origin: of its captions, for errors, such as "config.data.captions='captions.csv'".
      draws_splits: whether its captions may name no split.
    """

    name: str
    read: Callable[[Path, Mapper], CaptionTable]
    inputs: str = ""
    pictures: str = ""
    description: str | None = ""
    homepage: str = ""
    license: str = ""
    on_error: Literal["stop", "skip", ""] = ""
    frames: int = 1
    feature_shape: Callable[[], tuple[int | None, int]] | None = None
    feature: Callable[[str, str], np.ndarray] | None = None
    origin: str = ""
    draws_splits: bool = False


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """All files in a folder and in those below it, links followed, in a fixed order; hidden ones are left out."""
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(base)
        folders[:] = () if place in seen else sorted(folders)  # a link may lead back up
        yield from (os.path.join(base, name) for name in sorted(names) if name[0] != "." and place not in seen)
        seen.add(place)


def fingerprint(files: Iterable[str], settings: Sequence[str] = ()) -> str:
    """A short name that changes when a file's name, size or modification time does, or a setting."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        try:
            state = os.stat(file)
            found = f"{state.st_size}, {state.st_mtime_ns}"
        except OSError:
            found = "missing"
        digest.update(f"{os.path.abspath(file)}\0{found}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def check_languages(rows: Iterable[Caption], split: str, languages: Sequence[str]) -> None:
    """Refuses a split without a requested language; without the source, an evaluation split is evaluated without it.

    Raises:
      UserError: names the language and those that are there.
    """
    there = sorted({row.language for row in rows})
    source, *_ = languages
    for language in languages:
        if language in there:
            continue
        if language == source and split != "train":
            logging.warning("the %s split has no caption in %r, which is not evaluated on it", split, language)
        else:
            field = "evaluation.query='fused'" if "2" in language else "data"
            raise UserError(
                f"config.{field}: the {split} split has no caption in {language!r}; it has {', '.join(there)}",
                id="missing-language",
            )
