"""Resizing and normalisation of images for a vision backbone.

Those of a model folder are read by transformers, which knows the defaults of each image processor, unless the folder
leaves nothing to defaults. They are computed here; a processor that does anything else is refused.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.config_entries import MAX_PIXELS
from cl2cm_jax.models.files.hub_library import transformers_library

A = TypeVar("A", np.ndarray, jax.Array)

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"  # the latter of a model with two towers
EVEN_MARGIN = "even_crop_margin"  # an entry of ours, see `Preprocess.even`
_NAFLEX = "Siglip2ImageProcessor"  # of pictures of any shape
NAFLEX_FIX = "use a SigLIP 2 of a fixed resolution, such as google/siglip2-base-patch16-224"
_LARGER = 2  # times the size of the crop, of the picture that is cropped; 256 / 224 is usual
_DONE = (
    "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
    "image_mean", "image_std", EVEN_MARGIN,
)  # fmt: skip
_WITHOUT_EFFECT = (
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "default_to_square",
    "backend", "data_format", "input_data_format", "device", "disable_grouping", "return_tensors", "use_fast",
    "_processor_class", "_valid_processor_keys",
)  # fmt: skip
_OWN_WAY = (
    "preprocess",
    "process_image",
    "resize",
    "center_crop",
    "rescale",
    "normalize",
    "_preprocess",
    "_preprocess_image_like_inputs",
    "_prepare_image_like_inputs",
    "_standardize_kwargs",
)  # fmt: skip  (methods of an image processor that computes what is computed here)
# transformers has this one for torchvision alone; it resizes before it rounds to 8 bits
_FOR_TORCHVISION = {
    "DINOv3ViTImageProcessor": {
        "size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
}  # fmt: skip
_PLAIN = ("CLIPImageProcessor", "ViTImageProcessor")  # do what they are told, and no more
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
    """The preprocessing of a model folder: that of its preprocessor_config.json, or processor_config.json.

    Raises:
      UserError: there is none, transformers is not installed, or the folder's does anything but resize, crop and
        normalise to `image_size`; names it.
    """
    content, file = _content(folder)
    return preprocess_of(content, folder=folder, image_size=image_size, file=file)


def picture_size(folder: Path) -> int:
    """The side of the square that pictures of a model folder become, by its preprocessor; 0 where it is not one.

    Raises:
      UserError: there is no preprocessor, transformers is not installed, or does not know it.
    """
    c = _with_defaults(*_content(folder), folder=folder)
    sides = _sides(c["crop_size"] if c["do_center_crop"] else c["size"]) or (0,)
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] and 0 < sides[0] <= MAX_PIXELS else 0


def preprocess_of(content: Mapping[str, Any], *, folder: Path, image_size: int, file: str = PREPROCESSOR) -> Preprocess:
    """The preprocessing of the entries of preprocessor_config.json; `folder` and `file` are for messages.

    Raises:
      UserError: as `read_preprocess`.
    """
    c = _with_defaults(content, file, folder=folder)

    def refuse(name: str) -> UserError:
        found = reprlib.repr(content.get(name, c.get(name)))  # it may be of any size and depth
        return UserError(f"model folder {folder}: {file} has {name}={found}, which is not supported; correct it")

    for name, value in content.items():
        if name not in (*_DONE, *_WITHOUT_EFFECT) and value is not None and value is not False:
            raise refuse(name)
    for name in ("do_resize", "do_rescale"):
        if c[name] is not True:
            raise refuse(name)
    if not isinstance(c["resample"], int) or c["resample"] not in _FILTERS:
        raise refuse("resample")
    if not _is_number(c["rescale_factor"]) or abs(c["rescale_factor"] * 255 - 1) > 1e-6:
        raise refuse("rescale_factor")
    size, crops = _sides(c["size"]), bool(c["do_center_crop"])
    if crops and _sides(c["crop_size"]) != (image_size, image_size):
        raise refuse("crop_size")
    shorter = size[0] if size is not None and len(size) == 1 else None
    if shorter is None:
        if size != (image_size, image_size):
            raise refuse("size")
    elif not crops or not image_size <= shorter <= _LARGER * image_size:
        raise refuse("size")

    def channels(name: str, default: float) -> tuple[float, float, float]:
        values = c[name] if c["do_normalize"] else default
        values = [values] * 3 if _is_number(values) else values
        if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
            raise refuse(name)
        red, green, blue = (255.0 * value for value in values)
        return red, green, blue

    scale = channels("image_std", 1.0)
    if min(scale) <= 0:
        raise refuse("image_std")
    return Preprocess(
        image_size=image_size,
        shorter_side=shorter,
        filter=_FILTERS[c["resample"]],
        mean=channels("image_mean", 0.0),
        scale=scale,
        even=c.get(EVEN_MARGIN) is True,
    )


def preprocessor(p: Preprocess) -> dict[str, Any]:
    """The content of a preprocessor_config.json that says the same, and leaves nothing to defaults."""
    square = {"height": p.image_size, "width": p.image_size}
    crops = p.shorter_side is not None
    return {
        "image_processor_type": _PLAIN[0] if crops else _PLAIN[1],
        "do_resize": True,
        "size": {"shortest_edge": p.shorter_side} if crops else square,
        "resample": next(number for number, name in _FILTERS.items() if name == p.filter),
        "do_center_crop": crops,
        **({"crop_size": square} if crops else {}),
        **({EVEN_MARGIN: True} if p.even else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in p.mean],
        "image_std": [value / 255 for value in p.scale],
        "do_convert_rgb": True,
    }


def _content(folder: Path) -> tuple[dict[str, Any], str]:
    """What the folder says of its image processor, and in which file, in the order of transformers."""
    if (folder / PROCESSOR).is_file():
        nested = hub_folder.read_json(folder, PROCESSOR).get("image_processor")
        if isinstance(nested, dict):
            return nested, PROCESSOR
    return hub_folder.read_json(folder, PREPROCESSOR), PREPROCESSOR


def _with_defaults(content: Mapping[str, Any], file: str, *, folder: Path) -> dict[str, Any]:
    """The entries of an image processor, those that the file leaves out with the defaults of its class.

    Raises:
      UserError: transformers is not installed, has no such class or refuses an entry, or the class goes its own way.
    """
    if _is_whole(content):
        return {name: content.get(name) for name in _DONE}
    transformers = transformers_library(needed_for=file)
    from transformers.image_processing_backends import PilBackend
    from transformers.models.auto import image_processing_auto as auto

    kind = content.get("image_processor_type") or content.get("feature_extractor_type")
    if kind is None and (folder / hub_folder.CONFIG).is_file():  # then that of the model
        model = str(hub_folder.read_json(folder).get("model_type"))
        kind = str(vars(auto)["IMAGE_PROCESSOR_MAPPING_NAMES"].get(model, {}).get("pil")).removesuffix("Pil")
    name = str(kind)[:100].removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    given = {**_FOR_TORCHVISION.get(name, {}), **content}
    plain = "ViTImageProcessor" if name in _FOR_TORCHVISION else name
    made = getattr(transformers, f"{plain}Pil", None) if plain.endswith("ImageProcessor") else None
    if made is None or any(getattr(made, method) is not getattr(PilBackend, method) for method in _OWN_WAY):
        why = "is unknown to transformers" if made is None else "prepares pictures in a way of its own"
        fix = "use another model" if made is None else "use another model, or backbone='transformers'"
        raise UserError(
            f"model folder {folder}: {file} has image_processor_type={str(kind)[:80]!r}, which {why} and is not "
            f"supported; {NAFLEX_FIX if name == _NAFLEX else fix}"
        )
    entries = {name: given[name] for name in (*_DONE, "default_to_square") if given.get(name) is not None}
    processor = made()
    for names in (*([name] for name in entries), entries):  # one by one, so that the wrong one is named
        try:
            processor = made(**{name: entries[name] for name in names})
        except Exception as error:  # it checks sizes and raises whatever it likes
            found = ", ".join(f"{name}={reprlib.repr(entries[name])}" for name in names)
            raise UserError(f"model folder {folder}: {file} has {found} ({one_line(error)}); correct it") from error
    return {name: getattr(processor, name, None) for name in _DONE}


def _is_whole(content: Mapping[str, Any]) -> bool:
    """Whether no entry is left to the defaults of a plain class, as `preprocessor` writes it.

    transformers is then not needed. Its import takes seconds, and brings torch along where that is installed.
    """
    flags = [content.get(name) for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")]
    sizes = [content.get(name) for name in (("size", "crop_size") if flags[1] else ("size",))]
    others = [content.get(name) for name in ("resample", "rescale_factor", "image_mean", "image_std")]
    return (
        content.get("image_processor_type") in _PLAIN
        and all(isinstance(flag, bool) for flag in flags)
        and all(isinstance(size, dict) for size in sizes)
        and None not in others
    )


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that does not overflow in 8-bit values."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e6


def _sides(size: Any) -> tuple[int, ...] | None:
    """(height, width) of a square or box, (shorter side,) of a picture that keeps its form; otherwise None."""
    named = {name: value for name, value in dict(size or {}).items() if value is not None}
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in named.values()):
        return None
    if set(named) == {"shortest_edge"}:
        return (named["shortest_edge"],)
    return (named["height"], named["width"]) if set(named) == {"height", "width"} else None
