"""Pictures to arrays with Pillow alone: any mode, any orientation, nothing harmful.

`decode` returns what a viewer shows: the first frame, upright (EXIF), 8-bit RGB, transparency on white.
"""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cl2cm_jax.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})  # of pictures in folders
MAX_PIXELS = 100_000_000  # of one picture; 300 MB once decoded
THREADS = min(8, os.cpu_count() or 1)  # that decode pictures
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_WHITE = (255, 255, 255, 255)


class ImageError(UserError):
    """A picture that cannot be used; the message says why."""


def decode(
    source: bytes | str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    on_animated: Literal["first", "refuse"] = "first",
) -> np.ndarray:
    """Decodes an image file to RGB. Source: ours.

    Args:
      source: the bytes of an image file, or its path.
      max_pixels: larger pictures are refused from their header, before anything is decoded.
      on_animated: what to do with a picture of several frames: take the "first", or "refuse" it.

    Returns:
      (H, W, 3) uint8.

    Raises:
      ImageError: empty, not an image, truncated, animated (if refused) or too large.
    """
    name = "the image" if isinstance(source, bytes) else f"{os.fspath(source)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit warns; ours decides
            content = source if isinstance(source, bytes) else _read(source)
            with Image.open(io.BytesIO(content)) as image:
                _check_header(image, name, max_pixels, on_animated)
                return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        reason = "is empty (0 bytes)" if not content else "is not an image of a known format"
        raise ImageError(f"{name} {reason}; replace it or remove its row") from error
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow refuses very large ones before we see the header
        raise ImageError(f"{name} has {pixels:,} pixels, over the limit of {max_pixels:,}; scale it down") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; add the file or remove its row") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{name} cannot be read ({error.strerror}); replace it or remove its row") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Pillow's decoders raise all of these on broken files.
        raise ImageError(f"{name} is truncated or damaged ({error}); replace it or remove its row") from error


def decoded(paths: Sequence[str]) -> Iterator[np.ndarray]:
    """`decode`s files in order, several at once; few are held."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), 2 * THREADS):
            yield from pool.map(decode, paths[start : start + 2 * THREADS])


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF block says; a block that cannot be read says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return image


def scaled(
    image: np.ndarray, size: int, *, shorter_side: int | None, filter: Literal["bicubic", "bilinear"]
) -> np.ndarray:
    """A picture of a network's size, as torchvision and Pillow users prepare it: scaled, then the centre cut out.

    Args:
      image: (H, W, 3) uint8.
      size: pixels of the result's sides.
      shorter_side: what the shorter side is scaled to before the cut, `size` or more; None squashes the whole picture.
      filter: of the scaling, with antialiasing.

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
    # a very long picture: from the box, the same to a grey level or two, without the large picture between
    across, down = picture.width / columns, picture.height / rows
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(picture.resize((size, size), resampling, box=box))


def _read(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _check_header(image: Image.Image, name: str, max_pixels: int, on_animated: str) -> None:
    width, height = image.size
    if width * height == 0:
        raise ImageError(f"{name} is {width} x {height} pixels; replace it or remove its row")
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, over the limit of {max_pixels:,}; scale it down")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and on_animated == "refuse":
        raise ImageError(f"{name} is animated ({frames} frames); save one frame as a picture of its own")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode to (H, W, 3) uint8."""
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit grey, which convert() would clip at 255
        grey = _grey_to_8_bit(np.asarray(image), is_16_bit=image.mode.startswith("I;16"))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _grey_to_8_bit(grey: np.ndarray, *, is_16_bit: bool) -> np.ndarray:
    """(H, W) grey to uint8; the range of 32-bit files, which do not state it, is judged by the largest value."""
    values = np.nan_to_num(grey.astype(np.float32))
    top = float(values.max(initial=0.0))
    white = 65535 if is_16_bit or top > 255 else 1 if np.issubdtype(grey.dtype, np.floating) and top <= 1 else 255
    return np.clip(np.round(values * (255 / white)), 0, 255).astype(np.uint8)
