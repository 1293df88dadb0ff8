"""Batches as a pure function of the step: batch n is the same however many batches were drawn before it.

The order of an epoch is a permutation of (seed, epoch), and the captions of an image are chosen by a hash of (seed,
epoch, image), so the step number is the whole state of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cl2cm_jax.data import lazy_tensorflow
from cl2cm_jax.data.corpus import LEFT_OUT, Corpus, padded_length, text_inputs
from cl2cm_jax.data.media.crops import NUMBERS, Crops, cropped
from cl2cm_jax.data.media.threads import THREADS
from cl2cm_jax.data.packing import pack
from cl2cm_jax.data.position import position
from cl2cm_jax.data.stored_pictures import decode_unchanged
from cl2cm_jax.errors import UserError

_SOURCE, _LANGUAGE, _TARGET, _CROP = range(4)  # what a random number is drawn for


class _Captions(NamedTuple):
    """The captions of each image and language: `rows[start[i, l] : start[i, l] + count[i, l]]`."""

    rows: np.ndarray  # (m,), of the captions that are used
    start: np.ndarray  # (n, languages)
    count: np.ndarray  # (n, languages)


class _Draw(NamedTuple):
    """The images and captions of a batch."""

    image: np.ndarray  # (B,)
    source_caption: np.ndarray  # (B,)
    target_caption: np.ndarray  # (B, K), -1 where the image lacks a caption in the language
    target_language: np.ndarray  # (B, K)


class EvaluationBatch(NamedTuple):
    """Rows to embed. The last batch is padded with row 0, where `is_valid` is False."""

    rows: np.ndarray  # (B,) int32
    is_valid: np.ndarray  # (B,) bool


def trainable_images(corpus: Corpus, *, source: str) -> np.ndarray:
    """Rows (k,) of the images with a caption in the source language, which are trained on."""
    return np.unique(corpus.caption_image[corpus.captions_of(source)])


def check(corpus: Corpus, *, batch_size: int, source: str, targets: Sequence[str], targets_per_image: int) -> None:
    """Checks the arguments of `batches`.

    Raises:
      UserError: fewer images with a source caption than the batch size, more targets per image than targets, or a
        language that the corpus lacks.
    """
    images = len(trainable_images(corpus, source=source))
    if images < batch_size:
        raise UserError(
            f"config.train.batch_size={batch_size} is more than the {images} images of split {corpus.name!r} that "
            f"have a caption in {source!r}; use {max(images, 1)} or less",
            id="batch-too-large",
        )
    if targets_per_image > len(targets) or targets_per_image == 0 or targets_per_image < -1:
        raise UserError(
            f"config.train.targets_per_image={targets_per_image} must be -1 or from 1 to the {len(targets)} target "
            "languages"
        )
    for target in targets:
        corpus.language_index(target)


def check_files(corpus: Corpus) -> None:
    """Checks that every picture is a file, as trained vision layers need.

    Raises:
      UserError: one is not.
    """
    if "" in corpus.paths:
        image = str(corpus.image_ids[corpus.paths.index("")])
        raise UserError(
            f"config.student.vision.trainable: the picture {image!r} of split {corpus.name!r} is not a file on disk, "
            "and trained layers read picture files in every step; use '', which caches features"
        )


def batches(
    corpus: Corpus,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    source: str,
    targets: Sequence[str],
    targets_per_image: int,
    with_words: bool,
    max_words: int,
    length_multiple: int = 0,
    groups: int = 0,
    crops: Crops | None = None,
) -> Iterator[dict[str, Any]]:
    """Endless training batches from `start_step` on, prefetched by tf.data; no batch of an epoch is partial.

    Args:
      corpus: the training split.
      batch_size: B, of all hosts together.
      seed: of the order and of the choice of captions.
      start_step: the first batch, counted from 0.
      source: language of the source captions.
      targets: languages of the target captions.
      targets_per_image: K distinct target languages for an image, drawn anew each epoch; -1: all, in the given order.
      with_words: adds "words" and "mask" to both sides.
      max_words: longer captions are truncated.
      length_multiple: L of a batch is its longest caption's, rounded up to a multiple of it; 0: `max_words`.
      groups: number of groups of images whose captions are packed into rows, one per device and micro-batch; 0: none.
      crops: reads crops of the picture files in place of features. A crop is a function of (seed, epoch, image).

    Yields:
      "vision": {"features" (B, F, dv) float32, "mask" (B, F) bool}, or with crops {"pixels" (B, S, S, 3) uint8},
      "source": {"sentence" (B, dt) float32 [, "words" (B, L, dt) float32, "mask" (B, L) bool]}, and the
        inputs of trained layers of the backbone, see `corpus.text_inputs`,
      "target": the same with (B, K, ...), zero where there is no target,
      "packing": {"take" (G, R, L) int32, "put" (B, 1 + K, L) int32} of groups, see `packing.pack`; caption 0 of an
        image is its source,
      "target_language" (B, K) int32 index into `corpus.languages`, "target_is_valid" (B, K) bool,
      "source_caption" (B,) int32 and "target_caption" (B, K) int32: rows of the corpus, -1 where there is no target,
      "image_id" (B,) int32: row of the image, "is_valid" (B,) bool.

    Raises:
      UserError: see `check` and `check_files`; or, from the iterator, a picture cannot be read.
    """
    check(corpus, batch_size=batch_size, source=source, targets=targets, targets_per_image=targets_per_image)
    images = trainable_images(corpus, source=source)
    draw = _drawer(corpus, seed=seed, source=source, targets=targets, targets_per_image=targets_per_image)
    words = {"with_words": with_words, "max_words": max_words, "length_multiple": length_multiple}
    vision = _features(corpus) if crops is None else _pixels(corpus, crops, seed=seed)
    failures: list[UserError] = []

    def gather(step: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
        epoch = position(int(step), images=len(images), batch_size=batch_size).epoch
        try:
            batch = _gather(corpus, draw(epoch, images[order]), groups=groups, **words) | vision(epoch, images[order])
        except UserError as error:
            failures.append(error)  # tf.data raises an error of its own
            raise
        return [batch[path] for path in paths]

    # One image, for the names and types of the arrays that come out of tf.data.
    first = _gather(corpus, draw(0, images[:1]), groups=min(groups, 1), **words) | vision(0, images[:1])
    paths = list(first)
    types = [array.dtype for array in first.values()]
    indices = _index_dataset(len(images), batch_size=batch_size, seed=seed, start_step=start_step)
    tf = lazy_tensorflow.tensorflow()
    dataset = indices.map(
        lambda step, order: tf.numpy_function(gather, [step, order], types, stateful=False),
        num_parallel_calls=2,
        deterministic=True,
    ).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # nothing to tune, and its thread delays the end of the iterator by seconds
    dataset = dataset.with_options(options)
    return (_nested(dict(zip(paths, arrays, strict=True))) for arrays in _arrays(dataset, failures))


def _arrays(dataset: Any, failures: list[UserError]) -> Iterator[Any]:
    """The arrays of a tf.data set; a UserError from within it is raised as such."""
    op_error = lazy_tensorflow.tensorflow().errors.OpError  # looked up now: at interpreter exit the module is empty
    try:
        yield from dataset.as_numpy_iterator()
    except op_error:
        if failures:
            raise failures[0] from None
        raise


def evaluation_batches(count: int, *, batch_size: int) -> Iterator[EvaluationBatch]:
    """All rows 0 .. count - 1 in order, in batches of one size."""
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size, dtype=np.int32)
        is_valid = rows < count
        yield EvaluationBatch(rows=np.where(is_valid, rows, 0).astype(np.int32), is_valid=is_valid)


def _index_dataset(count: int, *, batch_size: int, seed: int, start_step: int) -> Any:
    """A tf.data set of (step, (B,) places in the order); skipping to a step reads no data."""
    tf = lazy_tensorflow.tensorflow()
    start = position(start_step, images=count, batch_size=batch_size)

    def epoch_order(epoch: Any) -> Any:
        key = tf.stack([tf.constant(seed % 2**31, tf.int32), tf.cast(epoch, tf.int32), tf.constant(7)])
        return (
            tf.data.Dataset.range(count)
            .map(lambda i: tf.random_index_shuffle(tf.cast(i, tf.int32), seed=key, max_index=count - 1))
            .batch(batch_size, drop_remainder=True)
        )

    orders = tf.data.Dataset.counter(start.epoch).flat_map(epoch_order).skip(start.offset)
    return tf.data.Dataset.zip((tf.data.Dataset.counter(start_step), orders))


def _drawer(corpus: Corpus, *, seed: int, source: str, targets: Sequence[str], targets_per_image: int) -> Any:
    """A function (epoch, image rows (B,)) -> _Draw."""
    captions = _captions_by_image(corpus)
    source_index = corpus.language_index(source)
    target_index = np.array([corpus.language_index(target) for target in targets])
    number = len(targets) if targets_per_image == -1 else targets_per_image

    def pick(image: np.ndarray, language: np.ndarray, random: np.ndarray) -> np.ndarray:
        count = captions.count[image, language]
        place = captions.start[image, language] + random % np.maximum(count, 1)
        return np.where(count > 0, captions.rows[np.minimum(place, len(captions.rows) - 1)], -1).astype(np.int32)

    def draw(epoch: int, image: np.ndarray) -> _Draw:
        languages = np.broadcast_to(target_index, (len(image), len(target_index)))
        if targets_per_image != -1:
            chance = _random(seed, epoch, image[:, None], _LANGUAGE, languages)
            lacking = captions.count[image[:, None], languages] == 0
            order = np.lexsort((chance, lacking), axis=1)[:, :number]  # languages with a caption first
            languages = np.take_along_axis(languages, order, axis=1)
        return _Draw(
            image=image.astype(np.int32),
            source_caption=pick(image, np.full(len(image), source_index), _random(seed, epoch, image, _SOURCE, 0)),
            target_caption=pick(image[:, None], languages, _random(seed, epoch, image[:, None], _TARGET, languages)),
            target_language=languages.astype(np.int32),
        )

    return draw


def _captions_by_image(corpus: Corpus) -> _Captions:
    shape = (len(corpus.image_ids), len(corpus.languages))
    read = np.flatnonzero(corpus.caption_language != LEFT_OUT)
    cell = np.ravel_multi_index((corpus.caption_image[read], corpus.caption_language[read]), shape)
    count = np.bincount(cell, minlength=shape[0] * shape[1])
    start = np.cumsum(count) - count
    return _Captions(read[np.argsort(cell, kind="stable")], start.reshape(shape), count.reshape(shape))


def _gather(
    corpus: Corpus, draw: _Draw, *, with_words: bool, max_words: int, length_multiple: int, groups: int
) -> dict[str, np.ndarray]:
    """The arrays of a batch by "/"-joined names, except those of its pictures."""
    is_target = draw.target_caption >= 0
    target_rows = draw.target_caption.reshape(-1)
    rows = np.concatenate([draw.source_caption, target_rows])
    length = padded_length(corpus.text, rows, max_length=max_words, multiple=length_multiple)
    source = text_inputs(corpus.text, draw.source_caption, length=length, with_words=with_words)
    target = {
        name: _zero_absent(array, is_target)
        for name, array in text_inputs(corpus.text, target_rows, length=length, with_words=with_words).items()
    }
    packing = {}
    if groups:
        tokens = np.concatenate([source["tokens"][:, None], target["tokens"]], axis=1)
        packing = pack(tokens.sum(-1), length=length, groups=groups)
    return {
        **{f"source/{name}": array for name, array in source.items()},
        **{f"target/{name}": array for name, array in target.items()},
        **{f"packing/{name}": array for name, array in packing.items()},
        "target_language": draw.target_language,
        "target_is_valid": is_target,
        "source_caption": draw.source_caption,
        "target_caption": draw.target_caption,
        "image_id": draw.image,
        "is_valid": np.ones(len(draw.image), bool),
    }


def _features(corpus: Corpus) -> Callable[[int, np.ndarray], dict[str, np.ndarray]]:
    """A function (epoch, image rows (B,)) -> the features of a batch."""

    def features(epoch: int, image: np.ndarray) -> dict[str, np.ndarray]:
        del epoch
        values = np.asarray(corpus.vision[image], np.float32)
        return {"vision/features": values, "vision/mask": corpus.vision_mask[image]}

    return features


def _pixels(corpus: Corpus, crops: Crops, *, seed: int) -> Callable[[int, np.ndarray], dict[str, np.ndarray]]:
    """A function (epoch, image rows (B,)) -> the cropped pictures of a batch, read from their files.

    Raises:
      UserError: see `check_files`.
    """
    check_files(corpus)
    pool = ThreadPoolExecutor(THREADS)

    def one(row: int, chance: np.ndarray) -> np.ndarray:
        return cropped(decode_unchanged(corpus, row), crops, chance=chance)

    def pixels(epoch: int, image: np.ndarray) -> dict[str, np.ndarray]:
        chance = _random(seed, epoch, image[:, None], _CROP, np.arange(NUMBERS)) / 2.0**62
        return {"vision/pixels": np.stack(list(pool.map(one, image.tolist(), chance)))}

    return pixels


def _zero_absent(array: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """(B*K, ...) as (B, K, ...), 0 where there is no target."""
    shaped = array.reshape(*is_target.shape, *array.shape[1:])
    shaped[~is_target] = 0
    return shaped


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}."""
    nested: dict[str, Any] = {}
    for path, array in flat.items():
        *outer, name = path.split("/")
        (nested.setdefault(outer[0], {}) if outer else nested)[name] = array
    return nested


def _random(*parts: Any) -> np.ndarray:
    """Stateless random integers in [0, 2^62) of broadcast integers: SplitMix64 over the parts."""
    state: np.ndarray = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = np.asarray(part, np.int64).astype(np.uint64) + state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state >> np.uint64(2)).astype(np.int64)
