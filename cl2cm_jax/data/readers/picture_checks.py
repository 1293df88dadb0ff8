"""Whether pictures and clips can be decoded, before a set is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import AnimatedError, ImageError, decode
from cl2cm_jax.data.media.threads import ahead


class Mapper(Protocol):
    """Applies a function to items, both JSON, and returns the results in the order of the items."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]: ...


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The `Mapper` of a single machine."""
    return list(ahead(function, items))


def reason_against(source: bytes | str, frames: int) -> tuple[str, bool]:
    """Why a picture or clip cannot be used, or a note on it (True); ("", False) if it is good.

    Args:
      source: the bytes of a file, or the path of a file or of a folder of frames.
      frames: limit of frames of a clip; 1 is a picture.
    """
    is_path = isinstance(source, str)
    if frames == 1 and is_path and os.path.isdir(source):
        return f"{source} is a folder; set config.data.frames to 2 or more to read its pictures as a clip", False
    try:
        if frames > 1:
            for _ in decode_clip(taken_files(source, limit=frames) if is_path else [source], limit=frames):
                pass
            return "", False
        try:
            decode(source, enough=1, on_animated="refuse")
        except AnimatedError:  # found in the header, before anything is decoded
            decode(source, enough=1)
            return f"{source if is_path else 'the image'} is animated; its first frame is used", True
    except ImageError as error:
        return str(error), False
    return "", False


def content_hash(source: bytes | str, frames: int) -> str:
    """A hash of the files of a picture or clip that can be used; of a folder those of the frames that are read."""
    digest = hashlib.blake2b(digest_size=16)
    for file in taken_files(source, limit=frames) if isinstance(source, str) else ():
        digest.update(hashlib.blake2b(file.read_bytes()).digest())
    if isinstance(source, bytes):
        digest.update(hashlib.blake2b(source).digest())
    return digest.hexdigest()
