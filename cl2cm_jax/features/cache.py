"""The cached outputs of the frozen backbones for a data set, which every run of a configuration reads.

A cache folder is named by a hash of its inputs (the built records, the weights, the options): a change of any of them
makes a new one, and an unchanged run reads it at once. An interrupted computation resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, has_vision_backbone, reads_frozen, vision_first
from cl2cm_jax.data import sets
from cl2cm_jax.data.caption_sets import check_languages
from cl2cm_jax.data.captions import SPLITS, Caption, by_image
from cl2cm_jax.data.corpus import Corpus, Ragged, evaluated_on, trained_on, translation_tag
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import reuse
from cl2cm_jax.features.caption_counts import (
    CAPTION_COUNTS,
    CaptionCounts,
    count_captions,
    lost_captions,
    spelt_captions,
)
from cl2cm_jax.features.encoders import CAPTIONS, TextEncoder, text_encoder
from cl2cm_jax.features.picture_encoder import picture_encoder
from cl2cm_jax.features.picture_places import in_place, relative
from cl2cm_jax.models import configured
from cl2cm_jax.models.backbone import VisionBackbone
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.checksums import add_checksums, has_checksums, verify_checksums, write_checksums
from cl2cm_jax.runtime.storage import OnDisk, exclusive

if TYPE_CHECKING:
    from cl2cm_jax.data.stored_sets import StoredSet

FORMAT = 4  # raise it when the files in a cache folder change
DECODING = 2  # of pictures into pixels; raise it when they change
VISION = "vision"  # the job of filling arrays with the features of pictures
_ABANDONED = 7 * 86400.0  # seconds after which unfinished features are removed


class Corpora(NamedTuple):
    """The three splits of a data set."""

    train: Corpus
    validation: Corpus
    test: Corpus


def corpora(config: ConfigDict) -> Corpora:
    """The captions and pictures that a run reads; builds the data set and its features where they do not exist.

    Raises:
      UserError: an input is wrong or missing, or the data set lacks a language, or captions of the requested origin.
    """
    return chosen(all_corpora(config), config)


def chosen(found: Corpora, config: ConfigDict) -> Corpora:
    """The captions that a run reads, see `cl2cm_jax.data.corpus`; the arrays are shared.

    Raises:
      UserError: a target language has no caption of the requested origin.
    """
    d = config.data
    targets = (*d.targets, *d.reported)
    return Corpora(
        trained_on(found.train, origin=d.train_origin, targets=targets, share=d.train_share),
        evaluated_on(found.validation, targets=targets),
        evaluated_on(found.test, targets=targets),
    )


def all_corpora(config: ConfigDict) -> Corpora:
    """As `corpora`, with the captions of all origins, for runs that differ in the choice of them.

    Raises:
      UserError: an input is wrong or missing, or the data set lacks a language.
    """
    start = time.perf_counter()
    configured.check_trained_backbones(config)
    configured.load_libraries(config)  # before TensorFlow
    from cl2cm_jax.data.stored_sets import content_hashes, picture_root, prepare  # slow to import

    try:
        Path(config.data.dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"config.data.dir={config.data.dir!r} cannot be made ({error.strerror}); name another"
        ) from error
    stored = sets.stored_set(config.data)
    prepare(stored, beam_runner=config.data.beam_runner, beam_options=config.data.beam_options)
    languages = {split: languages_of(config, split) for split in SPLITS}
    folder = _folder(config, stored, languages["test"])
    if not (folder / "done.json").exists():
        logging.info("features: the frozen backbones run once over %s; later runs read %s", config.data.name, folder)
        _compute(config, stored, languages, folder)
        logging.info("features: computed in %.1f s", time.perf_counter() - start)
    else:
        logging.info("features: the backbones are frozen; their outputs are read from %s", folder)
    for line in lost_captions(folder, max_tokens=config.text.max_tokens, backbone=config.text.backbone):
        logging.warning("%s", line)
    for level, line in configured.prompt_notes(config):
        logging.log(level, "%s", line)
    root, contents = picture_root(stored), content_hashes(stored)
    return Corpora(*(in_place(corpus, root, contents[corpus.name]) for corpus in read_cache(folder, languages)))


def languages_of(config: ConfigDict, split: str) -> tuple[str, ...]:
    """The languages that are read of a split; translated queries ("de2en") are in the evaluation splits alone."""
    d = config.data
    targets = (*d.targets, *d.reported)
    fused = split != "train" and config.evaluation.query == "fused"
    return (d.source, *targets, *(translation_tag(target, d.source) for target in targets if fused))


def stored_captions(config: ConfigDict, splits: Sequence[str] = SPLITS) -> dict[str, list[Caption]]:
    """The captions of a set that is built already, in the order of the images of `corpora`."""
    from cl2cm_jax.data.stored_sets import read_captions

    stored = sets.stored_set(config.data)
    return {split: read_captions(stored, split)[0] for split in splits}


def concepts(config: ConfigDict, splits: Sequence[str] = SPLITS) -> dict[str, list[str]]:
    """The concept of every image by split, in the order of `corpora`."""
    captions = stored_captions(config, splits)
    return {split: [own[0].concept for own in by_image(rows).values()] for split, rows in captions.items()}


def _folder(config: ConfigDict, stored: StoredSet, languages: tuple[str, ...]) -> Path:
    """Where the features are; those made before large pictures were decoded smaller (`DECODING`) stay valid."""
    before, now = (
        Path(config.data.dir, "features", _key(config, stored, languages, decoding=decoding))
        for decoding in (1, DECODING)
    )
    return before if (before / "done.json").exists() else now


def _key(config: ConfigDict, stored: StoredSet | None, languages: tuple[str, ...], *, decoding: int) -> str:
    """A hash of everything that the features depend on; without a set, of the encoders alone."""
    from cl2cm_jax.data.stored_sets import records_hash

    t, v = config.text, config.vision
    weights = [configured.fingerprint("text", t.backbone, t.path or None)]
    if has_vision_backbone(config):  # precomputed features are in the records
        weights.append(configured.fingerprint("vision", v.backbone, v.path or None))
    records = stored and records_hash(stored)
    inputs = [FORMAT, records, weights, v.pool, v.image_size, t.max_tokens, t.lowercase, languages]
    inputs += [cut_layer(config), reads_frozen(config), config.data.frames, vision_first(config) is not None]
    inputs += [prompt] if (prompt := configured.text_prompt(config)) else []  # caches made before it stay valid
    inputs += [["decoding", decoding]] if decoding > 1 and has_vision_backbone(config) else []
    inputs += ["digests"] if stored and vision_first(config) is not None else []  # once hashed with the weights
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def _compute(config: ConfigDict, stored: StoredSet, languages: dict[str, tuple[str, ...]], folder: Path) -> None:
    """Runs the backbones over all splits and keeps their outputs."""
    from cl2cm_jax.data.stored_sets import check_records, picture_root, read_captions, read_pictures

    check_records(stored)
    encoders = f"{_key(config, None, (), decoding=DECODING)} of {config.data.name}"
    earlier = reuse.earlier(folder.parent, encoders, read=read_splits)
    encode_text = text_encoder(config, configured.configured_text_reader(config), known=earlier.captions)
    encode_pictures, limit = picture_encoder(config)
    is_encoded = has_vision_backbone(config) and vision_first(config) is None
    read = {split: read_captions(stored, split) for split in SPLITS}
    for split in SPLITS:  # a missing language is found before any picture is encoded
        check_languages(read[split][0], split, languages[split])

    def write(split: str, place: Path) -> CaptionCounts:
        captions, frames = read[split]
        rows = [relative(row, picture_root(stored)) for row in captions]
        digests = [picture.digest for picture in read_pictures(stored, split)] if is_encoded else []

        def from_image(start: int) -> Iterator[np.ndarray]:
            pictures = itertools.islice(read_pictures(stored, split), start, None)
            return reuse.picture_features(pictures, digests[start:], earlier.pictures, encode_pictures)

        if is_encoded:
            reuse.save_digests(place, digests)
        return write_split(place, rows, languages[split], VisionFeatures(from_image, max(limit, frames)), encode_text)

    write_cache(folder, write, about={"languages": languages, "encoders": encoders}, earlier=earlier.folder)


def write_cache(
    folder: Path,
    write: Callable[[str, Path], CaptionCounts],
    *,
    about: dict[str, Any],
    splits: Sequence[str] = SPLITS,
    earlier: Path | None = None,
) -> None:
    """Writes the splits into a temporary folder and renames it; one process at a time.

    The work of a killed process is kept, and the next one resumes it.

    Args:
      folder: the cache.
      write: (split, its folder) writes one split, with `write_split`, and returns its counts.
      about: kept with the counts in done.json, which marks the cache as complete.
      splits: those that it holds.
      earlier: a cache whose files it may share.
    """
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        if (folder / "done.json").exists():
            return  # another process made it meanwhile
        temporary = folder.with_name(f".{folder.name}.partial")
        _remove_abandoned(path for path in folder.parent.glob(".*.partial") if path != temporary)
        counts = {}
        for split in splits:
            counts[split] = {name: dict(count) for name, count in write(split, temporary / split)._asdict().items()}
            os.utime(temporary)  # not abandoned
        write_text(temporary / "done.json", json.dumps(about | {CAPTION_COUNTS: counts}))
        write_checksums(temporary)
        if earlier:
            reuse.share(temporary, earlier)
        shutil.rmtree(folder, ignore_errors=True)  # remains of one that was deleted or copied in part
        temporary.rename(folder)


def _remove_abandoned(unfinished: Iterable[Path]) -> None:
    """Removes unfinished features that are old and that no process is computing, whatever the clock says."""
    for folder in unfinished:
        if time.time() - folder.stat().st_mtime > _ABANDONED:
            with contextlib.suppress(UserError), exclusive(folder.with_suffix(".lock"), busy=f"{folder} is in use"):
                shutil.rmtree(folder, ignore_errors=True)


def read_cache(folder: Path, languages: dict[str, tuple[str, ...]]) -> Corpora:
    """Reads what `write_cache` wrote; `languages` by split.

    Raises:
      UserError: it is damaged.
    """
    read = read_splits(folder, languages)
    return Corpora(*(read[split] for split in SPLITS))


def read_splits(folder: Path, languages: dict[str, tuple[str, ...]]) -> dict[str, Corpus]:
    """As `read_cache`, of a cache that holds the splits that `languages` names.

    Every file is read once and compared with its checksum; those that are mapped are then in the system's cache.

    Raises:
      UserError: it is damaged.
    """
    if not has_checksums(folder):
        add_checksums(folder)
    try:
        verify_checksums(folder)
        return {split: _read_split(folder / split, split, languages[split]) for split in languages}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} is damaged ({type(error).__name__}: {error}); delete it, and it is computed again"
        ) from error


class VisionFeatures(NamedTuple):
    """The vision features of n pictures or clips, one after the other.

    Attributes:
      from_image: (start) -> features (F_i, d) of the images from number `start` on, all of one dtype.
      frames: F, the largest F_i.
    """

    from_image: Callable[[int], Iterator[np.ndarray]]
    frames: int


def write_split(
    folder: Path, rows: Iterable[Caption], languages: tuple[str, ...], vision: VisionFeatures, encode_text: TextEncoder
) -> CaptionCounts:
    """Writes one split: arrays as .npy, so that they can be memory-mapped, and the rest as JSON; resumes.

    Returns what the text backbone does not read.

    Args:
      folder: of the split.
      rows: its captions; those in other languages than `languages` are left out, their images are not.
      languages: of the captions that are encoded.
      vision: the features of its images.
      encode_text: the text backbone.
    """
    images = by_image(rows)
    captions = [
        (number, languages.index(row.language), row)
        for number, own in enumerate(images.values())
        for row in own
        if row.language in languages
    ]
    total = {CAPTIONS: len(captions), VISION: len(images)}

    def on_progress(job: str, count: int) -> None:
        logging.info("features: %s, %s: %s of %s", folder.name, job, f"{count:,}", f"{total[job]:,}")

    space = OnDisk(folder, on_progress=on_progress)
    texts = [row.caption for _, _, row in captions]
    tokens = encode_text.tokens(texts)
    text = encode_text(texts, space, tokens=tokens)
    _write_vision(space, vision, len(images), folder)
    ragged = {"words": text.words} | ({} if text.states is None else {"states": text.states})
    parts = {"offsets": "_offsets", "is_word": "_real"}
    arrays = {
        **{f"{name}{end}": getattr(x, part) for name, x in ragged.items() for part, end in parts.items()},
        "caption_image": np.array([number for number, _, _ in captions], np.int32),
        "caption_language": np.array([language for _, language, _ in captions], np.int32),
    }
    for name, array in arrays.items():
        space.array(name, array.shape, array.dtype, job="what belongs to what")[...] = array
    space.flush()
    first = [own[0] for own in images.values()]
    table = {
        "image_ids": [row.image for row in first],
        "groups": [row.group for row in first],
        "paths": [row.picture for row in first],
        "caption_text": [row.caption for _, _, row in captions],
        "caption_origin": [row.origin for _, _, row in captions],
    }
    write_text(folder / "table.json", json.dumps(table, ensure_ascii=False))
    others = [row.language for own in images.values() for row in own if row.language not in languages]
    read, losses = [row.language for _, _, row in captions], encode_text.losses(texts, tokens)
    return count_captions(read, losses, left_out=others, spelt=spelt_captions(encode_text, read, texts))


def _write_vision(space: OnDisk, vision: VisionFeatures, count: int, folder: Path) -> None:
    """Fills the features (n, F, d) of `count` pictures, 0 after the last frame of each, and their frames (n,)."""

    def written(start: int, stop: int) -> list[np.ndarray]:
        files = (folder / f"{name}.npy" for name in ("vision", "frames"))
        return [np.load(file, mmap_mode="r", allow_pickle=False)[start:stop] for file in files]

    start = space.done(VISION, written)
    if start == count:
        return
    rows = vision.from_image(start)
    first = next(rows)
    features = space.array("vision", (count, vision.frames, first.shape[1]), first.dtype, job=VISION)
    frames = space.array("frames", (count,), np.int32, job=VISION)
    for place, row in enumerate(itertools.chain([first], rows), start):
        features[place, : len(row)], features[place, len(row) :], frames[place] = row, 0, len(row)
        space.reached(VISION, place + 1)


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
    """Sizes of the cached features, as the networks need them; of the backbone's outputs, if it is trained.

    The longest clip may be in any split.
    """
    train, frames = corpora.train, max(corpus.vision.shape[1] for corpus in corpora)
    dim = train.vision.shape[2]
    if vision is not None:
        frames, dim = (1, vision.pooled) if config.vision.pool == "backbone" else (vision.frames, vision.dim)
    text, words = train.sentences.shape[1], train.words.values.shape[1]
    return FeatureShape(text, dim, config.text.max_tokens, frames, words if words != text else 0)
