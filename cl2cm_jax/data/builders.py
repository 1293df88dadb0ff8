"""What every tfds builder of this project shares: the features, building offline and atomically, and reading back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cl2cm_jax.data import lazy_tensorflow
from cl2cm_jax.data.beam import beam_of
from cl2cm_jax.data.records import Caption, Record
from cl2cm_jax.errors import UserError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_STALE_AFTER_SECONDS = 3600.0  # an unfinished build that is older belongs to no living process


def features(
    feature_shape: tuple[int | None, int] | None = None, *, has_frames: bool = False
) -> tfds.features.FeaturesDict:
    """The features of a set: `image` holds an encoded file, or `feature` a (frames, d) float32 array.

    Args:
      feature_shape: (frames, d) of a set of precomputed features, frames None if they differ; None for a set of images.
      has_frames: of a set of images, whether some are clips of several files; `frames` holds these, `image` nothing.
    """
    tfds = lazy_tensorflow.tensorflow_datasets()
    text = tfds.features.Text
    vision = (
        {"image": tfds.features.Scalar(dtype=np.object_)}
        if feature_shape is None
        else {
            "feature": tfds.features.Tensor(
                shape=feature_shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES
            )
        }
    )
    if has_frames:
        vision["frames"] = tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_))
    return tfds.features.FeaturesDict(
        {
            **vision,
            "image_id": text(),
            "group": text(),
            "concept": text(),
            "path": text(),
            "captions": tfds.features.Sequence({"language": text(), "text": text(), "origin": text()}),
        }
    )


def example(record: Record, *, has_frames: bool = False) -> dict[str, Any]:
    """A record as the example that a builder yields; `has_frames` as in `features`."""
    vision: dict[str, Any] = {"feature": record.feature}
    if record.feature is None:
        vision = {"image": record.image or b""}
    if has_frames:
        vision["frames"] = list(record.frames)
    captions = [{"language": c.language, "text": c.text, "origin": c.origin} for c in record.captions]
    return vision | {
        "image_id": record.image_id,
        "group": record.group,
        "concept": record.concept,
        "path": record.path,
        "captions": captions,
    }


def prepare(builder: tfds.core.DatasetBuilder, *, beam_runner: str = "", beam_options: Sequence[str] = ()) -> None:
    """Builds the set if it is not built yet: offline, without noise, and wholly or not at all.

    The set is written to a temporary folder that takes its name when it is complete, so an end at any moment leaves
    either the whole set or none.

    Args:
      builder: of the set.
      beam_runner: of Apache Beam, which builds it if the builder knows how; "" builds it here, without Beam.
      beam_options: of the runner, such as "project=mine".

    Raises:
      UserError: an input is missing or wrong (from the builder), or Beam is not there or does not know the runner.
    """
    tfds = lazy_tensorflow.tensorflow_datasets()
    target = Path(builder.data_dir)
    if _is_built(target):
        return
    lazy_tensorflow.tensorflow()
    remove_stale(target.parent, f"incomplete.*_{target.name}")
    config = tfds.download.DownloadConfig(try_download_gcs=False, register_checksums=False)
    if beam_runner:
        config = dataclasses.replace(config, **beam_of(beam_runner, beam_options)._asdict())
    try:
        with without_commentary():
            builder.download_and_prepare(file_format="tfrecord", download_config=config)
    except OSError:
        if not _is_built(target):  # else another process finished the same set first
            raise


def read_records(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[Record]:
    """The records of a split, always in the same order. `path` is made absolute.

    Raises:
      UserError: the built set is damaged.
    """
    tfds, tf = lazy_tensorflow.tensorflow_datasets(), lazy_tensorflow.tensorflow()
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    with without_commentary():
        dataset = cast(Any, builder).as_dataset(split=split, shuffle_files=False, read_config=read_config)
    for row in _intact(dataset.as_numpy_iterator(), builder, tf.errors.OpError):
        captions = row["captions"]
        columns = (captions["language"], captions["text"], captions["origin"])
        path = row["path"].decode()
        yield Record(
            image=row.get("image") or None,
            feature=row.get("feature"),
            image_id=row["image_id"].decode(),
            group=row["group"].decode(),
            concept=row["concept"].decode(),
            path=str(Path(builder.data_dir, path).resolve()) if path else "",
            captions=tuple(Caption(*(cell.decode() for cell in cells)) for cells in zip(*columns, strict=True)),
            frames=tuple(row.get("frames", ())),
        )


def _intact(rows: Iterator[Any], builder: tfds.core.DatasetBuilder, damage: type[Exception]) -> Iterator[Any]:
    """The rows; raises a UserError where a file of the built set is cut short or missing."""
    try:
        yield from rows
    except damage as error:
        reason = str(error).splitlines()[0].split("}} ")[-1]
        raise UserError(
            f"the built set {builder.data_dir} is damaged ({reason}); delete it, it is built anew"
        ) from error


def files_below(folder: str | os.PathLike[str]) -> Iterator[str]:
    """All files in a folder and in those below it, links followed, always in one order; hidden ones are left out.

    A folder's own time of change does not say that a file in it was written over, so `fingerprint` needs them each.
    """
    seen: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(base)
        folders[:] = () if place in seen else sorted(folders)  # a link may lead back up
        yield from (os.path.join(base, name) for name in sorted(names) if name[0] != "." and place not in seen)
        seen.add(place)


def fingerprint(files: Sequence[str], settings: Sequence[str]) -> str:
    """A short name that changes when a file's name, size or time of change does, or a setting."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        try:
            state = os.stat(file)
            found = f"{state.st_size}, {state.st_mtime_ns}"
        except OSError:
            found = "missing"
        digest.update(f"{os.path.abspath(file)}\0{found}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def check_languages(records: Sequence[Record], split: str, languages: Sequence[str]) -> None:
    """Refuses a language that a split lacks; an evaluation split may lack the source, which is then not evaluated.

    Args:
      records: of the split.
      split: its name.
      languages: that are asked for, the source first.

    Raises:
      UserError: names the language and those that are there.
    """
    there = sorted({caption.language for record in records for caption in record.captions})
    source, *_ = languages
    for language in languages:
        if language in there:
            continue
        if language == source and split != "train":
            logging.warning("the %s split has no caption in %r, which is not evaluated on it", split, language)
        else:
            field = "evaluation.query='fused'" if "2" in language else "data"
            raise UserError(
                f"config.{field}: the {split} split has no caption in {language!r}; it has {', '.join(there)}"
            )


def _is_built(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def remove_stale(parent: Path, pattern: str, *, seconds: float = _STALE_AFTER_SECONDS) -> None:
    """Removes what killed processes have left: unfinished folders that are too old to belong to a living one."""
    for folder in parent.glob(pattern):
        if time.time() - folder.stat().st_mtime > seconds:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def without_commentary() -> Iterator[None]:
    """Keeps tfds' running commentary, on stdout and in absl's log, off the terminal; errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
