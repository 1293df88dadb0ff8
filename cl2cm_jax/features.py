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
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, reads_frozen, vision_first
from cl2cm_jax.data import builders, sets
from cl2cm_jax.data.clips import decode_clip
from cl2cm_jax.data.corpus import Corpus, Ragged, translation_tag
from cl2cm_jax.data.images import decode
from cl2cm_jax.data.records import Record
from cl2cm_jax.encoders import (
    ImageEncoder,
    TextEncoder,
    padded_frames,
    text_encoder,
)
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import VisionBackbone, fingerprint
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.pretrained import weights_hash

FORMAT = 4  # raise it when the files in a cache folder change
SPLITS = builders.SPLITS


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
    builders.prepare(builder, beam_runner=config.data.beam_runner, beam_options=config.data.beam_options)
    languages = {split: languages_of(config, split) for split in SPLITS}
    folder = Path(config.data.dir, "features", _key(config, Path(builder.data_dir), languages["test"]))
    if not (folder / "done.json").exists():
        logging.info("features: the frozen backbones run once over %s; later runs read %s", config.data.name, folder)
        _compute(config, builder, languages, folder)
        logging.info("features: computed in %.1f s", time.perf_counter() - start)
    else:
        logging.info("features: the backbones are frozen; their outputs are read from %s", folder)
    return read_cache(folder, languages)


def languages_of(config: ConfigDict, split: str) -> tuple[str, ...]:
    """The languages that are read of a split; translated queries ("de2en") belong to the evaluation splits alone."""
    d = config.data
    targets = (*d.targets, *d.reported)
    fused = split != "train" and config.evaluation.query == "fused"
    return (d.source, *targets, *(translation_tag(target, d.source) for target in targets if fused))


def _key(config: ConfigDict, built: Path, languages: tuple[str, ...]) -> str:
    """A hash of everything that the features depend on."""
    records = hashlib.sha256()
    for file in sorted(built.glob("*.tfrecord*")):
        records.update(weights_hash(file).encode())
    t, v = config.text, config.vision
    weights = [fingerprint("text", t.backbone, t.path or None)]
    if v.backbone != "precomputed":  # those are in the records
        weights.append(fingerprint("vision", v.backbone, v.path or None))
    inputs = [FORMAT, records.hexdigest(), weights, v.pool, v.image_size, t.max_tokens, t.lowercase, languages]
    inputs += [cut_layer(config), reads_frozen(config), config.data.frames, vision_first(config) is not None]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _compute(config: ConfigDict, builder, languages: dict[str, tuple[str, ...]], folder: Path) -> None:  # noqa: ANN001
    """Runs the backbones over all splits and keeps what they yield."""
    encode_text = text_encoder(config, configured_text(config))
    see = _sight(config)

    def write(split: str, place: Path) -> None:
        # twice: pictures are never held, and a missing language is found before they are encoded
        records = [
            replace(record, image=None, feature=None, frames=()) for record in builders.read_records(builder, split)
        ]
        builders.check_languages(records, split, languages[split])
        seen = see(builders.read_records(builder, split))
        write_split(place, records, languages[split], seen, encode_text)

    write_cache(folder, write, about={"languages": languages})


def write_cache(folder: Path, write: Callable[[str, Path], None], *, about: dict[str, Any]) -> None:
    """Writes the splits beside their final place, then gives them their name.

    Args:
      folder: the cache.
      write: (split, its folder) writes one split, with `write_split`.
      about: kept in done.json, which marks the cache as whole.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    builders.remove_stale(folder.parent, ".*.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    for split in SPLITS:
        write(split, temporary / split)
    (temporary / "done.json").write_text(json.dumps(about))
    if folder.exists() and not (folder / "done.json").exists():
        shutil.rmtree(folder)  # what is left of one that was deleted or copied in part
    try:
        temporary.rename(folder)
    except OSError:  # another process was faster with the same features
        shutil.rmtree(temporary, ignore_errors=True)


def read_cache(folder: Path, languages: dict[str, tuple[str, ...]]) -> Corpora:
    """Reads what `write_cache` wrote; `languages` by split.

    Raises:
      UserError: it is damaged.
    """
    try:
        return Corpora(*(_read_split(folder / split, split, languages[split]) for split in SPLITS))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}); delete it, it is made anew") from error


def write_split(
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


Sight = Callable[[Iterable[Record]], tuple[np.ndarray, np.ndarray]]


def _sight(config: ConfigDict) -> Sight:
    """What is kept of pictures: hashes of those that trained layers will read themselves, features of all others."""
    if vision_first(config) is not None:
        weights = fingerprint("vision", config.vision.backbone, config.vision.path or None)
        return lambda records: _hashes(records, weights)
    vision = configured_vision(config)
    encode_images = ImageEncoder(vision, pool=config.vision.pool) if vision is not None else None
    return lambda records: _vision_features(records, encode_images, config.data.frames)


def _vision_features(
    records: Iterable[Record], encode_images: ImageEncoder | None, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F, d) of the records' pictures or clips, or those that precomputed records bring (no encoder).

    With them the number of frames of each (n,) int32; the rest of its row is 0. Of clips, F is `frames`.
    """
    if encode_images is None:
        return padded_frames([record.feature for record in records if record.feature is not None])
    if frames > 1:
        clips = (decode_clip(record.files, most=frames) for record in records)
        return padded_frames(encode_images.clips(clips), least=frames)
    features = encode_images(decode(record.image) for record in records if record.image is not None)
    return features, np.full(len(features), features.shape[1], np.int32)


def _hashes(records: Iterable[Record], weights: str) -> tuple[np.ndarray, np.ndarray]:
    """SHA-256 (n, 1, 32) uint8 of pictures and weights, in the place of features: a resumed run sees other ones."""
    hashes = [hashlib.sha256(weights.encode() + (record.image or b"")).digest() for record in records]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 1, 32), np.ones(len(hashes), np.int32)


def _read_split(folder: Path, split: str, languages: tuple[str, ...]) -> Corpus:
    """Reads what `write_split` wrote, large arrays memory-mapped."""
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


def shape_of(config: ConfigDict, corpora: Corpora, vision: VisionBackbone | None = None) -> FeatureShape:
    """Sizes of the cached features, as the networks need them; of pictures off their backbone, if it is trained.

    The longest clip may be in any split.
    """
    train, frames = corpora.train, max(corpus.vision.shape[1] for corpus in corpora)
    dim = train.vision.shape[2]
    if vision is not None:
        frames, dim = (1, vision.pooled) if config.vision.pool == "backbone" else (vision.frames, vision.dim)
    return FeatureShape(train.sentences.shape[1], dim, config.text.max_tokens, frames)
