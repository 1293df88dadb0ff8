"""Resizing and normalisation of images for a vision backbone."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.config_entries import MAX_PIXELS

A = TypeVar("A", np.ndarray, jax.Array)

PREPROCESSOR = "preprocessor_config.json"
EVEN_MARGIN = "even_crop_margin"  # an entry of ours, see `Preprocess.even`
_LARGER = 2  # times the size of the crop, of the picture that is cropped; 256 / 224 is usual
_FILTERS: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize and crop to a square, then (value - mean) / scale of 8-bit values, by channel.

    Attributes:
      image_size: side of the square.
      shorter_side: size of the shorter side before the centre crop; None resizes to the square without a crop.
      filter: of the resizing.
      mean, scale: of the three channels, in 8-bit values.
      even: how half of an odd margin of the crop is rounded, see `images.scaled`.
    """

    image_size: int
    shorter_side: int | None
    filter: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    even: bool = False

    def at(self, image_size: int) -> Preprocess:
        """The same for another image size."""
        shorter = self.shorter_side and round(self.shorter_side * image_size / self.image_size)
        return replace(self, image_size=image_size, shorter_side=shorter)

    def __call__(self, images: A) -> A:
        """Maps images (..., image_size, image_size, 3) uint8 to float32."""
        mean, scale = np.asarray(self.mean, np.float32), np.asarray(self.scale, np.float32)
        return (images.astype(np.float32) - mean) / scale


def read_preprocess(folder: Path, *, image_size: int) -> Preprocess:
    """Reads preprocessor_config.json of a model folder.

    Raises:
      UserError: it is missing, or specifies other operations than resizing, cropping and normalising to `image_size`.
    """
    return preprocess_of(hub_folder.read_json(folder, PREPROCESSOR), folder=folder, image_size=image_size)


def preprocess_of(c: Mapping[str, Any], *, folder: Path, image_size: int, file: str = PREPROCESSOR) -> Preprocess:
    """The preprocessing of the entries of preprocessor_config.json; `folder` and `file` are for messages.

    Raises:
      UserError: it specifies other operations than resizing, cropping and normalising to `image_size`.
    """

    def refuse(name: str) -> UserError:
        found = reprlib.repr(c.get(name))  # it may be of any size and depth
        return UserError(f"model folder {folder}: {file} has {name}={found}, which is not supported; correct it")

    resample, factor = c.get("resample", 3), c.get("rescale_factor", 1 / 255)
    if not isinstance(resample, int) or resample not in _FILTERS:
        raise refuse("resample")
    if not _is_number(factor) or abs(factor * 255 - 1) > 1e-6 or c.get("do_rescale", True) is False:
        raise refuse("rescale_factor")
    size, crop = _sides(c.get("size")), _sides(c.get("crop_size"))
    crops = c.get("do_center_crop", crop is not None)
    if (crop if crops else size) != (image_size, image_size):
        raise refuse("crop_size" if crops else "size")
    shorter = _shorter_side(c.get("size"))
    if crops and (not isinstance(shorter, int) or not image_size <= shorter <= _LARGER * image_size):
        raise refuse("size")

    def channels(name: str, default: float) -> tuple[float, float, float]:
        values = c.get(name) if c.get("do_normalize", True) else None
        if values is None:
            values = [default] * 3
        if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
            raise refuse(name)
        red, green, blue = (255.0 * value for value in values)
        return red, green, blue

    scale = channels("image_std", 1.0)
    if min(scale) <= 0:
        raise refuse("image_std")
    return Preprocess(
        image_size=image_size,
        shorter_side=shorter if crops else None,
        filter=_FILTERS[resample],
        mean=channels("image_mean", 0.0),
        scale=scale,
        even=c.get(EVEN_MARGIN) is True,
    )


def side_of(c: Mapping[str, Any]) -> int:
    """The side of the square that pictures become by the entries of preprocessor_config.json; 0 where it is not one."""
    crop = _sides(c.get("crop_size"))
    sides = crop if c.get("do_center_crop", crop is not None) else _sides(c.get("size"))
    side = sides[0] if sides and sides[0] == sides[1] else 0
    return side if isinstance(side, int) and not isinstance(side, bool) and 0 < side <= MAX_PIXELS else 0


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that does not overflow in 8-bit values."""
    return isinstance(value, int | float) and abs(value) < 1e6


def _sides(value: Any) -> tuple[Any, Any] | None:
    """(height, width) of 224 or {"height": 224, "width": 224}, unchecked; otherwise None."""
    if isinstance(value, int):
        return value, value
    return (value["height"], value.get("width")) if isinstance(value, dict) and "height" in value else None


def _shorter_side(value: Any) -> Any:
    """224 of 224 or {"shortest_edge": 224}, unchecked; otherwise None."""
    return value.get("shortest_edge") if isinstance(value, dict) else value
