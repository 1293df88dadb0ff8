"""The `captions` set: a user's own pictures or clips, or features of them, and a caption file.

The image id is the picture's path within the images folder (paths that lead out of it are refused), or the id of its
features; a clip is an animated file or a folder of frames. Without a split column the images are ordered by a hash of
their ids and cut 80 / 10 / 10, so that the split depends on nothing else. All problems are listed in a report; the
build then stops, or leaves them out if told to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds

from cl2cm_jax.data import builders
from cl2cm_jax.data.caption_file import Row, read_caption_file
from cl2cm_jax.data.clips import decode_clip, frame_files, taken_files
from cl2cm_jax.data.feature_file import FeatureFile, read_feature_file
from cl2cm_jax.data.images import SUFFIXES, ImageError, decode
from cl2cm_jax.data.problems import Problem, settle
from cl2cm_jax.data.records import Caption, Record
from cl2cm_jax.errors import UserError

GROUP = "headline"
_VALIDATION_SHARE = _TEST_SHARE = 0.1


@dataclass(eq=False)
class CaptionsConfig(tfds.core.BuilderConfig):
    """What a `captions` set is made of. Its name is a fingerprint of the inputs: when they change, it is built anew."""

    captions: str = ""
    images: str = ""
    features: str = ""
    feature_ids: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    frames: int = 1


def captions_builder(
    *,
    data_dir: str | os.PathLike[str],
    captions: str,
    images: str = "",
    features: str = "",
    feature_ids: str = "",
    on_error: Literal["stop", "skip"] = "stop",
    frames: int = 1,
) -> Captions:
    """The builder of a user's set; `builders.prepare` builds it.

    Args:
      data_dir: where built sets lie.
      captions: CSV, TSV or JSONL file, see `cl2cm_jax.data.caption_file`.
      images: folder of the pictures; or else
      features: .npy of (n, d) or (n, frames, d) floats, and
      feature_ids: text file with the image id of each of its rows, one a line.
      on_error: "stop" at problems, or "skip" the rows and images that have one.
      frames: most frames of a clip; 1 is pictures, of animated ones the first frame.

    Raises:
      UserError: an input is not named or not there, or the caption file as a whole cannot be read.
    """
    if bool(images) == bool(features):
        raise UserError(
            f"config.data.images={images!r} and config.data.features={features!r}: name one of the two, "
            "a folder of pictures or a .npy file of features"
        )
    if features and not feature_ids:
        raise UserError("config.data.feature_ids='' must name the file with the image id of each feature row")
    if images and not Path(images).is_dir():
        raise UserError(f"config.data.images={images!r} is not a folder; name the folder with the pictures")
    inputs = {"captions": captions, "features": features, "feature_ids": feature_ids}
    for field, path in inputs.items():
        if path and not Path(path).is_file():
            raise UserError(f"config.data.{field}={path!r} is not a file; check the path")
    if on_error not in ("stop", "skip"):
        raise UserError(f"config.data.on_error={on_error!r} is not known; use 'stop' or 'skip'")
    files = [path for path in inputs.values() if path]
    if images:
        rows = read_caption_file(captions, image_is_path=True).rows
        for path in (os.path.join(images, image) for image in sorted({row.image for row in rows})):
            files += [path, *_frames_below(path)] if frames > 1 else [path]
    settings = (os.path.abspath(images) if images else "", on_error, *([str(frames)] if frames > 1 else []))
    config = CaptionsConfig(
        name=builders.fingerprint(files, settings=settings),
        description="A user's own pictures and captions.",
        captions=captions,
        images=images,
        features=features,
        feature_ids=feature_ids,
        on_error=on_error,
        frames=frames,
    )
    with builders.without_commentary():
        return Captions(data_dir=data_dir, config=config)


class Captions(tfds.core.GeneratorBasedBuilder):
    """A user's own set; made by `captions_builder`."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def report_path(self) -> Path:
        """The list of all problems and notes of the last build, beside the built set."""
        return Path(self._data_dir_root, self.name, f"{self._config.name}.report.tsv")

    @property
    def _config(self) -> CaptionsConfig:
        assert isinstance(self.builder_config, CaptionsConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config
        shape = read_feature_file(config.features, config.feature_ids).shape if config.features else None
        return self.dataset_info_from_configs(
            description=__doc__,
            features=builders.features(shape, has_frames=config.frames > 1),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        config = self._config
        caption_file = read_caption_file(config.captions, image_is_path=not config.features)
        by_image: dict[str, list[Row]] = {}
        for row in caption_file.rows:
            by_image.setdefault(row.image, []).append(row)
        features = read_feature_file(config.features, config.feature_ids) if config.features else None
        found = _missing_features(config, by_image, features) if features else _bad_images(config, by_image)
        problems = [*caption_file.problems, *found]
        settle(self.report_path, problems, on_error=config.on_error)
        left_out = {problem.image for problem in found if not problem.is_note}
        good = {image: rows for image, rows in by_image.items() if image not in left_out}
        splits = _split(good)
        for split, images in splits.items():
            if not images:
                raise UserError(f"{config.captions}: split {split!r} has no image among {len(good)}; {_remedy(good)}")
        return {
            split: self._generate_examples({image: good[image] for image in images}, features)
            for split, images in splits.items()
        }

    def _generate_examples(
        self, images: Mapping[str, Sequence[Row]], features: FeatureFile | None
    ) -> Iterator[tuple[int, Any]]:
        for key, (image, rows) in enumerate(images.items()):
            path = "" if features else os.path.abspath(os.path.join(self._config.images, image))
            files = [] if features else [file.read_bytes() for file in taken_files(path, most=self._config.frames)]
            is_folder = len(files) > 0 and os.path.isdir(path)
            record = Record(
                image=files[0] if files and not is_folder else None,
                feature=features.row(image) if features else None,
                image_id=image,
                group=GROUP,
                concept=image,
                path=path,
                captions=tuple(Caption(row.language, row.caption, row.origin) for row in rows),
                frames=tuple(files) if is_folder else (),
            )
            yield key, builders.example(record, has_frames=self._config.frames > 1)


@dataclass(frozen=True)
class _ImageProblem(Problem):
    image: str = ""


def _bad_images(config: CaptionsConfig, by_image: Mapping[str, Sequence[Row]]) -> list[_ImageProblem]:
    """Problems of the pictures that the captions name, and a note for each picture that no caption names."""

    def check(item: tuple[str, Sequence[Row]]) -> _ImageProblem | None:
        image, rows = item
        if os.path.isabs(image) or image == ".." or image.startswith("../"):
            reason, is_note = f"is {image!r}, which is outside config.data.images; copy the picture into it", False
        else:
            reason, is_note = _reason_against(os.path.join(config.images, image), config.frames)
        place = (config.captions, rows[0].line, "image")
        return _ImageProblem(*place, reason, is_note=is_note, image=image) if reason else None

    with ThreadPoolExecutor() as pool:
        problems = [problem for problem in pool.map(check, by_image.items()) if problem]
    notes = [
        _ImageProblem(config.images, None, "image", f"{image!r} has no caption and is not used", is_note=True)
        for image in _pictures_below(config.images)
        if image not in by_image and not (config.frames > 1 and os.path.dirname(image) in by_image)
    ]
    return problems + notes


def _reason_against(path: str, frames: int) -> tuple[str, bool]:
    """Why a picture or clip cannot be used, or what to know about it (True); ("", False) if all is well."""
    if frames > 1:
        try:
            for _ in decode_clip(taken_files(path, most=frames), most=frames):
                pass
        except ImageError as serious:
            return str(serious), False
        return "", False
    if os.path.isdir(path):
        return f"{path} is a folder; set config.data.frames to 2 or more to read its pictures as a clip", False
    try:
        decode(path, on_animated="refuse")
    except ImageError:
        try:
            decode(path)
        except ImageError as serious:
            return str(serious), False
        return f"{path} is animated; its first frame is used", True
    return "", False


def _missing_features(
    config: CaptionsConfig, by_image: Mapping[str, Sequence[Row]], features: FeatureFile
) -> list[_ImageProblem]:
    problems = []
    for image, rows in by_image.items():
        place = (config.captions, rows[0].line, "image")
        if image not in features.row_of:
            reason = f"{image!r} is not in {config.feature_ids}; add it or remove its rows"
            problems.append(_ImageProblem(*place, reason, image=image))
        elif not np.isfinite(features.row(image)).all():
            reason = f"{image!r} has NaN or infinite values in {config.features}; compute them anew"
            problems.append(_ImageProblem(*place, reason, image=image))
    notes = [
        _ImageProblem(config.feature_ids, row + 1, "id", f"{image!r} has no caption and is not used", is_note=True)
        for image, row in features.row_of.items()
        if image not in by_image
    ]
    return problems + notes


def _split(by_image: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """The images of each split: as the file says, or 80 / 10 / 10 in the order of a hash, but at least one."""
    if any(rows[0].split for rows in by_image.values()):
        return {split: [i for i, rows in by_image.items() if rows[0].split == split] for split in builders.SPLITS}
    ordered = sorted(by_image, key=lambda image: hashlib.sha256(image.encode()).digest())
    validation = max(1, round(_VALIDATION_SHARE * len(ordered)))
    test = max(1, round(_TEST_SHARE * len(ordered)))
    return {
        "train": ordered[validation + test :],
        "validation": ordered[:validation],
        "test": ordered[validation : validation + test],
    }


def _remedy(by_image: Mapping[str, Sequence[Row]]) -> str:
    if any(row.split for rows in by_image.values() for row in rows):
        return "give each of train, validation and test at least one, or drop the column split to have them drawn"
    return "three are the least; add pictures"


def _pictures_below(folder: str) -> list[str]:
    """Paths within `folder` of all files with an ending of a picture."""
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(file.relative_to(folder).as_posix() for file in files if file.suffix.lower() in SUFFIXES)


def _frames_below(path: str) -> list[str]:
    """The frames of a clip that is a folder."""
    try:
        return [str(file) for file in frame_files(path)] if os.path.isdir(path) else []
    except ImageError:
        return []
