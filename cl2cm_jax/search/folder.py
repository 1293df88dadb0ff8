"""A gallery from any folder of pictures or clips, embedded once and kept in a cache."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cl2cm_jax.data.media.clips import decode_clip, is_clip, taken_files
from cl2cm_jax.data.media.images import SUFFIXES, ImageError
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery, load_gallery, save_gallery
from cl2cm_jax.trained.encoder import Encoder

AT_ONCE = 16  # pictures or clips a call of the encoder
OUTSIDE = "it is a link to a place outside the folder, and such are not followed"
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # nothing is there, or a link that leads nowhere

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """What there is below a folder.

    Attributes:
      folder: as it was given.
      pictures: all files with one of `SUFFIXES`, sorted; names that begin with a dot are left out.
      skipped: what is left out, with the reason.
      unseen: those of `skipped` of which the system does not tell whether they are there, or what is in them.
    """

    folder: Path
    pictures: list[Path]
    skipped: dict[Path, str]
    unseen: frozenset[Path]

    def entries(self, *, frames: int) -> dict[Path, list[Path]]:
        """The clips and pictures, sorted, and the files of each.

        Where clips are read (`frames` > 1), a sub-folder whose first picture is a still one is a clip, with the
        pictures in it as frames. Every other file is a clip or picture for itself.
        """
        if frames == 1:
            return {file: [file] for file in self.pictures}
        inside: dict[Path, list[Path]] = {}
        for file in self.pictures:
            inside.setdefault(file.parent, []).append(file)
        clips = {parent: files for parent, files in inside.items() if parent != self.folder and is_clip(parent)}
        single = {file: [file] for file in self.pictures if file.parent not in clips}
        return dict(sorted((single | clips).items()))


def list_folder(folder: Path) -> Listing:
    """Looks for pictures in a folder and its subfolders; links to folders are not followed.

    Raises:
      UserError: no such folder, it cannot be listed, or there is no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"--images={folder}: no such folder; give a folder of pictures")
    pictures: list[Path] = []
    skipped: dict[Path, str] = {}
    unseen: set[Path] = set()

    def unlisted(error: OSError) -> None:
        if error.errno not in _GONE:
            unseen.add(Path(error.filename))
            skipped[Path(error.filename)] = f"what is in it cannot be listed ({error.strerror})"

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        folders[:] = [name for name in folders if not name.startswith(".")]
        skipped |= {place: OUTSIDE for name in folders if _leads_out(place := Path(parent, name), folder)}
        for file in (Path(parent, n) for n in names if Path(n).suffix.lower() in SUFFIXES and not n.startswith(".")):
            try:
                if _is_file(file):
                    pictures.append(file)
                else:
                    skipped[file] = "it is no file, or a link to one that is gone"
            except OSError as error:
                unseen.add(file)
                skipped[file] = f"it cannot be looked at ({error.strerror})"
    if not pictures:
        raise UserError(_no_picture(folder, skipped))
    return Listing(folder, sorted(pictures), skipped, frozenset(unseen))


def _is_file(path: Path) -> bool:
    """Whether there is a file, perhaps by a link; an OSError where the system does not tell."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise


def _leads_out(place: Path, folder: Path) -> bool:
    return os.path.islink(place) and not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))


def _no_picture(folder: Path, skipped: dict[Path, str]) -> str:
    if not skipped:
        return f"--images={folder} holds no picture; it needs files ending in {', '.join(sorted(SUFFIXES))}"
    first = min(skipped)
    return f"--images={folder} holds no picture that can be read; {len(skipped)} skipped, as {first}: {skipped[first]}"


def folder_gallery(folder: Path, encoder: Encoder, *, cache: Path) -> Gallery:
    """Embeds the pictures of a folder, or reads them from `cache` if neither they nor the weights have changed.

    Pictures that cannot be read are left out, with one warning line each. Ids are the paths inside the folder.

    Args:
        folder: searched with its subfolders.
        encoder: its `weights` are part of the cache's key; so are path, size and time of every picture.
        cache: folder of the cache files.

    Raises:
        UserError: see `list_folder`; or none of the pictures can be read.
    """
    listing = list_folder(folder)
    for path, reason in sorted(listing.skipped.items()):
        log.warning("skipped: %s: %s", path, reason)
    found = listing.entries(frames=encoder.frames)
    kept = cache / f"images-{_key(folder, found, encoder.weights)}.npz"
    gallery = _recall(kept, folder, list(found))
    if gallery is None:
        gallery = _embed(folder, list(found), encoder)
        try:
            save_gallery(kept, gallery)
        except OSError as error:  # a cache that cannot be written costs time, not the answer
            log.warning("the vectors of %s are not kept: %s", folder, error)
    return gallery


def _key(folder: Path, found: dict[Path, list[Path]], weights: str) -> str:
    """Changes with the weights and with any picture's path, size or time."""
    known = [(path, path.stat()) for files in found.values() for path in files]
    content = [(path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns) for path, about in known]
    return hashlib.sha256(json.dumps([weights, content]).encode()).hexdigest()[:24]


def _recall(kept: Path, folder: Path, paths: list[Path]) -> Gallery | None:
    """The cached gallery with the folder's present path, or None; what was skipped then is named again."""
    try:
        gallery = load_gallery(kept) if kept.is_file() else None
    except UserError:
        gallery = None
    if gallery is None:
        return None
    known = tuple(str(folder / name) for name in gallery.ids)
    for path in sorted({str(path) for path in paths} - set(known)):
        log.warning("skipped: %s cannot be read", path)
    return replace(gallery, paths=known)


def _embed(folder: Path, paths: list[Path], encoder: Encoder) -> Gallery:
    vectors: list[np.ndarray] = []
    unread: set[Path] = set()
    for start in range(0, len(paths), AT_ONCE):
        batch = paths[start : start + AT_ONCE]
        embedded = encoder.images(_frames(path, encoder.frames, unread) for path in batch)
        vectors.append(embedded[[path not in unread for path in batch]])
    read = [path for path in paths if path not in unread]
    if not read:
        raise UserError(f"--images={folder}: none of its {len(paths)} pictures can be read; see the warnings above")
    return Gallery(
        embeddings=np.concatenate(vectors),
        ids=tuple(path.relative_to(folder).as_posix() for path in read),
        captions=("",) * len(read),
        paths=tuple(str(path) for path in read),
        weights=encoder.weights,
    )


def _frames(path: Path, most: int, unread: set[Path]) -> Iterator[np.ndarray]:
    """The frames of a clip, decoded when they are asked for; one that cannot be read is a warning and in `unread`."""
    try:
        yield from decode_clip(taken_files(path, limit=most), limit=most)
    except ImageError as error:
        log.warning("skipped: %s", error)
        unread.add(path)
