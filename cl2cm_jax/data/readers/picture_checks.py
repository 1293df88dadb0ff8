"""Whether pictures and clips can be decoded, and which of them are equal, before a set is built."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL

from cl2cm_jax.data.journal import Journal
from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import AnimatedError, ImageError, decode, decode_file, read_file
from cl2cm_jax.data.media.looks import Look, look_of

_SECONDS = 20.0  # between two lines of progress


class Earlier(NamedTuple):
    """What items are known by, so that a build takes the results of earlier ones for those that are unchanged.

    Attributes:
      names: of the items, with the options of the function.
      states: of what they are read from, see `state_of`; "": unknown, and the result is not kept.
      is_kept: (result) -> whether it depends on nothing else, such as a disk that fails.
    """

    names: Sequence[str]
    states: Sequence[str]
    is_kept: Callable[[Any], bool]


class Mapper(Protocol):
    """Applies a function to items, both JSON; the results come in the order of the items."""

    def __call__(
        self, function: Callable[[Any], Any], items: Iterable[Any], earlier: Earlier | None = None
    ) -> Iterable[Any]: ...


def remembering(mapper: Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]], journal: Path) -> Mapper:
    """The `Mapper` that applies functions by another one, keeps the results in a journal and logs its progress."""
    known = Journal(journal)

    def mapped(function: Callable[[Any], Any], items: Iterable[Any], earlier: Earlier | None = None) -> Iterator[Any]:
        items, last = list(items), time.monotonic()
        names, states, is_kept = earlier or Earlier([""] * len(items), [""] * len(items), bool)
        before = [state and known.get(name, state) for name, state in zip(names, states, strict=True)]
        new = iter(mapper(function, [item for item, result in zip(items, before, strict=True) if not result]))
        for count, (name, state, result) in enumerate(zip(names, states, before, strict=True), start=1):
            if not result:
                result = next(new)
                if state and is_kept(result):
                    known.add(name, state, result)
                if time.monotonic() - last >= _SECONDS:
                    last = time.monotonic()
                    logging.info("data: %s of %s checked", f"{count:,}", f"{len(items):,}")
            yield result

    return mapped


class Checked(NamedTuple):
    """Why a picture or clip cannot be used, or a note on it; and what it holds if it can.

    Attributes:
      reason: "" if it is good.
      is_note: it can be used.
      sha256: of its files, end to end, in hexadecimal digits.
      look: of a picture as small as it is decoded for the check; of a clip in its own size.
    """

    reason: str = ""
    is_note: bool = False
    sha256: str = ""
    look: Look = Look("")


def check(source: bytes | str, frames: int) -> Checked:
    """Decodes a picture or clip, and reads its files once.

    A JPEG is decoded at an eighth of its size, which reads all of its data in a seventh of the time.

    Args:
      source: the bytes of a file, or the path of a file or of a folder of frames.
      frames: limit of frames of a clip; 1 is a picture.
    """
    is_path = isinstance(source, str)
    if frames == 1 and is_path and os.path.isdir(source):
        return Checked(f"{source} is a folder; set config.data.frames to 2 or more to read its pictures as a clip")
    hashes = {} if is_path else {"": hashlib.sha256(source).hexdigest()}

    def read(path: str | os.PathLike[str]) -> bytes:
        content = read_file(path)
        hashes[os.fspath(path)] = hashlib.sha256(content).hexdigest()
        return content

    note = ""
    try:
        if frames > 1:
            files = taken_files(source, limit=frames) if is_path else [source]
            look = Look(pixels_hash(decode_clip(files, limit=frames, read=read)))
        else:
            try:
                picture = decode_file(source, enough=1, on_animated="refuse", read=read)
            except AnimatedError:  # found in the header, before anything is decoded
                picture = decode_file(source, enough=1, read=read)
                note = f"{source if is_path else 'the image'} is animated; its first frame is used"
            look = look_of(picture, pixels_hash([picture.pixels]))
    except ImageError as error:
        return Checked(str(error))
    return Checked(note, bool(note), "".join(hashes.values()), look)


def pixels_hash(pictures: Iterable[np.ndarray]) -> str:
    """A hash of the pixels of a picture, or of the frames of a clip, (H, W, 3) uint8 each."""
    digest = hashlib.sha256()
    for pixels in pictures:
        digest.update(str(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:32]


def whole_pixels(source: bytes | str, frames: int) -> str:
    """As `Look.pixels` of a picture or clip, decoded in its own size; "" if it cannot be decoded any more."""
    try:
        if frames > 1:
            files = taken_files(source, limit=frames) if isinstance(source, str) else [source]
            return pixels_hash(decode_clip(files, limit=frames))
        return pixels_hash([decode(source)])
    except ImageError:
        return ""


def state_of(path: str, frames: int) -> str:
    """Names, sizes and times of the files that a picture or clip is read from; "" if they cannot be read.

    With the version of the decoder, since another one may give other pixels.
    """
    try:
        found = [(file.name, os.stat(file)) for file in taken_files(path, limit=frames)]
    except (OSError, ImageError):
        return ""
    files = [(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in found]
    return json.dumps([PIL.__version__, *files])
