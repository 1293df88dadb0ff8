"""Decodes pictures with Pillow to 8-bit RGB, with limits on size and formats.

`decode` returns what a viewer shows: the first frame, upright (EXIF), transparency on white; `decode_frames` yields
frames of an animation in the same way. What a file costs is known from its header, before Pillow reads it; see
`cl2cm_jax.data.media.headers`.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cl2cm_jax.data.media.files import read_regular
from cl2cm_jax.data.media.headers import Header, HeaderError, read_header
from cl2cm_jax.data.media.pixels import TURNS, orientation_of, to_array
from cl2cm_jax.data.media.threads import Room
from cl2cm_jax.errors import UserError, one_line

_AVIF = ["AVIF"] if features.check("avif") else []  # a part of most builds of Pillow
_ENDINGS = "jpg jpeg jpe jfif png webp gif bmp tif tiff".split() + [one.lower() for one in _AVIF]
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS)  # endings of picture files
MAX_PIXELS = 100_000_000  # limit for one picture, once decoded
MAX_JPEG = 4  # times as many pixels are allowed in a JPEG, which is then decoded smaller
MAX_SIDE = 65_535  # pixels, limit for width and height; Pillow needs memory for each row, however short it is
MAX_MEMORY = 500_000_000  # bytes, limit for decoding one picture: 4 per pixel and what its format needs besides
MAX_FILE = 200_000_000  # bytes, limit for its file
MAX_FRAMES = 10_000  # limit for one animation: a frame is decoded from the ones before it
# Pixels, limit for all frames of an animation by its format: of a file of up to `SMALL_FILE` bytes, as many as are
# decoded within 2 s, and in proportion of a larger one.
MAX_ANIMATION = {"GIF": 200_000_000, "PNG": 100_000_000, "WEBP": 200_000_000}
SMALL_FILE = 20_000_000
CANVAS_BYTES = 16  # per pixel of an animation: Pillow keeps the last frames, and converts them
# Pillow's readers of the formats that are read. Image.open() would try others, of which EPS starts another program, and
# has its own limit of pixels.
_CLASSES: dict[str, type[ImageFile.ImageFile]] = {
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
    **dict.fromkeys(_AVIF, AvifImageFile),
}
FORMATS = tuple(_CLASSES)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ImageError(UserError):
    """A picture that cannot be used."""


class AnimatedError(ImageError):
    """A picture of several frames where a still one is required."""


class Decoded(NamedTuple):
    """The pixels (H, W, 3) uint8 of a picture, width and height in its file, and how it is turned upright."""

    pixels: np.ndarray
    size: tuple[int, int]
    turn: Callable[[np.ndarray], np.ndarray]


_ROOM = Room(2 * MAX_MEMORY)
Reader = Callable[[str | os.PathLike[str]], bytes]


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture's file; raises ImageError if it is none, too large, or cannot be read."""
    with _as_image_error(_name(path), MAX_PIXELS):
        return read_regular(path, limit=MAX_FILE)


def decode(
    source: bytes | str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    enough: int = 0,
    on_animated: Literal["first", "refuse"] = "first",
    read: Reader = read_file,
) -> np.ndarray:
    """Decodes an image file to RGB.

    Args:
      source: the bytes of an image file, or its path.
      max_pixels: larger pictures are refused by their header, before anything is decoded. A JPEG of up to `MAX_JPEG`
        times as many is decoded at 1/2, 1/4 or 1/8 of its size.
      enough: pixels of the shorter side that are enough: a JPEG whose sides are twice that or more, and any other
        picture of over 16 million pixels, is returned smaller, with at least so many; 0: in its own size, of over 70
        million pixels at half of it.
      on_animated: what to do with a picture of several frames: take the "first", or "refuse" it.
      read: gives the bytes of a path.

    Returns:
      (H, W, 3) uint8.

    Raises:
      ImageError: empty, not an image, truncated, animated (if refused) or too large.
    """
    return decode_file(source, max_pixels=max_pixels, enough=enough, on_animated=on_animated, read=read).pixels


def decode_file(
    source: bytes | str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    enough: int = 0,
    on_animated: Literal["first", "refuse"] = "first",
    read: Reader = read_file,
) -> Decoded:
    """As `decode`, with what the picture was before it was made smaller and turned."""
    name = _name(source)
    with _as_image_error(name, max_pixels):
        opened = _opened(source, max_pixels=max_pixels, enough=enough, read=read)
        with opened.image as image:
            if on_animated == "refuse" and (frames := _frames(opened)) > 1:
                how = "has several pages" if image.format == "TIFF" else f"is animated ({frames} frames)"
                raise AnimatedError(f"{name} {how}; save one as a picture of its own")
            with _ROOM.taken(opened.memory):
                pixels = to_array(image, enough=enough)
                return Decoded(pixels, (opened.header.width, opened.header.height), TURNS[orientation_of(image)])


def open_picture(source: bytes | str | os.PathLike[str]) -> Image.Image:
    """A picture whose pixels are not decoded yet, for its size and EXIF tags: of the formats and sizes of `decode`.

    Raises:
      ImageError: as `decode`, as far as the header says.
    """
    with _as_image_error(_name(source), MAX_PIXELS):
        return _opened(source, max_pixels=MAX_PIXELS).image


def as_rgb(image: Image.Image, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `decode`, of an open picture: (H, W, 3) uint8.

    Raises:
      ImageError: too large, or damaged.
    """
    with _as_image_error("the image", max_pixels):
        _check_size("the image", *image.size, max_pixels)
        return to_array(image)


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
    enough: int = 0,
    max_frames: int = MAX_FRAMES,
    max_animation_pixels: int | None = None,
    read: Reader = read_file,
) -> Iterator[np.ndarray]:
    """Decodes sampled frames of an animated GIF, PNG or WebP in order; of any other picture its only one.

    The file is read to its end, so that damage is found anywhere.

    Args:
      source: the bytes of an image file, or its path.
      limit: limit of frames, see `frame_places`.
      max_pixels: as in `decode`, of a frame.
      enough: as in `decode`, of a frame.
      max_frames: animations of more frames are refused before any is decoded.
      max_animation_pixels: limit of the pixels of all frames together; None: that of `MAX_ANIMATION`.
      read: as in `decode`.

    Yields:
      (H, W, 3) uint8.

    Raises:
      ImageError: as in `decode`, or over one of the limits.
    """
    name = _name(source)
    with _as_image_error(name, max_pixels):
        opened = _opened(source, max_pixels=max_pixels, enough=enough, read=read)
        image, count = opened.image, _frames(opened) if opened.image.format in MAX_ANIMATION else 1  # of a TIFF: pages
        first = int(count > 1 and bool(image.info.get("default_image")))  # of a PNG: for viewers without animation
        if count > 1:
            _check_size(name, *opened.canvas, max_pixels)
            _check_animation(name, opened, count, max_frames, max_animation_pixels)
            _check_canvas(name, opened.canvas, _memory_limit(max_pixels))
    with image:
        for place in frame_places(count - first, limit):
            with _as_image_error(name, max_pixels), _ROOM.taken(opened.memory):
                if count > 1:
                    image.seek(first + place)
                frame = to_array(image, enough=enough)
            yield frame
        if count > 1:
            with _as_image_error(name, max_pixels):
                image.seek(count - 1)
                image.load()


def _name(source: bytes | str | os.PathLike[str]) -> str:
    return "the image" if isinstance(source, bytes) else f"{os.fspath(source)}"


class _Opened(NamedTuple):
    """A picture whose header alone is decoded, what it states, and the bytes that decoding needs."""

    image: Image.Image
    header: Header
    memory: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of an animation."""
        return self.header.canvas if self.header.format == "GIF" else self.image.size


def _opened(
    source: bytes | str | os.PathLike[str], *, max_pixels: int, enough: int = 0, read: Reader = read_file
) -> _Opened:
    """Checks the header, and opens the picture; raises Pillow's errors."""
    name, content = _name(source), source if isinstance(source, bytes) else read(source)
    if not content:
        raise ImageError(f"{name} is empty (0 bytes); replace it or leave it out")
    header = read_header(content)
    if header is None:
        raise UnidentifiedImageError
    shrunk = _shrunk(header, max_pixels=max_pixels, enough=enough)
    _check_size(name, header.width, header.height, max_pixels * (MAX_JPEG if shrunk > 1 else 1), limit=max_pixels)
    memory = _memory(header, shrunk)
    if memory > _memory_limit(max_pixels):
        raise ImageError(
            f"{name} has {header.width} x {header.height} pixels and needs {memory:,} bytes as {header.format}, over "
            f"the limit of {_memory_limit(max_pixels):,}; scale it down, or save it as a baseline JPEG"
        )
    image = _CLASSES[header.format](io.BytesIO(header.content))
    if {*image.size} != {header.width, header.height}:  # of two that it states; a TIFF may be turned
        raise ImageError(f"{name} states two sizes; save it anew")
    if shrunk > 1:
        image.draft(None, (header.width // shrunk, header.height // shrunk))
    return _Opened(image, header, memory)


def _shrunk(header: Header, *, max_pixels: int, enough: int) -> int:
    """By how much a JPEG is shrunk while it is decoded: 1, 2, 4 or 8."""
    width, height = header.width, header.height
    if header.format != "JPEG" or min(width, height) < 64:
        return 1
    for scale in (1, 2, 4):
        fits = _pixels(header, scale) <= max_pixels and _memory(header, scale) <= _memory_limit(max_pixels)
        if fits and not (enough and min(width, height) // enough >= 2 * scale):
            return scale
    return 8


def _pixels(header: Header, shrunk: int) -> int:
    return -(-header.width // shrunk) * -(-header.height // shrunk)


def _memory(header: Header, shrunk: int) -> int:
    """Bytes that Pillow needs."""
    return 4 * _pixels(header, shrunk) + header.extra


def _memory_limit(max_pixels: int) -> int:
    """In bytes; with more pixels than usual it grows with them."""
    return MAX_MEMORY * max(MAX_PIXELS, max_pixels) // MAX_PIXELS


def _frames(opened: _Opened) -> int:
    return opened.header.frames if opened.header.format in ("GIF", "TIFF") else getattr(opened.image, "n_frames", 1)


@contextmanager
def _as_image_error(name: str, max_pixels: int) -> Iterator[None]:
    """Turns Pillow's errors into an ImageError with the fix, and silences its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own limit
            yield
    except ImageError:
        raise
    except HeaderError as error:
        raise ImageError(f"{name} {error}") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"{name} is not an image of a known format ({known}); replace it or leave it out") from error
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow refuses very large ones before the header is read
        raise ImageError(f"{name} has {pixels:,} pixels, over the limit of {max_pixels:,}; scale it down") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is; scale it down") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; add the file or leave it out") from error
    except Exception as error:  # Pillow's decoders raise nearly any on broken files; those of the system have strerror
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(f"{name} cannot be read ({error.strerror}); replace it or leave it out") from error
        raise ImageError(f"{name} is truncated or damaged ({one_line(error)}); replace it or leave it out") from error


def scaled(image: np.ndarray, size: int, *, shorter_side: int | None, filter: str, even: bool = False) -> np.ndarray:
    """A picture resized and centre-cropped to a network's size.

    Args:
      image: (H, W, 3) uint8.
      size: pixels of the result's sides.
      shorter_side: of the resized picture, `size` or more; None resizes without keeping the aspect ratio.
      filter: of the resizing, with antialiasing: "bicubic" or "bilinear".
      even: half of an odd margin is rounded to the even number, as in torchvision; otherwise down, as in transformers.

    Returns:
      (size, size, 3) uint8.
    """
    resampling = RESAMPLING[filter]
    picture = Image.fromarray(image)
    if shorter_side is None:
        return np.asarray(picture.resize((size, size), resampling))
    columns, rows = (shorter_side * side // min(picture.size) for side in picture.size)
    left, top = (round((side - size) / 2) if even else (side - size) // 2 for side in (columns, rows))
    if rows * columns <= MAX_PIXELS:
        return np.asarray(picture.resize((columns, rows), resampling).crop((left, top, left + size, top + size)))
    # a very long picture: resize the box, without the large picture; the same to a grey level or two
    across, down = picture.width / columns, picture.height / rows
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(picture.resize((size, size), resampling, box=box))


def _check_size(name: str, width: int, height: int, most: int, *, limit: int = 0) -> None:
    """Refuses a picture of more than `most` pixels; the message has `limit`."""
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels; replace it or leave it out")
    if width * height > most:
        pixels = f"{width} x {height} pixels" if width * height < 10**9 else f"{width * height:,} pixels"
        raise ImageError(f"{name} has {pixels}, over the limit of {limit or most:,}; scale it down")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name} has {width} x {height} pixels, over the limit of {MAX_SIDE:,} a side; scale it down")


def _check_animation(name: str, opened: _Opened, count: int, max_frames: int, max_pixels: int | None) -> None:
    if count > max_frames:
        raise ImageError(f"{name} has {count:,} frames, over the limit of {max_frames:,}; shorten it, or drop frames")
    (width, height), header = opened.canvas, opened.header
    limit = int(MAX_ANIMATION[header.format] * max(1, len(header.content) / SMALL_FILE))
    limit = limit if max_pixels is None else max_pixels
    if (pixels := count * width * height) > limit:
        raise ImageError(
            f"{name} has {count:,} frames of {width} x {height}, {pixels:,} pixels, over the limit of {limit:,} for a "
            f"{header.format} of its size; shorten it, or scale it down"
        )


def _check_canvas(name: str, canvas: tuple[int, int], limit: int) -> None:
    needed = CANVAS_BYTES * canvas[0] * canvas[1]
    if needed > limit:
        raise ImageError(
            f"{name} is animated, and its frames of {canvas[0]} x {canvas[1]} pixels need {needed:,} bytes, over the "
            f"limit of {limit:,}; scale it down"
        )
