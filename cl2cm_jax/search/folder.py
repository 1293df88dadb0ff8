"""The pictures and clips of a folder: which there are, their vectors, and the cached gallery of a folder."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

import cl2cm_jax
from cl2cm_jax.data.media.clips import decode_clip, is_clip, taken_files
from cl2cm_jax.data.media.images import SUFFIXES, ImageError
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery, load_gallery, save_gallery, training_gallery
from cl2cm_jax.models.hub_folder import is_hub_id
from cl2cm_jax.trained.bundle_layout import MANIFEST
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.model import TrainedModel

AT_ONCE = 16  # pictures or clips per call of the encoder
OUTSIDE = "it is a link to a place outside the folder, which is not followed"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # nothing is there, or a link that leads nowhere

Key = TypeVar("Key")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """A picture or clip of a folder."""

    path: str  # inside the folder, with slashes
    place: Path  # the file, or the folder of a clip's frames
    files: tuple[Path, ...]  # the file, or all frames of the clip
    sources: tuple[Path, ...]  # those of `files` that are read; a clip has a maximum number of frames
    size: int  # of the sources, in bytes
    mtime: int  # of the newest source, in nanoseconds since 1970


@dataclass
class Scan:
    """The present contents of a folder, by paths inside it."""

    items: list[Item] = field(default_factory=list)  # its pictures and clips, sorted
    skipped: dict[str, str] = field(default_factory=dict)  # what is left out, with the reason
    unseen: set[str] = field(default_factory=set)  # those of `skipped` without access: they may be unchanged

    def hidden(self, paths: Iterable[str]) -> set[str]:
        """Those of some paths that may still exist, since the system gives no access to them."""
        clips = {str(PurePosixPath(path).parent) for path in self.unseen}  # an unseen file may be a frame of one
        return {
            path
            for path in paths
            if path in clips or not self.unseen.isdisjoint([path, *map(str, PurePosixPath(path).parents)])
        }

    def skip(self, path: str, reason: str, *, unseen: bool = False) -> None:
        """Leaves something out."""
        self.skipped[path] = reason
        if unseen:
            self.unseen.add(path)

    def warn(self) -> None:
        """Logs what is left out, one line each."""
        for path, reason in sorted(self.skipped.items()):
            log.warning("skipped: %s: %s", path, reason)


def scan(folder: Path, *, frames: int) -> Scan:
    """Lists the pictures and clips of a folder and its subfolders without reading them.

    Pictures are files with one of `SUFFIXES`. Where clips are read (`frames` > 1), a subfolder whose first picture is
    not animated is a clip, with its pictures as frames. Names that begin with a dot are ignored, links to folders are
    not followed.

    Raises:
      UserError: no such folder, it cannot be listed, or there is no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"--images={folder}: no such folder; give a folder of pictures")
    found = Scan()
    pictures = sorted(_pictures(folder, found))
    if not pictures:
        raise UserError(_no_picture(folder, found.skipped))
    for place, files in _grouped(folder, pictures, frames=frames).items():
        path = place.relative_to(folder).as_posix()
        try:
            sources = tuple(taken_files(place, limit=frames)) if place.is_dir() else (place,)
            stats = [file.stat() for file in sources]
        except ImageError as error:
            found.skip(path, str(error))
        except OSError as error:
            found.skip(path, _no_access(error), unseen=not isinstance(error, FileNotFoundError))
        else:
            size, mtime = sum(one.st_size for one in stats), max(one.st_mtime_ns for one in stats)
            found.items.append(Item(path, place, tuple(files), sources, size, mtime))
    return found


def _pictures(folder: Path, found: Scan) -> Iterator[Path]:
    def unlisted(error: OSError) -> None:
        if error.errno not in _GONE:
            path = Path(error.filename).relative_to(folder).as_posix()
            found.skip(path, f"its contents cannot be listed ({error.strerror})", unseen=True)

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for place in (Path(parent, name) for name in folders):
            if os.path.islink(place) and not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
                found.skip(place.relative_to(folder).as_posix(), OUTSIDE)
        for file in (Path(parent, n) for n in names if Path(n).suffix.lower() in SUFFIXES and not n.startswith(".")):
            path = file.relative_to(folder).as_posix()
            try:
                is_file = stat.S_ISREG(file.stat().st_mode)
            except OSError as error:
                is_file = False
                if error.errno not in _GONE:
                    found.skip(path, _no_access(error), unseen=True)
                    continue
            if is_file:
                yield file
            else:
                found.skip(path, "it is not a regular file, or a broken link")


def _no_access(error: OSError) -> str:
    return f"it cannot be accessed ({error.strerror})"


def _no_picture(folder: Path, skipped: Mapping[str, str]) -> str:
    if not skipped:
        return f"--images={folder} has no pictures; it needs files ending in {', '.join(sorted(SUFFIXES))}"
    first = min(skipped)
    return f"--images={folder} has no readable pictures; {len(skipped)} skipped, for example {first}: {skipped[first]}"


def _grouped(folder: Path, pictures: Sequence[Path], *, frames: int) -> dict[Path, list[Path]]:
    """The clips and pictures, sorted, and the files of each."""
    if frames == 1:
        return {file: [file] for file in pictures}
    inside: dict[Path, list[Path]] = {}
    for file in pictures:
        inside.setdefault(file.parent, []).append(file)
    clips = {parent: files for parent, files in inside.items() if parent != folder and is_clip(parent)}
    single = {file: [file] for file in pictures if file.parent not in clips}
    return dict(sorted((single | clips).items()))


def embed(
    encoder: Encoder, clips: Mapping[Key, Sequence[bytes | Path]], unread: dict[Key, str]
) -> dict[Key, np.ndarray]:
    """Encodes pictures and clips, given the files of each: pictures are decoded in threads, clips frame by frame.

    Returns the vectors (D,) float32 of all that can be read; `unread` gets the reason for each of the others.

    Raises:
      UserError: a vector is not finite.
    """

    def frames(key: Key, files: Sequence[bytes | Path]) -> Iterator[np.ndarray]:
        try:
            limits = {"limit": encoder.frames, "enough": encoder.enough, "max_pixels": encoder.max_pixels}
            yield from decode_clip(files, **limits)
        except ImageError as error:
            unread[key] = str(error)

    if not clips:
        return {}
    pictures = (frames(key, files) for key, files in clips.items())
    if encoder.frames == 1:
        pictures = ahead(lambda clip: list(frames(*clip)), clips.items())
    vectors = encoder.images(pictures)
    made = {key: vector for key, vector in zip(clips, vectors, strict=True) if key not in unread}
    if not all(np.isfinite(vector).all() for vector in made.values()):
        raise UserError("the model's vectors are not finite; train it again, or give another --model")
    return made


def folder_gallery(folder: Path, encoder: Encoder, *, cache: Path) -> Gallery:
    """The pictures of a folder and its subfolders, with vectors from the folder `cache` unless they are outdated.

    Pictures that cannot be read are left out, with one warning line each. Ids are the paths inside the folder.

    Raises:
        UserError: see `scan`; or none of the pictures can be read.
    """
    found = scan(folder, frames=encoder.frames)
    found.warn()
    cached = cache / f"images-{_key(folder, found.items, encoder.weights)}.npz"
    gallery = _cached_gallery(cached, folder, found.items)
    if gallery is None:
        gallery = _embedded_gallery(folder, found.items, encoder)
        try:
            save_gallery(cached, gallery)
        except OSError as error:  # a cache that cannot be written costs time, not the answer
            log.warning("the vectors of %s are not cached: %s", folder, error)
    return gallery


def _key(folder: Path, items: Sequence[Item], weights: str) -> str:
    """Changes with the weights and with any picture's path, size or time."""
    files = [(file.relative_to(folder).as_posix(), file.stat()) for item in items for file in item.files]
    content = [(path, about.st_size, about.st_mtime_ns) for path, about in files]
    return hashlib.sha256(json.dumps([weights, content]).encode()).hexdigest()[:24]


def _cached_gallery(cached: Path, folder: Path, items: Sequence[Item]) -> Gallery | None:
    """The cached gallery with the folder's present path, or None; warns again of what could not be read."""
    try:
        gallery = load_gallery(cached) if cached.is_file() else None
    except UserError:
        gallery = None
    if gallery is None:
        return None
    for path in sorted({item.path for item in items} - set(gallery.ids)):
        log.warning("skipped: %s cannot be read", folder / path)
    return replace(gallery, paths=tuple(str(folder / path) for path in gallery.ids))


def _embedded_gallery(folder: Path, items: Sequence[Item], encoder: Encoder) -> Gallery:
    vectors: dict[Item, np.ndarray] = {}
    unread: dict[Item, str] = {}
    for start in range(0, len(items), AT_ONCE):
        vectors |= embed(encoder, {item: item.sources for item in items[start : start + AT_ONCE]}, unread)
    for reason in unread.values():
        log.warning("skipped: %s", reason)
    if not vectors:
        raise UserError(f"--images={folder}: none of its {len(items)} pictures can be read; see the warnings above")
    return Gallery(
        embeddings=np.stack(list(vectors.values())),
        ids=tuple(item.path for item in vectors),
        captions=("",) * len(vectors),
        paths=tuple(str(item.place) for item in vectors),
        weights=encoder.weights,
    )


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """Adds --images, the folder that is searched instead of the gallery of the training run."""
    help = "search this folder of pictures; default: the workdir's gallery"
    parser.add_argument("--images", type=Path, metavar="DIR", help=help)


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


def load_with_gallery(model: str, images: Path | None) -> tuple[TrainedModel, Gallery]:
    """Loads a model, and as gallery the folder `images` or, if that is None, the gallery of the model's training run.

    Raises:
      UserError: there is no such model or gallery, or the training has not finished.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cl2cm_jax"
    gallery = None
    if images is None or _may_be_workdir(model):
        gallery, cache = own_gallery(model), Path(model) / "cache"  # also with `images`: raises for an unfinished run
    trained = cl2cm_jax.load(model)
    if images is not None:
        gallery = folder_gallery(images, trained.encoder, cache=cache)
    assert gallery is not None
    return trained, gallery
