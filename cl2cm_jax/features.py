"""Frozen work is done once: backbones run over a data set and their outputs are kept on disk.

A cache folder is named by a hash of what went in (the built records, the weights, the options), so a change of any of
them makes a new one and an unchanged run reads it in no time. Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data import builders
from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.data.images import decode, resize_crop
from cl2cm_jax.data.records import Record
from cl2cm_jax.data.tokenise import tokenizer
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import (
    TextBackbone,
    VisionBackbone,
    fingerprint,
    mean_pool,
    text_backbone,
    vision_backbone,
)
from cl2cm_jax.models.networks import FeatureShape

FORMAT = 1  # raise it when the files in a cache folder change
SPLITS = builders.SPLITS
TEXT_BATCH = 64  # small batches of captions of about one length stay in a CPU's caches
LENGTHS = (8, 16, 32, 64, 128, 256, 512)  # padded lengths, so that few shapes are compiled


class Corpora(NamedTuple):
    """The three splits of a data set."""

    train: Corpus
    validation: Corpus
    test: Corpus


def corpora(config: ConfigDict) -> Corpora:
    """Builds the data set and its features where they are not there yet, and reads them.

    Raises:
      UserError: an input is wrong or missing, or the data set lacks a language.
    """
    start = time.perf_counter()
    builder = _builder(config)
    builders.prepare(builder)
    languages = (config.data.source, *config.data.targets, *config.data.reported)
    folder = Path(config.data.dir, "features", _key(config, Path(builder.data_dir), languages))
    if not (folder / "done.json").exists():
        logging.info("features: the frozen backbones run once over %s; later runs read %s", config.data.name, folder)
        _compute(config, builder, languages, folder)
        logging.info("features: computed in %.1f s", time.perf_counter() - start)
    else:
        logging.info("features: the backbones are frozen; their outputs are read from %s", folder)
    return Corpora(*(_read(folder / split, split, languages) for split in SPLITS))


def encode_images(backbone: VisionBackbone, images: Iterator[np.ndarray], *, pool: str) -> np.ndarray:
    """Runs a vision backbone over uint8 pictures (H, W, 3) of any sizes -> (n, F, d) float32."""
    assert backbone.preprocess is not None
    prepare = backbone.preprocess

    def forward(params: dict, batch: jax.Array) -> jax.Array:
        output = backbone.apply(params, batch)
        return (mean_pool(output) if pool == "mean" else output).features

    jitted, rows, waiting = jax.jit(forward), [], []

    def flush() -> None:
        batch = np.stack(waiting + [waiting[-1]] * (backbone.batch_size - len(waiting)))
        rows.append(np.asarray(jitted(backbone.params, prepare(batch)))[: len(waiting)])
        waiting.clear()

    for image in images:
        waiting.append(resize_crop(image, prepare.image_size))
        if len(waiting) == backbone.batch_size:
            flush()
    if waiting:
        flush()
    return np.concatenate(rows) if rows else np.zeros((0, 1, backbone.dim), np.float32)


def encode_texts(backbone: TextBackbone, texts: Sequence[str], *, max_tokens: int) -> tuple[np.ndarray, Ragged]:
    """Runs a text backbone -> sentences (m, d) float32 and the words (special tokens left out) float16."""
    tokens = tokenizer(backbone.tokenizer, max_tokens=max_tokens)(texts)
    lengths = tokens.mask.sum(1)
    sentences = np.zeros((len(texts), backbone.dim), np.float32)
    words: list[np.ndarray] = [np.zeros((0, backbone.dim), np.float16)] * len(texts)
    forward = jax.jit(backbone.apply)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), TEXT_BATCH):
        rows = order[start : start + TEXT_BATCH]
        length = next(size for size in LENGTHS if size >= lengths[rows].max())
        ids = _fit(tokens.ids[rows], TEXT_BATCH, length)
        mask = _fit(tokens.mask[rows], TEXT_BATCH, length)
        output = forward(backbone.params, ids, mask)
        sentences[rows] = np.asarray(output.sentence)[: len(rows)]
        states, real = np.asarray(output.words).astype(np.float16), np.asarray(output.mask)
        for row, state, keep in zip(rows, states, real, strict=False):
            words[row] = state[keep]
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64)
    values = np.concatenate(words) if words else np.zeros((0, backbone.dim), np.float16)
    return sentences, Ragged(values=values, offsets=offsets, is_word=np.ones(len(values), bool))


def _fit(x: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Cuts or pads (n, L) with zeros to (rows, length)."""
    out = np.zeros((rows, length), x.dtype)
    cut = x[:, :length]
    out[: len(cut), : cut.shape[1]] = cut
    return out


def _builder(config: ConfigDict):  # noqa: ANN202  (a tfds builder; tfds is imported by those who build)
    c = config.data
    if c.name == "emoji":
        from cl2cm_jax.data.emoji import Emoji

        return Emoji(data_dir=c.dir)
    from cl2cm_jax.data.captions import captions_builder

    return captions_builder(
        data_dir=c.dir,
        captions=c.captions,
        images=c.images,
        features=c.features,
        feature_ids=c.feature_ids,
        on_error=c.on_error,
    )


def backbones(config: ConfigDict) -> tuple[TextBackbone, VisionBackbone]:
    """Loads the configured backbones with their weights."""
    text = text_backbone(config.text.backbone, config.text.path or None)
    return text, vision_backbone(config.vision.backbone, _vision_path(config))


def _vision_path(config: ConfigDict) -> str | None:
    """The weights file, or the features file of precomputed ones; None: the installed package's."""
    return (config.data.features if config.vision.backbone == "precomputed" else config.vision.path) or None


def _key(config: ConfigDict, built: Path, languages: tuple[str, ...]) -> str:
    """A hash of everything that the features depend on."""
    records = hashlib.sha256()
    for file in sorted(built.glob("*.tfrecord*")):
        records.update(file.read_bytes())
    weights = [
        fingerprint("text", config.text.backbone, config.text.path or None),
        fingerprint("vision", config.vision.backbone, _vision_path(config)),
    ]
    inputs = [FORMAT, records.hexdigest(), weights, config.vision.pool, config.text.max_tokens, languages]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _compute(config: ConfigDict, builder, languages: tuple[str, ...], folder: Path) -> None:  # noqa: ANN001
    """Writes the features of all splits beside their final place, then gives them their name."""
    text, vision = backbones(config)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    for split in SPLITS:
        records = list(builders.read_records(builder, split))
        _check_languages(records, split, languages)
        _write(temporary / split, records, languages, text, vision, config)
    (temporary / "done.json").write_text(json.dumps({"languages": languages}))
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster with the same features
        shutil.rmtree(temporary, ignore_errors=True)


def _check_languages(records: list[Record], split: str, languages: tuple[str, ...]) -> None:
    there = sorted({caption.language for record in records for caption in record.captions})
    for language in languages:
        if language not in there:
            raise UserError(f"config.data: the {split} split has no caption in {language!r}; it has {', '.join(there)}")


def _write(
    folder: Path,
    records: list[Record],
    languages: tuple[str, ...],
    text: TextBackbone,
    vision: VisionBackbone,
    config: ConfigDict,
) -> None:
    """Writes one split: arrays as .npy, so that they can be memory-mapped, and the rest as JSON."""
    captions = [
        (row, languages.index(caption.language), caption)
        for row, record in enumerate(records)
        for caption in record.captions
        if caption.language in languages
    ]
    sentences, words = encode_texts(text, [c.text for _, _, c in captions], max_tokens=config.text.max_tokens)
    arrays = {
        "vision": _vision_features(records, vision, config.vision.pool),
        "sentences": sentences,
        "words": words.values,
        "offsets": words.offsets,
        "caption_image": np.array([row for row, _, _ in captions], np.int32),
        "caption_language": np.array([language for _, language, _ in captions], np.int32),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    table = {
        "image_ids": [record.image_id for record in records],
        "groups": [record.group for record in records],
        "paths": [record.path for record in records],
        "caption_text": [caption.text for _, _, caption in captions],
        "caption_origin": [caption.origin for _, _, caption in captions],
    }
    (folder / "table.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def _vision_features(records: list[Record], vision: VisionBackbone, pool: str) -> np.ndarray:
    if vision.preprocess is None:
        return np.stack([record.feature for record in records if record.feature is not None])
    return encode_images(vision, (decode(record.image) for record in records if record.image is not None), pool=pool)


def _read(folder: Path, split: str, languages: tuple[str, ...]) -> Corpus:
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in folder.glob("*.npy")}
    vision = arrays["vision"]
    words = Ragged(
        values=arrays["words"], offsets=np.array(arrays["offsets"]), is_word=np.ones(len(arrays["words"]), bool)
    )
    return Corpus(
        name=split,
        languages=languages,
        image_ids=np.array(table["image_ids"]),
        groups=np.array(table["groups"]),
        paths=table["paths"],
        vision=vision,
        vision_mask=np.ones(vision.shape[:2], bool),
        caption_text=table["caption_text"],
        caption_image=np.array(arrays["caption_image"]),
        caption_language=np.array(arrays["caption_language"]),
        caption_origin=np.array(table["caption_origin"]),
        sentences=arrays["sentences"],
        words=words,
    )


def feature_shape(config: ConfigDict, text: TextBackbone, vision: VisionBackbone) -> FeatureShape:
    """Sizes of the cached features, as the networks need them."""
    frames = 1 if config.vision.pool == "mean" and vision.preprocess is not None else vision.frames
    return FeatureShape(text=text.dim, vision=vision.dim, max_words=config.text.max_tokens, max_frames=frames)


def shape_of(config: ConfigDict, corpus: Corpus) -> FeatureShape:
    """The same, read off cached features."""
    _, frames, dim = corpus.vision.shape
    return FeatureShape(corpus.sentences.shape[1], dim, config.text.max_tokens, frames)
