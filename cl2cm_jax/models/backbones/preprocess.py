"""What a vision backbone expects of a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder

A = TypeVar("A", np.ndarray, jax.Array)

_FILE = "preprocessor_config.json"
_FILTERS: dict[int, Literal["bicubic", "bilinear"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Pixels of a side and how they are got, then (value - mean) / scale of 8-bit values, by channel.

    Attributes:
      image_size: side of the picture that goes in.
      shorter_side: the picture is scaled to it before its centre is cut out; None squashes the whole picture instead.
      filter: of the scaling.
      mean, scale: of the three channels, in 8-bit values.
    """

    image_size: int
    shorter_side: int | None
    filter: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]

    def at(self, image_size: int) -> Preprocess:
        """The same for pictures of another size."""
        shorter = self.shorter_side and round(self.shorter_side * image_size / self.image_size)
        return replace(self, image_size=image_size, shorter_side=shorter)

    def __call__(self, images: A) -> A:
        """Maps pictures (..., image_size, image_size, 3) uint8 to float32."""
        mean, scale = np.asarray(self.mean, np.float32), np.asarray(self.scale, np.float32)
        return (images.astype(np.float32) - mean) / scale


def read_preprocess(folder: Path, *, image_size: int) -> Preprocess:
    """Reads preprocessor_config.json of a model folder.

    Raises:
      UserError: it is missing, or asks for something else than scaling, cutting and normalising to `image_size`.
    """
    c = hub_folder.read_json(folder, _FILE)

    def refuse(name: str) -> UserError:
        return UserError(f"model folder {folder}: {_FILE} has {name}={c.get(name)!r}, which is not supported")

    if c.get("resample", 3) not in _FILTERS:
        raise refuse("resample")
    if abs(c.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or c.get("do_rescale", True) is False:
        raise refuse("rescale_factor")
    size, crop = _sides(c.get("size")), _sides(c.get("crop_size"))
    crops = c.get("do_center_crop", crop is not None)
    final = crop if crops else size
    shorter = _shorter_side(c.get("size"))
    if (crops and shorter is None) or final != (image_size, image_size):
        raise refuse("crop_size" if crops else "size")
    normalises = c.get("do_normalize", True)
    mean, scale = (c.get(name) if normalises else None for name in ("image_mean", "image_std"))
    return Preprocess(
        image_size=image_size,
        shorter_side=shorter if crops else None,
        filter=_FILTERS[c.get("resample", 3)],
        mean=_channels(mean or (0.0,) * 3, 255.0),
        scale=_channels(scale or (1.0,) * 3, 255.0),
    )


def _sides(value: Any) -> tuple[int, int] | None:
    """(height, width) of 224 or {"height": 224, "width": 224}; None of anything else."""
    if isinstance(value, int):
        return value, value
    return (value["height"], value["width"]) if isinstance(value, dict) and "height" in value else None


def _shorter_side(value: Any) -> int | None:
    if isinstance(value, int):
        return value
    return value.get("shortest_edge") if isinstance(value, dict) else None


def _channels(values: Any, factor: float) -> tuple[float, float, float]:
    red, green, blue = (factor * float(value) for value in values)
    return red, green, blue
