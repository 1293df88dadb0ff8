"""Any image encoder of transformers, frozen, run by transformers in PyTorch with its own image processor.

Features are the last hidden states, a grid flattened. The global vector is the model's own: the projected one of a
model with two towers, the pooler's, else the state of the class token, else the mean of the states.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import Location, VisionBackbone, VisionOutput, VisionSpec
from cl2cm_jax.models.backbones import torch_folder
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.preprocess import Preprocess

FIELD = "config.vision.path"
_PROBES = ((48, 64), (64, 48))  # height and width of pictures that are prepared to find the size of the inputs
_BATCH = {"cpu": 8, "cuda": 128}
_PIXELS = "pixel_values"


@dataclass(frozen=True, kw_only=True)
class AnyVision(VisionBackbone):
    """An encoder from a model folder, `source`."""

    traced = False
    source: Path

    def write(self, path: Path) -> None:
        """Copies the model folder, with its licence."""
        torch_folder.copy_folder(self.source, path)


class AnySpec(torch_folder.TorchSpec, VisionSpec):
    """A model folder or a hub id, of whatever transformers reads with its own classes; extra `torch`."""

    field = FIELD

    def load(self, path: Location, *, image_size: int = 0) -> VisionBackbone:
        if image_size:
            raise UserError(
                f"config.vision.image_size={image_size}: vision.backbone='transformers' takes the size that its folder "
                "names; use 0, or change size in its preprocessor_config.json"
            )
        folder = self.folder(path)
        return torch_folder.reading(functools.partial(_load, folder), folder, "vision")


SPEC = AnySpec()


def _load(folder: Path) -> AnyVision:
    import transformers

    resize = _resize(folder)
    shapes = {resize(np.zeros((*size, 3), np.uint8)).shape for size in _PROBES}
    if len(shapes) > 1:
        raise UserError(f"model folder {folder}: its image processor keeps the form of a picture; use another model")
    model = torch_folder.read_model(transformers.AutoModel, folder)
    encode = functools.partial(_apply, folder=folder, encode=_encoder(model, folder))
    output = encode({}, np.zeros((1, *next(iter(shapes))), np.float32))
    frames, dim = output.features.shape[1:]
    size = max(next(iter(shapes))[:2])
    return AnyVision(
        frames=frames,
        dim=dim,
        pooled=0 if output.pooled is None else output.pooled.shape[1],
        params=torch_folder.as_params(folder),
        apply=encode,
        preprocess=Preprocess(image_size=size, shorter_side=None, filter="bicubic", mean=(0, 0, 0), scale=(1, 1, 1)),
        resize=resize,
        batch_size=_BATCH[torch_folder.device()],
        hub_class="AutoModel",
        source=folder,
    )


def _resize(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Picture (H, W, 3) uint8 -> the model's input (h, w, 3) float32, by the folder's image processor."""
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **options)
    except (ImportError, ValueError):  # one that is written for torchvision alone
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **options)

    def resize(picture: np.ndarray) -> np.ndarray:
        made = processor(picture, return_tensors="np", input_data_format="channels_last")
        if set(made) != {_PIXELS} or made[_PIXELS].ndim != 4:
            others = ", ".join(sorted(set(made) - {_PIXELS})) or f"pixels of shape {made[_PIXELS].shape}"
            raise UserError(f"model folder {folder}: its image processor gives {others} too, which is not supported")
        return np.asarray(made[_PIXELS][0], np.float32).transpose(1, 2, 0)

    return resize


def _encoder(model: Any, folder: Path) -> Callable[[Any], tuple[Any, Any]]:
    """Pixels (B, 3, h, w) -> states (B, N, d), or (B, d, h, w), and global vectors (B, p), both of PyTorch."""
    tower = getattr(model, "vision_model", None)
    if tower is not None and hasattr(model, "get_image_features"):

        def both_towers(pixels: Any) -> tuple[Any, Any]:
            found = model.get_image_features(pixel_values=pixels)  # since transformers 5 with all outputs
            return tower(pixel_values=pixels).last_hidden_state, getattr(found, "pooler_output", found)

        return both_towers
    has_class = any(name.rpartition(".")[2] == "cls_token" for name, _ in model.named_parameters())

    def one_tower(pixels: Any) -> tuple[Any, Any]:
        output = model(pixel_values=pixels)
        states, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        if pooled is None or not model.has_pooler:
            pooled = states[:, 0] if has_class else states.flatten(2).mean(-1) if states.ndim == 4 else states.mean(1)
        return states, pooled

    if "pixel_values" not in model.forward.__code__.co_varnames and model.main_input_name != _PIXELS:
        raise UserError(f"model folder {folder}: {type(model).__name__} takes {model.main_input_name}, not pictures")
    return one_tower


def _apply(params: Params, images: Any, *, folder: Path, encode: Callable[[Any], tuple[Any, Any]]) -> VisionOutput:
    """Features (B, N, d) and global vectors (B, p) of prepared pictures (B, h, w, 3); outside of JAX."""
    torch = torch_folder.torch_library()
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(torch_folder.device())
    with torch_folder.running(folder), torch.inference_mode():
        states, pooled = encode(pixels)
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    features, vector = (x.float().cpu().numpy() for x in (states, pooled.flatten(1)))
    return VisionOutput(features=features, mask=np.ones(features.shape[:2], bool), pooled=vector)  # pyright: ignore
