"""The gallery of a folder of pictures, with a cache of vectors: one changed picture costs one picture.

Also the options that name the folder, and the model with the gallery that it searches.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery, load_gallery, training_gallery
from cl2cm_jax.models.hub_folder import is_hub_id
from cl2cm_jax.models.pretrained import read_npz
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.runtime.file_hashes import user_cache
from cl2cm_jax.runtime.progress import CountReport
from cl2cm_jax.search.scan import Item, embed, scan
from cl2cm_jax.trained.bundle_layout import MANIFEST
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.model import TrainedModel

AT_ONCE = 16  # pictures or clips per call of the encoder
SAVE_SECONDS = 3.0  # between two writes of the cache, and ten times what writing takes; a kill loses so much
KEPT_ABSENT = 10_000  # pictures that are not there whose vectors are kept; or as many as are there
KEPT = 16  # caches, one for each folder and model; the ones used last

Stamp = tuple[int, int, int]  # bytes, modification time in nanoseconds and number of the files of a picture
Row = tuple[Stamp, np.ndarray | str]  # the vector (D,) float32 of a picture, or why it cannot be read
Rows = dict[str, Row]  # by path inside the folder

log = logging.getLogger(__name__)


def folder_gallery(folder: Path, encoder: Encoder, *, cache: Path, exclude: Sequence[str] = ()) -> Gallery:
    """The pictures of a folder and its subfolders; those that are not in the folder `cache`, as they are, are embedded.

    Pictures that cannot be read are left out, with a warning. Ids are the paths inside the folder. Progress is shown on
    standard error.

    Raises:
        UserError: see `scan`; or none of the pictures can be read.
    """
    found = scan(folder, frames=encoder.frames, exclude=exclude)
    file = cache / f"images-{_name(folder, encoder.weights)}.npz"
    stamps = {item.path: _stamp(item) for item in found.items}
    known = _load(file, encoder.weights) or _load_other(folder, found.items, stamps, encoder, cache)
    rows = {path: row for path, row in known.items() if row[0] == stamps.get(path)}
    absent = {path: row for path, row in known.items() if path not in stamps and not found.leaves_out(path)}
    rows |= absent if len(absent) <= max(len(stamps), KEPT_ABSENT) else {}  # with a disk that is away
    todo = [item for item in found.items if item.path not in rows]
    if todo or len(rows) != len(known) or not file.exists():  # known from the cache of a former name
        try:
            _embed(todo, encoder, rows, stamps, save=lambda: _save(file, encoder.weights, rows))
        finally:
            _save(file, encoder.weights, rows)
    with contextlib.suppress(OSError):
        os.utime(file)
    _remove_oldest(cache)
    for path, (_, content) in rows.items():
        if isinstance(content, str) and path in stamps:
            found.skip(path, content)
    found.warn()
    return _gallery(folder, found.items, rows, encoder.weights)


def _embed(
    items: Sequence[Item], encoder: Encoder, rows: Rows, stamps: Mapping[str, Stamp], *, save: Callable[[], None]
) -> None:
    """Adds the rows of these pictures; saves now and then, so that an interrupted run is resumed."""
    saved, cost = time.monotonic(), 0.0
    with CountReport("embedded") as report:
        for start in range(0, len(items), AT_ONCE):
            batch = items[start : start + AT_ONCE]
            unread: dict[str, str] = {}
            made = embed(encoder, {item.path: item.sources for item in batch}, unread)
            rows |= {path: (stamps[path], content) for path, content in (made | unread).items()}
            report(start + len(batch), len(items))
            if (began := time.monotonic()) - saved >= max(SAVE_SECONDS, 10 * cost):
                save()
                saved = time.monotonic()
                cost = saved - began


def _gallery(folder: Path, items: Sequence[Item], rows: Rows, weights: str) -> Gallery:
    vectors = {item.path: row for item in items if not isinstance(row := rows[item.path][1], str)}
    if not vectors:
        raise UserError(f"--images={folder}: none of its {len(items)} pictures can be read; see the warnings above")
    return Gallery(
        embeddings=np.stack(list(vectors.values())),
        ids=tuple(vectors),
        captions=("",) * len(vectors),
        paths=tuple(str(folder / path) for path in vectors),
        weights=weights,
    )


def _name(folder: Path, weights: str) -> str:
    return hashlib.sha256(json.dumps([weights, str(folder.resolve())]).encode()).hexdigest()[:24]


def _stamp(item: Item) -> Stamp:
    return item.size, item.mtime, len(item.files)


def _save(file: Path, weights: str, rows: Rows) -> None:
    """Writes the cache; one that cannot be written costs time, not the answer."""
    vectors = {path: (stamp, row) for path, (stamp, row) in rows.items() if not isinstance(row, str)}
    texts = {
        "weights": weights,
        "pictures": [[path, *stamp] for path, (stamp, _) in vectors.items()],
        "unread": [[path, row, *stamp] for path, (stamp, row) in rows.items() if isinstance(row, str)],
    }
    matrix = np.stack([row for _, row in vectors.values()]) if vectors else np.zeros((0, 1))
    try:
        with replacing(file) as temporary, temporary.open("wb") as out:
            encoded = np.frombuffer(json.dumps(texts).encode(), np.uint8)
            np.savez(out, embeddings=matrix.astype(np.float32), texts=encoded)
    except OSError as error:
        log.warning("the vectors of the folder are not cached: %s", error)


def _load(file: Path, weights: str) -> Rows:
    """What `_save` wrote; nothing if there is none, it is damaged (a zip file has checksums), or of another model."""
    try:
        arrays = read_npz(file)
        texts: dict[str, Any] = json.loads(arrays["texts"].tobytes())
        if texts["weights"] != weights:
            return {}
        vectors = zip(texts["pictures"], arrays["embeddings"], strict=True)
        rows: Rows = {path: ((size, time, files), vector) for (path, size, time, files), vector in vectors}
        return rows | {path: ((size, time, files), reason) for path, reason, size, time, files in texts["unread"]}
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return {}


def _load_other(
    folder: Path, items: Sequence[Item], stamps: Mapping[str, Stamp], encoder: Encoder, cache: Path
) -> Rows:
    """The rows of a folder under its former name, which is known by most of its pictures, or of an earlier version."""
    for file in _caches(cache):
        rows = _load(file, encoder.weights)
        if 2 * sum(row[0] == stamps.get(path) for path, row in rows.items()) > len(items):
            return rows
    try:
        gallery = load_gallery(cache / f"images-{_old_name(folder, items, encoder.weights)}.npz")
    except (UserError, OSError):
        return {}
    rows = zip(gallery.ids, gallery.embeddings, strict=True)
    return {path: (stamps[path], vector) for path, vector in rows if path in stamps}


def _old_name(folder: Path, items: Sequence[Item], weights: str) -> str:
    """Of version 0.1.0: it changes with the weights and with any picture's path, size or time."""
    files = [(file.relative_to(folder).as_posix(), file.stat()) for item in items for file in item.files]
    content = [(path, about.st_size, about.st_mtime_ns) for path, about in files]
    return hashlib.sha256(json.dumps([weights, content]).encode()).hexdigest()[:24]


def _caches(cache: Path) -> list[Path]:
    """The cache files of all folders and models, the one used last first."""
    times: list[tuple[float, Path]] = []
    for file in cache.glob("images-*.npz") if cache.is_dir() else ():
        with contextlib.suppress(OSError):
            times.append((file.stat().st_mtime, file))
    return [file for _, file in sorted(times, reverse=True)]


def _remove_oldest(cache: Path) -> None:
    for file in _caches(cache)[KEPT:]:
        with contextlib.suppress(OSError):
            file.unlink()


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """Adds --images, the folder that is searched instead of the gallery of the training run, and --exclude."""
    help = "search this folder of pictures; default: the workdir's gallery"
    parser.add_argument("--images", type=Path, metavar="DIR", help=help)
    add_exclude_option(parser)


def add_exclude_option(parser: argparse.ArgumentParser) -> None:
    """Adds --exclude, patterns of what is left out of --images."""
    help = "leave out files and folders of --images by name or path, such as 'private' or 'raw/*'; repeatable"
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help=help)


def own_gallery(model: str) -> Gallery:
    """The gallery of a workdir.

    Raises:
      UserError: the model is not a workdir, or its training has not finished.
    """
    if not _may_be_workdir(model):
        raise UserError(
            f"--model={model} is not a workdir, so it has no gallery of its own; add --images=DIR (a folder)",
            id="no-gallery",
        )
    return training_gallery(Path(model))


def _may_be_workdir(model: str) -> bool:
    return not (Path(model) / MANIFEST).is_file() and not is_hub_id(model)


def load_with_gallery(model: str, images: Path | None, *, exclude: Sequence[str] = ()) -> tuple[TrainedModel, Gallery]:
    """Loads a model, and as gallery the folder `images` or, if that is None, the gallery of the model's training run.

    `exclude` has patterns of files and folders of `images` to leave out.

    Raises:
      UserError: there is no such model or gallery, or the training has not finished.
    """
    cache, gallery = user_cache(), None
    if images is None or _may_be_workdir(model):
        gallery, cache = own_gallery(model), Path(model) / "cache"  # also with `images`: raises for an unfinished run
    if cache is None:
        raise UserError("--images: there is no home folder to keep its vectors in; set XDG_CACHE_HOME to a folder")
    trained = cl2cm_jax.load(model)
    if images is not None:
        gallery = folder_gallery(images, trained.encoder, cache=cache, exclude=exclude)
    assert gallery is not None
    return trained, gallery
