"""Frozen work is done once: backbones run over a data set and their outputs are kept on disk.

cl2cm features --config=configs/emoji.py [--config.data.dir=... ...]

Every command computes the features that it lacks; this one does nothing else, for a machine that is good at it or for a
night. It uses all devices of the machine, and a stopped one goes on where it was.

A cache folder is named by a hash of what went in (the built records, the weights, the options), so a change of any of
them makes a new one and an unchanged run reads it in no time.

Source: ours.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, has_vision_backbone, read, reads_frozen, vision_first
from cl2cm_jax.data import builders, origins, sets
from cl2cm_jax.data.corpus import Corpus, Ragged, translation_tag
from cl2cm_jax.data.media.clips import decode_clip
from cl2cm_jax.data.media.images import decode
from cl2cm_jax.data.records import SPLITS, Record
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import CAPTIONS, ImageEncoder, TextEncoder, text_encoder
from cl2cm_jax.models.backbone import VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision, fingerprint
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.pretrained import weights_hash
from cl2cm_jax.models.trained_layers import check_vision_layers
from cl2cm_jax.runtime.command_line import Arguments, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.runtime.storage import OnDisk, exclusive

FORMAT = 4  # raise it when the files in a cache folder change
VISION = "vision"  # the job of filling arrays with the features of pictures
_ABANDONED = 7 * 86400.0  # seconds; features that nobody went on with for a week are removed


class Corpora(NamedTuple):
    """The three splits of a data set."""

    train: Corpus
    validation: Corpus
    test: Corpus


def corpora(config: ConfigDict) -> Corpora:
    """The captions and pictures that a run reads; builds the data set and its features where they are not there yet.

    Raises:
      UserError: an input is wrong or missing, or the data set lacks a language, or captions of the asked origin.
    """
    return chosen(all_corpora(config), config)


def chosen(found: Corpora, config: ConfigDict) -> Corpora:
    """What a run reads of all captions, see `cl2cm_jax.data.origins`; the arrays are shared.

    Raises:
      UserError: a target language has no caption of the asked origin.
    """
    d = config.data
    targets = (*d.targets, *d.reported)
    return Corpora(
        origins.trained_on(found.train, origin=d.train_origin, targets=targets, share=d.train_share),
        origins.evaluated_on(found.validation, targets=targets),
        origins.evaluated_on(found.test, targets=targets),
    )


def all_corpora(config: ConfigDict) -> Corpora:
    """As `corpora`, with the captions of all origins: runs that differ in the choice alone read them once.

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


def concepts(config: ConfigDict, splits: Sequence[str] = SPLITS) -> dict[str, list[str]]:
    """The concept of every picture by split, in the order of `corpora`, as the builder of the set says."""
    builder = sets.builder(config.data)
    return {split: [record.concept for record in builders.read_records(builder, split)] for split in splits}


def _key(config: ConfigDict, built: Path, languages: tuple[str, ...]) -> str:
    """A hash of everything that the features depend on."""
    records = hashlib.sha256()
    for file in sorted(built.glob("*.tfrecord*")):
        records.update(weights_hash(file).encode())
    t, v = config.text, config.vision
    weights = [fingerprint("text", t.backbone, t.path or None)]
    if has_vision_backbone(config):  # precomputed features are in the records
        weights.append(fingerprint("vision", v.backbone, v.path or None))
    inputs = [FORMAT, records.hexdigest(), weights, v.pool, v.image_size, t.max_tokens, t.lowercase, languages]
    inputs += [cut_layer(config), reads_frozen(config), config.data.frames, vision_first(config) is not None]
    inputs += [t.prefix] if t.prefix else []  # caches made before it stay valid
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _compute(config: ConfigDict, builder, languages: dict[str, tuple[str, ...]], folder: Path) -> None:  # noqa: ANN001
    """Runs the backbones over all splits and keeps what they yield."""
    encode_text = text_encoder(config, configured_text(config))
    see = _sight(config)

    read = {split: _without_pictures(builder, split) for split in SPLITS}
    for split in SPLITS:  # a missing language is found before any picture is encoded
        builders.check_languages(read[split][0], split, languages[split])

    def write(split: str, place: Path) -> None:
        records, frames = read[split]

        def seen(start: int) -> Iterator[np.ndarray]:
            return see.each(itertools.islice(builders.read_records(builder, split), start, None))

        write_split(place, records, languages[split], Vision(seen, max(see.frames, frames)), encode_text)

    write_cache(folder, write, about={"languages": languages})


def _without_pictures(builder, split: str) -> tuple[list[Record], int]:  # noqa: ANN001
    """The records of a split, whose pictures are read again one by one, and the most frames of a feature (0: none)."""
    records, frames = [], 0
    for record in builders.read_records(builder, split):
        frames = max(frames, 0 if record.feature is None else len(record.feature))
        records.append(replace(record, image=None, feature=None, frames=()))
    return records, frames


def write_cache(
    folder: Path, write: Callable[[str, Path], None], *, about: dict[str, Any], splits: Sequence[str] = SPLITS
) -> None:
    """Writes the splits beside their final place, then gives them their name; one process at a time.

    A killed process leaves what it has done, and the next one goes on there.

    Args:
      folder: the cache.
      write: (split, its folder) writes one split, with `write_split`.
      about: kept in done.json, which marks the cache as whole.
      splits: those that it holds.
    """
    builders.remove_stale(folder.parent, ".*.partial", seconds=_ABANDONED)
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        if (folder / "done.json").exists():
            return  # another process was at it
        temporary = folder.with_name(f".{folder.name}.partial")
        for split in splits:
            write(split, temporary / split)
            os.utime(temporary)  # not abandoned
        (temporary / "done.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)  # what is left of one that was deleted or copied in part
        temporary.rename(folder)


def read_cache(folder: Path, languages: dict[str, tuple[str, ...]]) -> Corpora:
    """Reads what `write_cache` wrote; `languages` by split.

    Raises:
      UserError: it is damaged.
    """
    read = read_splits(folder, languages)
    return Corpora(*(read[split] for split in SPLITS))


def read_splits(folder: Path, languages: dict[str, tuple[str, ...]]) -> dict[str, Corpus]:
    """As `read_cache`, of a cache that holds the splits that `languages` names.

    Raises:
      UserError: it is damaged.
    """
    try:
        return {split: _read_split(folder / split, split, languages[split]) for split in languages}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}); delete it, it is made anew") from error


class Vision(NamedTuple):
    """The vision features of n pictures or clips, one after the other.

    Attributes:
      each: (start) -> features (F_i, d) of the pictures from row `start` on, all of one dtype.
      frames: F, the most that one has.
    """

    each: Callable[[int], Iterator[np.ndarray]]
    frames: int


def write_split(
    folder: Path, records: list[Record], languages: tuple[str, ...], vision: Vision, encode_text: TextEncoder
) -> None:
    """Writes one split: arrays as .npy, so that they can be memory-mapped, and the rest as JSON.

    What an earlier call for the same split has done before it was killed is not done again.
    """
    captions = [
        (row, languages.index(caption.language), caption)
        for row, record in enumerate(records)
        for caption in record.captions
        if caption.language in languages
    ]
    total = {CAPTIONS: len(captions), VISION: len(records)}

    def told(job: str, count: int) -> None:
        logging.info("features: %s, %s: %s of %s", folder.name, job, f"{count:,}", f"{total[job]:,}")

    space = OnDisk(folder, told=told)
    text = encode_text([c.text for _, _, c in captions], space)
    _write_vision(space, vision, len(records))
    ragged = {"words": text.words} | ({} if text.states is None else {"states": text.states})
    parts = {"offsets": "_offsets", "is_word": "_real"}
    arrays = {
        **{f"{name}{end}": getattr(x, part) for name, x in ragged.items() for part, end in parts.items()},
        "caption_image": np.array([row for row, _, _ in captions], np.int32),
        "caption_language": np.array([language for _, language, _ in captions], np.int32),
    }
    for name, array in arrays.items():
        space.array(name, array.shape, array.dtype, job="what belongs to what")[...] = array
    space.flush()
    table = {
        "image_ids": [record.image_id for record in records],
        "groups": [record.group for record in records],
        "paths": [record.path for record in records],
        "caption_text": [caption.text for _, _, caption in captions],
        "caption_origin": [caption.origin for _, _, caption in captions],
    }
    (folder / "table.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def _write_vision(space: OnDisk, vision: Vision, count: int) -> None:
    """Fills the features (n, F, d) of `count` pictures, 0 behind the last frame of each, and their numbers (n,)."""
    start = space.done(VISION)
    if start == count:
        return
    rows = vision.each(start)
    first = next(rows)
    features = space.array("vision", (count, vision.frames, first.shape[1]), first.dtype, job=VISION)
    frames = space.array("frames", (count,), np.int32, job=VISION)
    for place, row in enumerate(itertools.chain([first], rows), start):
        features[place, : len(row)], frames[place] = row, len(row)
        space.reached(VISION, place + 1)


class Sight(NamedTuple):
    """What is kept of pictures.

    Attributes:
      each: records -> features (F_i, d) of each.
      frames: the most that a picture or clip has; features that records bring may have more.
    """

    each: Callable[[Iterable[Record]], Iterator[np.ndarray]]
    frames: int


def _sight(config: ConfigDict) -> Sight:
    """Hashes of pictures that trained layers will read themselves, features of all others."""
    if vision_first(config) is not None:
        check_vision_layers(config)
        weights = fingerprint("vision", config.vision.backbone, config.vision.path or None)
        return Sight(lambda records: (_hash(record, weights) for record in records), frames=1)
    vision, frames = configured_vision(config), config.data.frames
    if vision is None:
        return Sight(lambda records: (record.feature for record in records if record.feature is not None), frames=0)
    encode = ImageEncoder(vision, pool=config.vision.pool)
    if frames > 1:
        return Sight(
            lambda records: encode.clips(decode_clip(r.files, most=frames) for r in records), frames * encode.frames
        )
    return Sight(lambda records: encode.each(decode(r.image) for r in records if r.image is not None), encode.frames)


def _hash(record: Record, weights: str) -> np.ndarray:
    """SHA-256 (1, 32) uint8 of picture and weights, in the place of features: a resumed run sees other ones."""
    return np.frombuffer(hashlib.sha256(weights.encode() + (record.image or b"")).digest(), np.uint8)[None]


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


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes."""
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(prog="cl2cm features", description=__doc__)
    parser.add_argument("--config", required=True, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    return parser.parse_args(rest), overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Computes what is missing and says what is there."""
    start = time.perf_counter()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("absl", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = read(options.config, overrides)
    start_jax(Path(config.data.dir))
    for corpus in all_corpora(config):
        frames, dim = corpus.vision.shape[1:]
        captions = f"{len(corpus.caption_text):,} captions in {', '.join(corpus.languages)}"
        print(f"{corpus.name}: {len(corpus.image_ids):,} x {frames} x {dim} vision features, {captions}")
    print(f"seconds: {time.perf_counter() - start:.0f}; the runs of this configuration find them in {config.data.dir}")
