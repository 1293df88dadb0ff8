"""Frozen work is done once: backbones run over a data set and their outputs are kept on disk.

A cache folder is named by a hash of what went in (the built records, the weights, the options), so a change of any of
them makes a new one and an unchanged run reads it in no time. Source: ours.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen, vision_first
from cl2cm_jax.data import builders, sets
from cl2cm_jax.data.corpus import CaptionFeatures, Corpus, Ragged, translation_tag
from cl2cm_jax.data.images import decode, scaled
from cl2cm_jax.data.records import Record
from cl2cm_jax.data.tokenise import tokenizer
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import (
    TextBackbone,
    VisionBackbone,
    fingerprint,
    text_backbone,
    vision_backbone,
)
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.models.trained_layers import check_text_layers

FORMAT = 4  # raise it when the files in a cache folder change
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
    try:
        Path(config.data.dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"config.data.dir={config.data.dir!r} cannot be made ({error.strerror}); name another"
        ) from error
    builder = sets.builder(config.data)
    builders.prepare(builder)
    languages = {split: languages_of(config, split) for split in SPLITS}
    folder = Path(config.data.dir, "features", _key(config, Path(builder.data_dir), languages["test"]))
    if not (folder / "done.json").exists():
        logging.info("features: the frozen backbones run once over %s; later runs read %s", config.data.name, folder)
        _compute(config, builder, languages, folder)
        logging.info("features: computed in %.1f s", time.perf_counter() - start)
    else:
        logging.info("features: the backbones are frozen; their outputs are read from %s", folder)
    try:
        return Corpora(*(_read(folder / split, split, languages[split]) for split in SPLITS))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}); delete it, it is made anew") from error


def languages_of(config: ConfigDict, split: str) -> tuple[str, ...]:
    """The languages that are read of a split; translated queries ("de2en") belong to the evaluation splits alone."""
    d = config.data
    targets = (*d.targets, *d.reported)
    fused = split != "train" and config.evaluation.query == "fused"
    return (d.source, *targets, *(translation_tag(target, d.source) for target in targets if fused))


class ImageEncoder:
    """A vision backbone over pictures; prepared and compiled once, then called as often as needed."""

    def __init__(self, backbone: VisionBackbone, *, pool: str):
        assert backbone.preprocess is not None
        self._backbone, self._prepare = backbone, backbone.preprocess

        def forward(params: dict, batch: jax.Array) -> jax.Array:
            output = backbone.apply(params, batch)
            return output.features if pool == "tokens" or output.pooled is None else output.pooled[:, None]

        self._forward = jax.jit(forward)

    def __call__(self, images: Iterable[np.ndarray], *, params: Params | None = None) -> np.ndarray:
        """Maps uint8 pictures (H, W, 3) of any sizes to features (n, F, d) float32; `params` replace the backbone's."""
        rows: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        p = self._prepare
        for image in images:
            waiting.append(scaled(image, p.image_size, shorter_side=p.shorter_side, filter=p.filter))
            if len(waiting) == self._backbone.batch_size:
                rows.append(self._run(waiting, params))
                waiting = []
        if waiting:
            rows.append(self._run(waiting, params))
        return np.concatenate(rows) if rows else np.zeros((0, 1, self._backbone.dim), np.float32)

    def _run(self, images: list[np.ndarray], params: Params | None) -> np.ndarray:
        """One batch, filled up with its last picture."""
        batch = np.stack(images + images[-1:] * (self._backbone.batch_size - len(images)))
        params = self._backbone.params if params is None else params
        return np.asarray(self._forward(params, self._prepare(batch)))[: len(images)]


class TextEncoder:
    """A text backbone behind its tokenizer; prepared once, then called as often as needed.

    Args:
      backbone: with its weights.
      max_tokens: longer captions are cut.
      first: the layer where the networks' own ones begin, whose states are wanted too; -1: token ids; None: none.
      frozen: whether anyone reads the frozen backbone's own words and sentences.

    Raises:
      UserError: the backbone takes no captions of that length.
    """

    def __init__(self, backbone: TextBackbone, *, max_tokens: int, first: int | None = None, frozen: bool = True):
        if backbone.max_tokens is not None and max_tokens > backbone.max_tokens:
            raise UserError(
                f"config.text.max_tokens={max_tokens} is more than the {backbone.max_tokens} that the backbone takes"
            )
        self._dim, self._frozen, self._first = backbone.dim, frozen, first
        self._tokenize = tokenizer(
            backbone.tokenizer, max_tokens=max_tokens, path=backbone.tokenizer_path, vocabulary=backbone.vocabulary
        )
        self._full = functools.partial(jax.jit(backbone.apply), backbone.params) if frozen else None
        self._states = None
        if first is not None and first >= 0:
            assert backbone.tunable is not None
            below, _ = backbone.tunable.cut(backbone.params, first)
            self._states = functools.partial(jax.jit(backbone.tunable.prefix), below)

    def __call__(self, texts: Sequence[str]) -> CaptionFeatures:
        """Maps m texts to sentences (m, d) float32, words float16, and states float16 (ids int32) if asked for.

        Words come without special tokens if there are no states, else with them, so that both have one layout.
        """
        tokens, dim = self._tokenize(texts), self._dim
        lengths = tokens.mask.sum(1)
        sentences = np.zeros((len(texts), dim), np.float32)
        words: list[np.ndarray] = [np.zeros((0, dim), np.float16)] * len(texts)
        states: list[np.ndarray] = list(words)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), TEXT_BATCH):
            rows = order[start : start + TEXT_BATCH]
            length = next(size for size in LENGTHS if size >= lengths[rows].max())
            ids, mask = (_fit(x[rows], TEXT_BATCH, length) for x in tokens)
            if self._full is not None:
                output = self._full(ids, mask)
                sentences[rows] = np.asarray(output.sentence)[: len(rows)]
                keep = np.asarray(output.mask) if self._first is None else mask
                for row, state, kept in zip(rows, np.asarray(output.words), keep, strict=False):
                    words[row] = state[kept].astype(np.float16)
            if self._states is not None:
                for row, state, kept in zip(rows, np.asarray(self._states(ids, mask)), mask, strict=False):
                    states[row] = state[kept].astype(np.float16)
            elif self._first is not None:
                for row, own, kept in zip(rows, ids, mask, strict=False):
                    states[row] = own[kept][:, None]
        marked = self._first is not None
        return CaptionFeatures(
            sentences, _ragged(words, dim, marked=marked), _ragged(states, dim, marked=True) if marked else None
        )


def _ragged(rows: list[np.ndarray], dim: int, *, marked: bool) -> Ragged:
    """Joins rows (L_i, d); `marked` ones begin and end with a special token."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    values = np.concatenate(rows) if rows else np.zeros((0, dim), np.float16)
    is_word = np.ones(len(values), bool)
    if marked and len(values):
        filled = np.diff(offsets) > 0
        is_word[offsets[:-1][filled]] = is_word[offsets[1:][filled] - 1] = False
    return Ragged(values=values, offsets=offsets, is_word=is_word)


def _fit(x: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Cuts or pads (n, L) with zeros to (rows, length)."""
    out = np.zeros((rows, length), x.dtype)
    cut = x[:, :length]
    out[: len(cut), : cut.shape[1]] = cut
    return out


def backbones(config: ConfigDict) -> tuple[TextBackbone, VisionBackbone]:
    """Loads the configured backbones with their weights."""
    text = text_backbone(config.text.backbone, config.text.path or None)
    v = config.vision
    return text, vision_backbone(v.backbone, _vision_path(config), image_size=v.image_size)


def text_encoder(config: ConfigDict, backbone: TextBackbone) -> TextEncoder:
    """The encoder that yields what the configured networks read.

    Raises:
      UserError: the backbone has not the layers that the configuration names, or takes no captions of that length.
    """
    check_text_layers(config, backbone)
    return TextEncoder(
        backbone, max_tokens=config.text.max_tokens, first=cut_layer(config), frozen=reads_frozen(config)
    )


def _vision_path(config: ConfigDict) -> str | None:
    """The weights file, or the features file of precomputed ones; None: the installed package's."""
    return (config.data.features if config.vision.backbone == "precomputed" else config.vision.path) or None


def _key(config: ConfigDict, built: Path, languages: tuple[str, ...]) -> str:
    """A hash of everything that the features depend on."""
    records = hashlib.sha256()
    for file in sorted(built.glob("*.tfrecord*")):
        records.update(weights_hash(file).encode())
    weights = [
        fingerprint("text", config.text.backbone, config.text.path or None),
        fingerprint("vision", config.vision.backbone, _vision_path(config)),
    ]
    v = config.vision
    inputs = [FORMAT, records.hexdigest(), weights, v.pool, v.image_size, config.text.max_tokens, languages]
    inputs += [cut_layer(config), reads_frozen(config)]
    inputs += [vision_first(config) is not None]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _compute(config: ConfigDict, builder, languages: dict[str, tuple[str, ...]], folder: Path) -> None:  # noqa: ANN001
    """Writes the features of all splits beside their final place, then gives them their name."""
    text, vision = backbones(config)
    encode_text = text_encoder(config, text)
    encode_images = ImageEncoder(vision, pool=config.vision.pool) if vision.preprocess is not None else None
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    builders.remove_stale(folder.parent, ".*.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    for split in SPLITS:
        # twice: pictures are never held, and a missing language is found before they are encoded
        records = [replace(record, image=None, feature=None) for record in builders.read_records(builder, split)]
        _check_languages(records, split, languages[split])
        pictures = builders.read_records(builder, split)
        hashed = vision_first(config) is not None  # what is trained reads the pictures themselves
        weights = fingerprint("vision", config.vision.backbone, _vision_path(config)) if hashed else ""
        vision = _hashes(pictures, weights) if hashed else _vision_features(pictures, encode_images)
        _write(temporary / split, records, languages[split], vision, encode_text)
    (temporary / "done.json").write_text(json.dumps({"languages": languages}))
    if folder.exists() and not (folder / "done.json").exists():
        shutil.rmtree(folder)  # what is left of one that was deleted or copied in part
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster with the same features
        shutil.rmtree(temporary, ignore_errors=True)


def _check_languages(records: list[Record], split: str, languages: tuple[str, ...]) -> None:
    there = sorted({caption.language for record in records for caption in record.captions})
    for language in languages:
        if language not in there:
            field = "evaluation.query='fused'" if "2" in language else "data"
            raise UserError(
                f"config.{field}: the {split} split has no caption in {language!r}; it has {', '.join(there)}"
            )


def _write(
    folder: Path,
    records: list[Record],
    languages: tuple[str, ...],
    vision: tuple[np.ndarray, np.ndarray],
    encode_text: TextEncoder,
) -> None:
    """Writes one split: arrays as .npy, so that they can be memory-mapped, and the rest as JSON."""
    captions = [
        (row, languages.index(caption.language), caption)
        for row, record in enumerate(records)
        for caption in record.captions
        if caption.language in languages
    ]
    text = encode_text([c.text for _, _, c in captions])
    ragged = {"words": text.words} | ({} if text.states is None else {"states": text.states})
    parts = {"values": "", "offsets": "_offsets", "is_word": "_real"}
    arrays = {
        "vision": vision[0],
        "frames": vision[1],
        "sentences": text.sentences,
        **{f"{name}{end}": getattr(x, part) for name, x in ragged.items() for part, end in parts.items()},
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


def _vision_features(records: Iterable[Record], encode_images: ImageEncoder | None) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F, d) of the records' pictures, or those that precomputed records bring (no encoder).

    With them the number of frames of each (n,) int32; the rest of its row is 0.
    """
    if encode_images is None:
        return padded_frames([record.feature for record in records if record.feature is not None])
    features = encode_images(decode(record.image) for record in records if record.image is not None)
    return features, np.full(len(features), features.shape[1], np.int32)


def _hashes(records: Iterable[Record], weights: str) -> tuple[np.ndarray, np.ndarray]:
    """SHA-256 (n, 1, 32) uint8 of pictures and weights, in the place of features: a resumed run sees other ones."""
    hashes = [hashlib.sha256(weights.encode() + (record.image or b"")).digest() for record in records]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 1, 32), np.ones(len(hashes), np.int32)


def padded_frames(features: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Joins features (F_i, d) to (n, F, d) float32, 0 where a row has fewer frames, and their numbers (n,) int32."""
    frames = np.array([len(feature) for feature in features], np.int32)
    joined = np.zeros((len(features), frames.max(), features[0].shape[1]), np.float32)
    for row, feature in zip(joined, features, strict=True):
        row[: len(feature)] = feature
    return joined, frames


def _read(folder: Path, split: str, languages: tuple[str, ...]) -> Corpus:
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in folder.glob("*.npy")}
    vision = arrays["vision"]

    def ragged(name: str) -> Ragged:
        offsets, is_word = (np.array(arrays[f"{name}_{part}"]) for part in ("offsets", "real"))
        return Ragged(values=arrays[name], offsets=offsets, is_word=is_word)

    return Corpus(
        name=split,
        languages=languages,
        image_ids=np.array(table["image_ids"]),
        groups=np.array(table["groups"]),
        paths=table["paths"],
        vision=vision,
        vision_mask=np.arange(vision.shape[1]) < np.asarray(arrays["frames"])[:, None],
        caption_text=table["caption_text"],
        caption_image=np.array(arrays["caption_image"]),
        caption_language=np.array(arrays["caption_language"]),
        caption_origin=np.array(table["caption_origin"]),
        sentences=arrays["sentences"],
        words=ragged("words"),
        states=ragged("states") if "states" in arrays else None,
    )


def feature_shape(config: ConfigDict, text: TextBackbone, vision: VisionBackbone) -> FeatureShape:
    """Sizes of the cached features, as the networks need them."""
    pools = config.vision.pool == "backbone" and vision.pooled
    dim, frames = (vision.pooled, 1) if pools else (vision.dim, vision.frames)
    return FeatureShape(text=text.dim, vision=dim, max_words=config.text.max_tokens, max_frames=frames)


def shape_of(config: ConfigDict, corpus: Corpus, vision: VisionBackbone | None = None) -> FeatureShape:
    """The same, read off cached features; those of pictures off their backbone, if it is trained."""
    _, frames, dim = corpus.vision.shape
    if vision is not None:
        frames, dim = (1, vision.pooled) if config.vision.pool == "backbone" else (vision.frames, vision.dim)
    return FeatureShape(corpus.sentences.shape[1], dim, config.text.max_tokens, frames)
