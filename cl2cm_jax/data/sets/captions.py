"""The `captions` set: a user's own pictures or clips, or features of them, or webdataset shards, and captions.

The image id is the picture's path within the images folder (paths that lead out of it are refused), the id of its
features, or the key of its sample; a clip is an animated file or a folder of frames. Where no split is given the images
are ordered by a hash of their ids and cut 80 / 10 / 10, so that the split depends on nothing else. All problems are
listed in a report; the build then stops, or leaves them out if told to. Beam builds the same set on many workers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tensorflow_datasets as tfds

from cl2cm_jax.data import beam, builders
from cl2cm_jax.data.media.clips import frame_files, taken_files
from cl2cm_jax.data.media.images import ImageError
from cl2cm_jax.data.readers.caption_file import CaptionFile, read_caption_file
from cl2cm_jax.data.readers.feature_file import FeatureFile, read_feature_file
from cl2cm_jax.data.readers.picture_checks import Mapper, in_threads
from cl2cm_jax.data.readers.problems import settle
from cl2cm_jax.data.readers.shards import Place, read_picture, shard_files
from cl2cm_jax.data.readers.usable_images import Entry, Found, from_features, from_folder, from_shards
from cl2cm_jax.data.records import HEADLINE, SPLITS, Caption, Record
from cl2cm_jax.errors import UserError

_VALIDATION_SHARE = _TEST_SHARE = 0.1
_PLANS = "plans"  # what Beam's workers are to do; within the unfinished set


@dataclass(eq=False)
class CaptionsConfig(tfds.core.BuilderConfig):
    """What a `captions` set is made of. Its name is a fingerprint of the inputs: when they change, it is built anew."""

    captions: str = ""
    images: str = ""
    features: str = ""
    feature_ids: str = ""
    shards: tuple[str, ...] = ()
    source: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    frames: int = 1


def captions_builder(
    *,
    data_dir: str | os.PathLike[str],
    captions: str = "",
    images: str = "",
    features: str = "",
    feature_ids: str = "",
    shards: str = "",
    source: str = "en",
    on_error: Literal["stop", "skip"] = "stop",
    frames: int = 1,
) -> Captions:
    """The builder of a user's set; `builders.prepare` builds it.

    Args:
      data_dir: where built sets lie.
      captions: CSV, TSV or JSONL file, see `cl2cm_jax.data.readers.caption_file`; with `shards` it may be "".
      images: folder of the pictures; or else
      features: .npy of (n, d) or (n, frames, d) floats, and
      feature_ids: text file with the image id of each of its rows, one a line; or else
      shards: webdataset shards, a folder or a pattern, see `cl2cm_jax.data.readers.shards`, and
      source: language of the captions that they do not name one for.
      on_error: "stop" at problems, or "skip" the rows and images that have one.
      frames: most frames of a clip; 1 is pictures, of animated ones the first frame.

    Raises:
      UserError: an input is not named or not there, or the caption file as a whole cannot be read.
    """
    if sum(map(bool, (images, features, shards))) != 1:
        raise UserError(
            f"config.data.images={images!r}, config.data.features={features!r} and config.data.shards={shards!r}: "
            "name one of them, a folder of pictures, a .npy file of features or webdataset shards"
        )
    if features and not feature_ids:
        raise UserError("config.data.feature_ids='' must name the file with the image id of each feature row")
    if images and not Path(images).is_dir():
        raise UserError(f"config.data.images={images!r} is not a folder; name the folder with the pictures")
    if not captions and not shards:
        raise UserError("config.data.captions='' must name a CSV, TSV or JSONL file")
    inputs = {"captions": captions, "features": features, "feature_ids": feature_ids}
    for field, path in inputs.items():
        if path and not Path(path).is_file():
            hint = "check the path" if not shards else "check the path, or name none (--config.data.captions=)"
            raise UserError(f"config.data.{field}={path!r} is not a file; {hint}")
    if on_error not in ("stop", "skip"):
        raise UserError(f"config.data.on_error={on_error!r} is not known; use 'stop' or 'skip'")
    tars = shard_files(shards) if shards else []
    files = [path for path in inputs.values() if path] + tars
    if images:
        files += _pictures(captions, images, frames)
    settings = [os.path.abspath(images) if images else "", on_error]
    settings += [str(frames)] if frames > 1 else []
    settings += [source] if shards else []
    config = CaptionsConfig(
        name=builders.fingerprint(files, settings=tuple(settings)),
        description="A user's own pictures and captions.",
        captions=captions,
        images=images,
        features=features,
        feature_ids=feature_ids,
        shards=tuple(tars),
        source=source,
        on_error=on_error,
        frames=frames,
    )
    with builders.without_commentary():
        return Captions(data_dir=data_dir, config=config)


class Captions(tfds.core.GeneratorBasedBuilder):
    """A user's own set; made by `captions_builder`."""

    VERSION = tfds.core.Version("1.0.0")

    _beam: beam.Beam | None = None

    @property
    def report_path(self) -> Path:
        """The list of all problems and notes of the last build, beside the built set."""
        return Path(self._data_dir_root, self.name, f"{self._config.name}.report.tsv")

    @property
    def _config(self) -> CaptionsConfig:
        assert isinstance(self.builder_config, CaptionsConfig)
        return self.builder_config

    def download_and_prepare(self, **options: Any) -> None:
        """As tfds'; a `beam_runner` in `download_config` checks and builds the set."""
        config = options.get("download_config")
        runner = config.beam_runner if config else None
        self._beam = beam.Beam(runner, config.beam_options) if config and runner else None
        super().download_and_prepare(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self._config
        shape = read_feature_file(config.features, config.feature_ids).shape if config.features else None
        return self.dataset_info_from_configs(
            description=__doc__,
            features=builders.features(shape, has_frames=config.frames > 1),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self._config
        captions = CaptionFile([], [])
        if config.captions:
            captions = read_caption_file(config.captions, image_is_path=bool(config.images))
        features = read_feature_file(config.features, config.feature_ids) if config.features else None
        found = self._found(captions, features)
        settle(self.report_path, [*captions.problems, *found.problems], on_error=config.on_error)
        splits = _split(found.entries)
        for split, entries in splits.items():
            if not entries:
                inputs = config.captions or f"the shards beside {config.shards[0]}"
                count = len(found.entries)
                raise UserError(f"{inputs}: split {split!r} has no image among {count}; {_remedy(found.entries)}")
        return {split: self._generate_examples(entries, split, features) for split, entries in splits.items()}

    def _found(self, captions: CaptionFile, features: FeatureFile | None) -> Found:
        """What can be used, and all that cannot."""
        config = self._config
        if features:
            return from_features(captions, config.captions, features, ids=config.feature_ids, path=config.features)
        mapper: Mapper = in_threads
        if self._beam:
            mapper = partial(beam.mapped, beam=self._beam, folder=Path(self.data_dir, _PLANS, "checks"))
        if config.shards:
            return from_shards(
                captions, config.captions, config.shards, source=config.source, frames=config.frames, mapper=mapper
            )
        return from_folder(captions, config.captions, config.images, frames=config.frames, mapper=mapper)

    def _generate_examples(self, entries: Sequence[Entry], split: str, features: FeatureFile | None) -> Any:
        """Pairs of key and example, or the Beam transform that yields them."""
        plan = ([key, *_to_json(entry)] for key, entry in enumerate(entries))
        example = partial(_keyed_example, images=self._config.images, frames=self._config.frames)
        if self._beam and not features:
            file = Path(self.data_dir, _PLANS, f"{split}.jsonl")
            return beam.examples(example, plan, beam=self._beam, file=file)
        return (example(item, features=features) for item in plan)

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        """Removes what the workers were told; called by tfds when Beam is through."""
        shutil.rmtree(Path(self.data_dir, _PLANS))


def _to_json(entry: Entry) -> list[Any]:
    return [entry.image, entry.place, [astuple(caption) for caption in entry.captions]]


def _keyed_example(
    item: Sequence[Any], *, images: str, frames: int, features: FeatureFile | None = None
) -> tuple[int, dict[str, Any]]:
    """What tfds writes of [key, image id, place in a shard or None, captions]."""
    key, image, place, captions = item
    path = "" if features or place else os.path.abspath(os.path.join(images, image))
    files = [read_picture(Place(*place))] if place else []
    if path:
        files = [file.read_bytes() for file in taken_files(path, most=frames)]
    is_folder = path != "" and os.path.isdir(path)
    record = Record(
        image=files[0] if files and not is_folder else None,
        feature=features.row(image) if features else None,
        image_id=image,
        group=HEADLINE,
        concept=image,
        path=path,
        captions=tuple(Caption(*caption) for caption in captions),
        frames=tuple(files) if is_folder else (),
    )
    return key, builders.example(record, has_frames=frames > 1)


def _split(entries: Mapping[str, Entry]) -> dict[str, list[Entry]]:
    """The images of each split: as they say, or 80 / 10 / 10 in the order of a hash, but at least one."""
    if any(entry.split for entry in entries.values()):
        return {split: [e for e in entries.values() if e.split == split] for split in SPLITS}
    order = sorted(entries, key=lambda image: hashlib.sha256(image.encode()).digest())
    ordered = [entries[image] for image in order]
    validation = max(1, round(_VALIDATION_SHARE * len(ordered)))
    test = max(1, round(_TEST_SHARE * len(ordered)))
    return {
        "train": ordered[validation + test :],
        "validation": ordered[:validation],
        "test": ordered[validation : validation + test],
    }


def _remedy(entries: Mapping[str, Entry]) -> str:
    if any(entry.split for entry in entries.values()):
        return "give each of train, validation and test at least one, or name no split at all to have them drawn"
    return "three are the least; add pictures"


def _pictures(captions: str, images: str, frames: int) -> Iterator[str]:
    """Paths of the files and folders that a caption file names, and of the frames in these folders."""
    for image in sorted({row.image for row in read_caption_file(captions, image_is_path=True).rows}):
        path = os.path.join(images, image)
        yield path
        try:
            yield from map(str, frame_files(path) if frames > 1 and os.path.isdir(path) else [])
        except ImageError:
            pass  # a folder without frames is a problem of the build
