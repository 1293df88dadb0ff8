"""Decodes pictures with Pillow to 8-bit RGB, with limits on size and formats.

`decode` returns what a viewer shows: the first frame, upright (EXIF), transparency on white; `decode_frames` yields
frames of an animation in the same way.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cl2cm_jax.errors import UserError, one_line

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})  # endings of picture files
MAX_PIXELS = 100_000_000  # limit for one picture; 300 MB once decoded
MAX_FILE = 200_000_000  # bytes, limit for its file
MAX_FRAMES = 10_000  # limit for one animation: a frame is decoded from the ones before it
MAX_ANIMATION_PIXELS = 4_000_000_000  # limit for all its frames; about a minute of decoding, one frame at a time
# The formats that Pillow may try (JPEG includes MPO); of the others, EPS starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_SCANS = 100  # limit for a JPEG; each is decoded over the whole picture, however few bytes it has
ANIMATIONS = ("GIF", "PNG", "WEBP")  # formats whose frames follow in time; those of TIFF and MPO are pages and views
THREADS = min(8, os.cpu_count() or 1)  # threads that decode pictures
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WHITE = (255, 255, 255, 255)
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]")  # start of a JPEG's segment, before its length
_SCAN, _END = 0xDA, 0xD9


class ImageError(UserError):
    """A picture that cannot be used."""


class AnimatedError(ImageError):
    """A picture of several frames where a still one is required."""


def decode(
    source: bytes | str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    on_animated: Literal["first", "refuse"] = "first",
) -> np.ndarray:
    """Decodes an image file to RGB.

    Args:
      source: the bytes of an image file, or its path.
      max_pixels: larger pictures are refused by their header, before anything is decoded.
      on_animated: what to do with a picture of several frames: take the "first", or "refuse" it.

    Returns:
      (H, W, 3) uint8.

    Raises:
      ImageError: empty, not an image, truncated, animated (if refused) or too large.
    """
    with _as_image_error(_name(source), max_pixels), _opened(source) as image:
        _check_header(image, _name(source), max_pixels, on_animated)
        return _to_rgb(_upright(image))


def as_rgb(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `decode`, of an open picture: (H, W, 3) uint8.

    Raises:
      ImageError: too large, or damaged.
    """
    with _as_image_error("the image", max_pixels):
        _check_header(image, "the image", max_pixels, "first")
        return _to_rgb(_upright(image))


def frame_places(count: int, limit: int) -> list[int]:
    """Samples at most `limit` of `count` frames evenly, whatever their durations.

    All, if there are not more; else the middle frame of each of `limit` parts of equal length, frame
    floor((i + 1/2) count / limit) for i = 0 ... limit - 1.
    """
    taken = min(count, limit)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def decode_frames(
    source: bytes | str | os.PathLike[str],
    *,
    limit: int,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    max_animation_pixels: int = MAX_ANIMATION_PIXELS,
) -> Iterator[np.ndarray]:
    """Decodes sampled frames of an animated GIF, PNG or WebP in order; of any other picture its only one.

    The file is read to its end, so that damage is found anywhere.

    Args:
      source: the bytes of an image file, or its path.
      limit: limit of frames, see `frame_places`.
      max_pixels: as in `decode`, of a frame.
      max_frames: animations of more frames are refused before any is decoded.
      max_animation_pixels: limit of the pixels of all frames together.

    Yields:
      (H, W, 3) uint8.

    Raises:
      ImageError: as in `decode`, or over one of the limits.
    """
    name = _name(source)
    with _as_image_error(name, max_pixels):
        image = _opened(source)
        _check_header(image, name, max_pixels, "first")
        count = getattr(image, "n_frames", 1) if image.format in ANIMATIONS else 1
        first = int(count > 1 and bool(image.info.get("default_image")))  # of a PNG: for viewers without animation
        _check_animation(name, image, count, max_frames, max_animation_pixels)
    with image:
        for place in frame_places(count - first, limit):
            with _as_image_error(name, max_pixels):
                if count > 1:
                    image.seek(first + place)
                frame = _to_rgb(_upright(image))
            yield frame
        if count > 1:
            with _as_image_error(name, max_pixels):
                image.seek(count - 1)
                image.load()


def _name(source: bytes | str | os.PathLike[str]) -> str:
    return "the image" if isinstance(source, bytes) else f"{os.fspath(source)}"


def _opened(source: bytes | str | os.PathLike[str]) -> Image.Image:
    """A picture whose header alone is decoded; raises Pillow's errors."""
    content = source if isinstance(source, bytes) else _read(source)
    if not content:
        raise ImageError(f"{_name(source)} is empty (0 bytes); replace it or leave it out")
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.format in ("JPEG", "MPO") and (scans := _scans(content)) > MAX_SCANS:
        raise ImageError(f"{_name(source)} has {scans:,} scans, over the limit of {MAX_SCANS}; save it anew")
    return image


@contextmanager
def _as_image_error(name: str, max_pixels: int) -> Iterator[None]:
    """Turns Pillow's errors into an ImageError with the fix, and silences its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own limit
            yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"{name} is not an image of a known format ({known}); replace it or leave it out") from error
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow refuses very large ones before the header is read
        raise ImageError(f"{name} has {pixels:,} pixels, over the limit of {max_pixels:,}; scale it down") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; add the file or leave it out") from error
    except Exception as error:  # Pillow's decoders raise nearly any on broken files; those of the system have strerror
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"{name} cannot be read ({error.strerror}); replace it or leave it out") from error
        raise ImageError(f"{name} is truncated or damaged ({one_line(error)}); replace it or leave it out") from error


def decoded(paths: Sequence[str]) -> Iterator[np.ndarray]:
    """`decode`s files in order, in threads, with few in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), 2 * THREADS):
            yield from pool.map(decode, paths[start : start + 2 * THREADS])


def _scans(jpeg: bytes) -> int:
    """The number of scans of a JPEG, up to the end of the picture."""
    scans, place = 0, 0
    while (found := _MARKER.search(jpeg, place)) and found[0][1] != _END:
        scans += found[0][1] == _SCAN
        place = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2])
    return scans


def _upright(image: Image.Image) -> Image.Image:
    """Rotated by its EXIF orientation, if that can be read."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return image


def scaled(
    image: np.ndarray, size: int, *, shorter_side: int | None, filter: Literal["bicubic", "bilinear"]
) -> np.ndarray:
    """A picture resized and centre-cropped to a network's size, as torchvision does it.

    Args:
      image: (H, W, 3) uint8.
      size: pixels of the result's sides.
      shorter_side: of the resized picture, `size` or more; None resizes without keeping the aspect ratio.
      filter: of the resizing, with antialiasing.

    Returns:
      (size, size, 3) uint8.
    """
    resampling = RESAMPLING[filter]
    picture = Image.fromarray(image)
    if shorter_side is None:
        return np.asarray(picture.resize((size, size), resampling))
    short = min(picture.size)
    columns, rows = (shorter_side * side // short for side in picture.size)
    left, top = (columns - size) // 2, (rows - size) // 2
    if rows * columns <= MAX_PIXELS:
        return np.asarray(picture.resize((columns, rows), resampling).crop((left, top, left + size, top + size)))
    # a very long picture: resize the box, without the large picture; the same to a grey level or two
    across, down = picture.width / columns, picture.height / rows
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(picture.resize((size, size), resampling, box=box))


def _read(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())  # of the open file, in case the path was replaced
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{os.fspath(path)} is no regular file but a pipe or device; replace it or leave it out")
        if status.st_size > MAX_FILE:
            size = f"{status.st_size:,} bytes, over the limit of {MAX_FILE:,}"
            raise ImageError(f"{os.fspath(path)} has {size}; scale it down")
        return file.read(status.st_size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe may have no writer


def _check_header(image: Image.Image, name: str, max_pixels: int, on_animated: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels; replace it or leave it out")
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, over the limit of {max_pixels:,}; scale it down")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and on_animated == "refuse":
        raise AnimatedError(f"{name} is animated ({frames} frames); save one frame as a picture of its own")


def _check_animation(name: str, image: Image.Image, count: int, max_frames: int, max_pixels: int) -> None:
    if count > max_frames:
        raise ImageError(f"{name} has {count:,} frames, over the limit of {max_frames:,}; shorten it, or drop frames")
    pixels = count * image.width * image.height
    if count > 1 and pixels > max_pixels:
        raise ImageError(
            f"{name} has {count:,} frames of {image.width} x {image.height}, {pixels:,} pixels, over the limit of "
            f"{max_pixels:,}; shorten it, or scale it down"
        )


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode to (H, W, 3) uint8."""
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit grey, which convert() would clip at 255
        grey = _grey_to_8_bit(np.asarray(image), is_16_bit=image.mode.startswith("I;16"))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _grey_to_8_bit(grey: np.ndarray, *, is_16_bit: bool) -> np.ndarray:
    """(H, W) grey to uint8; the range of 32-bit files, which do not state it, is guessed from the largest value."""
    values = np.nan_to_num(grey.astype(np.float32))
    top = float(values.max(initial=0.0))
    white = 65535 if is_16_bit or top > 255 else 1 if np.issubdtype(grey.dtype, np.floating) and top <= 1 else 255
    return np.clip(np.round(values * (255 / white)), 0, 255).astype(np.uint8)
