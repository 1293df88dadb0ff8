"""Built data sets: the one `tensorflow_datasets` builder, which stores a caption table and reads it.

Pictures are not copied: a set has their places and hashes, see `stored_pictures`. It is built offline into a temporary
folder that takes its name when it is complete. Apache Beam builds the same set on many workers. What the set was built
from is in its folder's name, and the hash of its records in fingerprint.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from cl2cm_jax.data import beam, lazy_tensorflow
from cl2cm_jax.data.caption_sets import CaptionSet
from cl2cm_jax.data.captions import SPLITS, Caption, ShardOffset, by_split
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.data.readers.picture_checks import remembering
from cl2cm_jax.data.readers.problems import report_problems
from cl2cm_jax.data.readers.usable_images import row_from_json
from cl2cm_jax.data.stored_pictures import Picture, read_files, sha256_of
from cl2cm_jax.errors import UserError, no_room
from cl2cm_jax.runtime.checksums import (
    add_checksums,
    has_checksums,
    read_checked,
    read_checked_json,
    write_checked,
    write_checksums,
)
from cl2cm_jax.runtime.file_hashes import file_hash
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.text.languages import canonical

_DESCRIPTIONS = "*.json"  # of a built set
_PLANS = "plans"  # items for Beam's workers, in the unfinished set
_FINGERPRINT = "fingerprint.json"
_CONTENTS = "contents.json"
_FORMER = tfds.core.Version("1.0.0")  # in which sets of pictures hold the files
_CHECKS = "checks.jsonl"  # of pictures, for the builds of all sets of a name


class StoredSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set as `tensorflow_datasets` stores it."""

    VERSION = tfds.core.Version("1.1.0")  # raise it when the stored columns change; of features it is `_FORMER`

    _beam: beam.Beam | None = None

    def __init__(self, source: CaptionSet, *, data_dir: str | os.PathLike[str]):
        self.name, self.source = source.name, source  # type: ignore[misc]
        folder = Path(data_dir, source.name, source.inputs)
        self.holds_files = not source.feature_shape and _is_built(folder / str(_FORMER))
        if source.feature_shape or self.holds_files:
            self.VERSION = _FORMER
        _check_descriptions(folder / str(self.VERSION))
        config = source.inputs and tfds.core.BuilderConfig(name=source.inputs, description=source.description)
        with _quiet():
            super().__init__(data_dir=data_dir, config=config or None)
        if self.holds_files and source.pictures:
            logging.info("%s holds a copy of its pictures; delete it, and it is built again without one", self.data_dir)

    @property
    def report_path(self) -> Path:
        """The list of all problems and notes of the last build, beside the built set."""
        return Path(self._data_dir_root, self.name, f"{self.source.inputs}.report.tsv")

    def download_and_prepare(self, **options: Any) -> None:
        """As tfds'; a `beam_runner` in `download_config` checks and builds the set."""
        config = options.get("download_config")
        runner = config.beam_runner if config else None
        self._beam = beam.Beam(runner, config.beam_options) if config and runner else None
        super().download_and_prepare(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        text, source = tfds.features.Text, self.source
        files = tfds.features.Scalar(dtype=np.object_)
        picture: dict[str, Any] = {"sha256": files, "span": tfds.features.Sequence(np.int64)}
        if source.feature_shape:
            encoding = tfds.features.Encoding.BYTES
            picture = {
                "feature": tfds.features.Tensor(shape=source.feature_shape(), dtype=np.float32, encoding=encoding)
            }
        elif self.holds_files:
            picture = {"image": files} | ({"frames": tfds.features.Sequence(files)} if source.frames > 1 else {})
        captions = tfds.features.Sequence({"language": text(), "text": text(), "origin": text()})
        columns = {"image_id": text(), "group": text(), "concept": text(), "path": text(), "captions": captions}
        return self.dataset_info_from_configs(
            description=source.description,
            features=tfds.features.FeaturesDict(picture | columns),
            homepage=source.homepage,
            license=source.license,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        mapper: Callable[..., Iterable[Any]] = ahead
        if self._beam:
            mapper = partial(beam.mapped, beam=self._beam, folder=Path(self.data_dir, _PLANS))
        checks = Path(self._data_dir_root, self.name, _CHECKS)
        table = self.source.read(Path(self.data_dir), remembering(mapper, checks))
        if self.source.on_error:
            report_problems(self.report_path, table.problems, on_error=self.source.on_error, name=self.name)
        splits = by_split(table.rows)
        for split in SPLITS:
            if not splits[split]:
                count = len({row.image for row in table.rows})
                fix = "give each of train, validation and test at least one image"
                if not any(row.split for row in table.rows):
                    fix = "three images are the minimum; add pictures"
                elif self.source.draws_splits:
                    fix += ", or no split to any image, and they are drawn"
                raise UserError(
                    f"{self.source.origin or self.name}: split {split!r} has no image among {count}; {fix}",
                    id="empty-split",
                )
        return {split: self._generate_examples(images.values(), split) for split, images in splits.items()}

    def _generate_examples(self, images: Iterable[Sequence[Caption]], split: str) -> Any:
        """Pairs of key and example, or the Beam transform that yields them."""
        plan = ([key, *rows] for key, rows in enumerate(images))
        feature = self.source.feature and partial(self.source.feature, split)
        example = partial(_keyed_example, folder=str(picture_root(self)), frames=self.source.frames, feature=feature)
        if self._beam and not feature:
            return beam.examples(example, plan, beam=self._beam, file=Path(self.data_dir, _PLANS, f"{split}.jsonl"))
        return map(example, plan)

    def _example_writer(self) -> ExampleWriter:
        return _SortedWriter(file_format=cast(Any, self.info).file_format)

    def _process_pipeline_result(self, pipeline_result: Any) -> None:
        """Removes the items of the workers; called by tfds when Beam is through."""
        shutil.rmtree(Path(self.data_dir, _PLANS))

    def _download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        super()._download_and_prepare(*arguments, **options)
        _write_fingerprint(Path(self.data_dir))  # still the temporary folder

    def _post_download_and_prepare_hook(self) -> None:
        """Adds the checksums of the descriptions; called by tfds when the set has its name."""
        write_checksums(Path(self.data_dir), _DESCRIPTIONS)


class _SortedWriter(ExampleWriter):
    """Writes the fields of a record by name; else they have another order in every process, and equal sets differ."""

    def write(self, path: Any, examples: Iterable[Any]) -> Any:
        return super().write(path, ((key, _sorted_fields(record)) for key, record in examples))


def _sorted_fields(record: bytes) -> bytes:
    return cast(Any, tf_example_pb2).Example.FromString(record).SerializeToString(deterministic=True)


def _keyed_example(
    item: Sequence[Any], *, folder: str, frames: int, feature: Callable[[str], np.ndarray] | None
) -> tuple[int, dict[str, Any]]:
    """The key and the example, as tfds writes it, of [key, first row, second row, ...] of an image."""
    key, *rows = item
    rows = [row_from_json(row) for row in rows]
    first = rows[0]
    path, span = first.picture, list[int]()
    if isinstance(path, ShardOffset):
        path, span = Path(os.path.relpath(path.shard, folder)).as_posix(), list(path[1:])
    if feature:
        vision: dict[str, Any] = {"feature": feature(first.image)}
    else:
        sha256 = bytes.fromhex(first.sha256) or sha256_of(read_files(_place(folder, path, span), frames))
        vision = {"sha256": sha256, "span": span}
    return key, vision | {
        "image_id": first.image,
        "group": first.group,
        "concept": first.concept or first.image,
        "path": path,
        "captions": [{"language": row.language, "text": row.caption, "origin": row.origin} for row in rows],
    }


def _place(folder: str | Path, path: str, span: Sequence[int]) -> str | ShardOffset:
    """Where a picture is: a file or folder, or a span of a shard."""
    path = os.path.join(folder, path)
    return ShardOffset(path, *map(int, span)) if len(span) else path


def prepare(stored: StoredSet, *, beam_runner: str = "", beam_options: Sequence[str] = ()) -> None:
    """Builds the set if it is not built yet; one process at a time, others wait for it.

    Args:
      stored: the set.
      beam_runner: of Apache Beam, which then builds it; "" builds it without Beam.
      beam_options: of the runner, such as "project=mine".

    Raises:
      UserError: an input is missing or wrong, the disk is full, or Beam is not installed or does not know the runner.
    """
    target = Path(stored.data_dir)
    if not _is_built(target):
        with exclusive(target.with_name(f".{target.name}.lock")):
            if not _is_built(target):  # by another process meanwhile
                for folder in target.parent.glob(f"incomplete.*_{target.name}"):  # of a killed process
                    shutil.rmtree(folder, ignore_errors=True)
                _build(stored, beam_runner, beam_options)
    if not stored.info.splits:  # built by another process since it was opened
        with _quiet():
            stored.info.read_from_directory(stored.data_dir)


def _build(stored: StoredSet, beam_runner: str, beam_options: Sequence[str]) -> None:
    lazy_tensorflow.tensorflow()
    lazy_tensorflow.tensorflow_datasets()
    config = tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False)
    if beam_runner:
        config = dataclasses.replace(config, **beam.beam_of(beam_runner, beam_options)._asdict())
    try:
        with _quiet():
            stored.download_and_prepare(file_format="tfrecord", download_config=config)
    except Exception as error:
        if not (reason := no_room(error)):
            raise
        raise UserError(
            f"the data set {stored.data_dir} cannot be written ({reason}); "
            "free disk space, or set config.data.dir to a folder on a larger disk",
            id="no-disk-space",
        ) from error


def read_captions(stored: StoredSet, split: str) -> tuple[list[Caption], int]:
    """The captions of a split in the order of its images, and the largest number of frames of a feature (0: none).

    Paths of pictures are absolute.

    Raises:
      UserError: the built set is damaged.
    """
    rows: list[Caption] = []
    frames = 0
    for example in _examples(stored, split):
        captions, path = example["captions"], example["path"].decode()
        frames = max(frames, len(example["feature"]) if "feature" in example else 0)
        image, concept, group = (example[name].decode() for name in ("image_id", "concept", "group"))
        picture = str((picture_root(stored) / path).resolve()) if path and not len(example.get("span", ())) else ""
        for cells in zip(captions["language"], captions["text"], captions["origin"], strict=True):
            language, text, origin = (cell.decode() for cell in cells)
            rows.append(Caption(image, canonical(language), text, split, origin, concept, group, picture))
    return rows, frames


def read_pictures(stored: StoredSet, split: str) -> Iterator[Picture]:
    """The pictures of a split in the order of its images.

    Raises:
      UserError: the built set is damaged.
    """
    for example in _examples(stored, split):
        if "feature" in example:
            feature = np.ascontiguousarray(example["feature"])
            yield Picture(sha256_of([feature.data]), feature=feature)
        elif stored.holds_files:
            files = tuple(example.get("frames", ())) or (example["image"],)
            yield Picture(sha256_of(files), stored=files)
        else:
            place = _place(picture_root(stored), example["path"].decode(), example["span"])
            yield Picture(example["sha256"], place, stored.source.frames)


def _examples(stored: StoredSet, split: str) -> Iterator[dict[str, Any]]:
    tf = lazy_tensorflow.tensorflow()
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    with _quiet():
        dataset = cast(Any, stored).as_dataset(split=split, shuffle_files=False, read_config=read_config)
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = str(error).splitlines()[0].split("}} ")[-1]
        raise UserError(
            f"the built set {stored.data_dir} is damaged ({reason}); delete it, and it is built again"
        ) from error


def picture_root(stored: StoredSet) -> Path:
    """The folder that the relative paths of a set's pictures are in."""
    return Path(stored.source.pictures or stored.data_dir).resolve()


def content_hashes(stored: StoredSet) -> dict[str, str]:
    """Hash of the pictures or features of each split, without their paths; computed once and kept beside the set.

    Raises:
      UserError: the built set is damaged.
    """
    file, records = Path(stored.data_dir, _CONTENTS), records_hash(stored)
    with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError):
        known = read_checked_json(file, fix="it is computed again")
        if known["records"] == records:
            return {split: str(known[split]) for split in SPLITS}
    check_records(stored)
    found = {split: _content_hash(read_pictures(stored, split)) for split in SPLITS}
    with contextlib.suppress(OSError):  # the folder may be read-only
        write_checked(file, json.dumps({"records": records} | found))
    return found


def _content_hash(pictures: Iterable[Picture]) -> str:
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(picture.sha256 + b"\0")
    return digest.hexdigest()


def records_hash(stored: StoredSet) -> str:
    """A hash of the records of a built set, from its fingerprint.json; computed once for sets that have none yet."""
    folder = Path(stored.data_dir)
    try:
        return read_checked_json(folder / _FINGERPRINT, fix="it is computed again")["records"]
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return _write_fingerprint(folder)


def check_records(stored: StoredSet) -> None:
    """Compares the records with their fingerprint, as before they are read for features.

    Raises:
      UserError: they are those of another set, or damaged.
    """
    folder = Path(stored.data_dir)
    if records_hash(stored) != _hash_of_records(folder):
        raise UserError(
            f"the built set {folder} is damaged: its records are not those of {_FINGERPRINT}; delete it, and it is "
            "built again"
        )


def _hash_of_records(folder: Path) -> str:
    records = hashlib.sha256()
    for path in sorted(folder.glob("*.tfrecord*")):
        records.update(file_hash(path).encode())
    return records.hexdigest()


def _write_fingerprint(folder: Path) -> str:
    records = _hash_of_records(folder)
    with contextlib.suppress(OSError):  # the folder may be read-only
        write_checked(folder / _FINGERPRINT, json.dumps({"records": records}))
    return records


def _is_built(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def _check_descriptions(folder: Path) -> None:
    """Compares the descriptions of a built set with their checksums; its records have checksums of their own."""
    was_built = _is_built(folder) or any(folder.glob("*.tfrecord*"))
    names = ("dataset_info.json", "features.json") if was_built else ()
    if names and not has_checksums(folder):
        return add_checksums(folder, _DESCRIPTIONS)
    for path in (folder / name for name in names):
        try:
            read_checked(path, fix=f"delete {folder}, and it is built again")
        except OSError as error:
            raise UserError(f"the built set {folder} is damaged ({error}); delete it, and it is built again") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tfds' progress messages, on stdout and in absl's log, off the terminal; errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
