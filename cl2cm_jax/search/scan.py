"""The pictures and clips of a folder: which there are, what is left out and why, and their vectors."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from cl2cm_jax.data.media.clips import decode_clip, is_clip, taken_files
from cl2cm_jax.data.media.images import SUFFIXES, ImageError
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.data.media.unread import is_ignored, is_unread, unread_kind
from cl2cm_jax.errors import UserError
from cl2cm_jax.trained.encoder import Encoder

OUTSIDE = "it is a link to a place outside the folder, which is not followed"
MAX_REASONS, NAMED = 12, 3  # lines about what is left out, and names in each
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

    exclude: Sequence[str] = ()  # patterns of what is left out
    items: list[Item] = field(default_factory=list)  # its pictures and clips, sorted
    skipped: dict[str, str] = field(default_factory=dict)  # what cannot be used, with the reason
    unseen: set[str] = field(default_factory=set)  # those of `skipped` without access: they may be unchanged
    absent: set[str] = field(default_factory=set)  # those of `skipped` that are links to files which are not there
    unread: dict[str, list[str]] = field(default_factory=dict)  # files of formats that are not read, by suffix
    left_out: list[str] = field(default_factory=list)  # folders, by their names: hidden ones, bins, thumbnails
    excluded: list[str] = field(default_factory=list)  # folders and files by `exclude`

    def hidden(self, paths: Iterable[str]) -> set[str]:
        """Those of some paths that may still exist, since the system gives no access to them."""
        clips = {str(PurePosixPath(path).parent) for path in self.unseen}  # an unseen file may be a frame of one
        return {
            path
            for path in paths
            if path in clips or not self.unseen.isdisjoint([path, *map(str, PurePosixPath(path).parents)])
        }

    def skip(self, path: str, reason: str, *, unseen: bool = False) -> None:
        """Leaves something out that cannot be used."""
        self.skipped[path] = reason
        if unseen:
            self.unseen.add(path)

    def leaves_out(self, path: str) -> bool:
        """Whether a file or folder, or a folder above it, is left out by its name or by `exclude`."""
        parts = [PurePosixPath(path), *PurePosixPath(path).parents[:-1]]
        return any(is_ignored(part.name) or self._is_excluded(part) for part in parts)

    def enters(self, path: str, *, is_folder: bool) -> bool:
        """Whether a file or folder is not left out by its own name; notes those that are, but no hidden files."""
        ignored, excluded = is_ignored(PurePosixPath(path).name), self._is_excluded(PurePosixPath(path))
        if excluded:
            self.excluded.append(path)
        elif ignored and is_folder:
            self.left_out.append(path)
        return not (ignored or excluded)

    def note_unread(self, path: str, suffix: str) -> None:
        """Notes a file whose suffix is not one of `SUFFIXES`, unless it is a text or the like."""
        if is_unread(suffix):
            self.unread.setdefault(suffix, []).append(path)

    def _is_excluded(self, path: PurePosixPath) -> bool:
        return any(fnmatchcase(name, glob) for glob in self.exclude for name in (str(path), path.name))

    def useless(self) -> list[str]:
        """The patterns of `exclude` that match nothing which was found."""
        paths = map(PurePosixPath, self.excluded)
        names = {name for path in paths for name in (str(path), path.name)}
        return [glob for glob in self.exclude if not any(fnmatchcase(name, glob) for name in names)]

    def warn(self) -> None:
        """Logs what is left out: a line for each reason, with a number and the first names."""
        paths: dict[str, list[str]] = {}
        for path, reason in sorted(self.skipped.items()):
            paths.setdefault(reason.rpartition(path)[2].strip(), []).append(path)
        for reason, those in itertools.islice(paths.items(), MAX_REASONS):
            log.warning("skipped: %s: %s", _named(those), self.skipped[those[0]] if len(those) == 1 else reason)
        if rest := list(paths.values())[MAX_REASONS:]:
            log.warning("skipped for other reasons: %s", _named([path for those in rest for path in those]))
        if text := self.passed_over():
            log.warning("passed over: %s", text)
        for glob in self.useless():
            log.warning(
                "--exclude=%s matches nothing in the folder; write a name or a path inside it, in the same case", glob
            )

    def passed_over(self) -> str:
        """What is left out without having been looked at, in words, "" if nothing."""
        kinds = sorted(self.unread.items(), key=lambda kind: (-len(kind[1]), kind[0]))
        counted = ", ".join(f"{unread_kind(suffix)} {len(paths)}" for suffix, paths in kinds[:MAX_REASONS])
        first = [paths[0] for _, paths in kinds]
        texts = [
            f"{sum(map(len, self.unread.values()))} files of formats that are not read ({counted}), such as "
            f"{_named(first)} (convert pictures to JPEG)",
            f"{len(self.left_out)} folders that are hidden, bins or of thumbnails: {_named(self.left_out)}",
            f"{len(self.excluded)} files and folders by --exclude: {_named(self.excluded)}",
        ]
        return "; ".join(
            text for text, those in zip(texts, (self.unread, self.left_out, self.excluded), strict=True) if those
        )


def _named(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"{', '.join(paths[:NAMED])}{more}"


def scan(folder: Path, *, frames: int, exclude: Sequence[str] = ()) -> Scan:
    """Lists the pictures and clips of a folder and its subfolders without reading them.

    Pictures are files with one of `SUFFIXES`. Where clips are read (`frames` > 1), a subfolder whose first picture is
    not animated is a clip, with its pictures as frames. Hidden names and bins are left out (`is_ignored`), so is what
    a pattern of `exclude` matches, by its path in the folder or by its name alone; links to folders are not followed.

    Raises:
      UserError: no such folder, it cannot be listed, or there is no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"--images={folder}: no such folder; give a folder of pictures")
    found = Scan([_pattern(glob, folder) for glob in exclude])
    pictures = sorted(_pictures(folder, found))
    if not pictures:
        raise UserError(_no_picture(folder, found))
    for place, files in _grouped(folder, pictures, frames=frames).items():
        path = place.relative_to(folder).as_posix()
        try:
            sources = tuple(taken_files(place, limit=frames)) if place.is_dir() else (place,)
            stats = [file.stat() for file in sources]
        except ImageError as error:
            found.skip(path, str(error))
        except OSError as error:
            if error.errno not in _GONE:
                found.skip(path, _no_access(error), unseen=True)
        else:
            size, mtime = sum(one.st_size for one in stats), max(one.st_mtime_ns for one in stats)
            found.items.append(Item(path, place, tuple(files), sources, size, mtime))
    return found


def _pattern(glob: str, folder: Path) -> str:
    """A pattern as paths in the folder are matched with it; it may begin with the folder itself."""
    glob = os.path.expanduser(glob.replace(os.sep, "/"))
    if os.path.isabs(glob):
        roots = (os.path.abspath(folder), os.path.realpath(folder))
        glob = next((os.path.relpath(glob, root) for root in roots if glob.startswith(root + os.sep)), glob)
    return glob.removeprefix("./").rstrip("/")


def _pictures(folder: Path, found: Scan) -> Iterator[Path]:
    def unlisted(error: OSError) -> None:
        if error.errno not in _GONE:
            path = Path(error.filename).relative_to(folder).as_posix()
            found.skip(path, f"its contents cannot be listed ({error.strerror})", unseen=True)

    for parent, folders, names in os.walk(folder, onerror=unlisted):
        inside = {name: Path(parent, name).relative_to(folder).as_posix() for name in sorted(folders) + sorted(names)}
        folders[:] = [name for name in sorted(folders) if found.enters(inside[name], is_folder=True)]
        for name in folders:
            place = Path(parent, name)
            if os.path.islink(place) and not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
                found.skip(inside[name], OUTSIDE)
        for name in sorted(names):
            if found.enters(inside[name], is_folder=False) and _is_picture(Path(parent, name), inside[name], found):
                yield Path(parent, name)


def _is_picture(file: Path, path: str, found: Scan) -> bool:
    """Whether a file can be one by its name and kind; notes what else it is."""
    is_link, suffix = os.path.islink(file), file.suffix.lower()
    if suffix not in SUFFIXES and not is_link:
        found.note_unread(path, suffix)
        return False
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except OSError as error:
        is_file = False
        if error.errno not in _GONE:
            found.skip(path, _no_access(error), unseen=True)
            return False
        if not is_link:  # it went since the folder was listed, perhaps with a disk
            return False
        found.absent.add(path)
    if not is_file:
        found.skip(path, "it is not a regular file, or a broken link")
    elif suffix not in SUFFIXES:
        found.note_unread(path, suffix)
    return is_file and suffix in SUFFIXES


def _no_access(error: OSError) -> str:
    return f"it cannot be accessed ({error.strerror})"


def _no_picture(folder: Path, found: Scan) -> str:
    passed = f"; passed over: {text}" if (text := found.passed_over()) else ""
    if not found.skipped:
        return f"--images={folder} has no pictures; it needs files ending in {', '.join(sorted(SUFFIXES))}{passed}"
    first = min(found.skipped)
    return (
        f"--images={folder} has no readable pictures; {len(found.skipped)} skipped, for example {first}: "
        f"{found.skipped[first]}{passed}"
    )


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
            yield from decode_clip(files, limit=encoder.frames, enough=encoder.enough, max_pixels=encoder.max_pixels)
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
