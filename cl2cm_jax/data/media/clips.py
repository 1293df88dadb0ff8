"""Clips: an animated file or a folder of frames, of which a limited number is sampled and decoded in order.

A picture is a clip of one frame; `cl2cm_jax.data.media.images.frame_places` chooses the frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cl2cm_jax.data.media.images import (
    MAX_PIXELS,
    SUFFIXES,
    AnimatedError,
    ImageError,
    Reader,
    decode,
    decode_frames,
    frame_places,
    read_file,
)

MAX_BYTES = 1_000_000_000  # limit for a folder's chosen frames; a tfrecord can hold twice that


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a folder in natural order (frame2 before frame10); hidden and other files are left out.

    Raises:
      ImageError: there is none.
    """
    files = [file for file in Path(folder).iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
    if not files:
        raise ImageError(f"{os.fspath(folder)} has no frame; it needs files ending in {', '.join(sorted(SUFFIXES))}")
    return sorted(files, key=lambda file: (_natural(file.name), file.name))


def taken_files(path: str | os.PathLike[str], *, limit: int) -> list[Path]:
    """The files that a clip is read from: itself, or at most `limit` frames of a folder.

    Raises:
      ImageError: a folder without frames, or with frames of more than `MAX_BYTES`.
    """
    if not os.path.isdir(path):
        return [Path(path)]
    files = frame_files(path)
    taken = [files[place] for place in frame_places(len(files), limit)]
    size = sum(file.stat().st_size for file in taken if file.exists())
    if size > MAX_BYTES:
        raise ImageError(f"{os.fspath(path)}: {len(taken)} frames have {size:,} bytes, over the limit of {MAX_BYTES:,}")
    return taken


def decode_clip(
    files: Sequence[bytes | Path],
    *,
    limit: int,
    enough: int = 0,
    max_pixels: int = MAX_PIXELS,
    read: Reader = read_file,
) -> Iterator[np.ndarray]:
    """Decodes a clip frame by frame.

    Args:
      files: one animated file or picture, or the chosen frames of a folder, each as bytes or as a path.
      limit: of the frames of an animated file.
      enough: as in `images.decode`.
      max_pixels: as in `images.decode`, of a frame.
      read: as in `images.decode`.

    Yields:
      (H, W, 3) uint8, all of one size.

    Raises:
      ImageError: a frame cannot be read, or the frames of a folder differ in size.
    """
    if len(files) == 1 and limit > 1:
        yield from decode_frames(files[0], limit=limit, enough=enough, max_pixels=max_pixels, read=read)
        return
    frame_of = partial(decode, enough=enough, max_pixels=max_pixels, read=read)
    if len(files) == 1:
        yield frame_of(files[0])
        return
    first: tuple[int, int, int] | None = None
    for file in files:
        frame = frame_of(file)
        height, width, channels = frame.shape
        first = first or (height, width, channels)
        if frame.shape != first:
            sizes = [f"{columns} x {rows}" for rows, columns, _ in (frame.shape, first)]
            raise ImageError(
                f"{_name(file)} is {sizes[0]} pixels where {_name(files[0])} is {sizes[1]}; save all frames of a clip "
                "in one size"
            )
        yield frame


def is_clip(folder: str | os.PathLike[str]) -> bool:
    """Whether the first picture of a folder, which has one, is not animated, so that the folder may be a clip."""
    try:
        decode(frame_files(folder)[0], enough=1, on_animated="refuse")
    except AnimatedError:
        return False
    except ImageError:  # a frame that cannot be read
        return True
    return True


def picture_of(path: str) -> str | Path:
    """A file to show for a clip: itself, or the first frame of a folder; raises ImageError where there is none."""
    return frame_files(path)[0] if os.path.isdir(path) else path


def _name(file: bytes | Path) -> str:
    return "a frame" if isinstance(file, bytes) else str(file)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by value and before letters; letters without case."""
    parts = re.findall(r"(\d+)|(\D+)", name.casefold())
    return [(0, int(number), "") if number else (1, 0, text) for number, text in parts]
