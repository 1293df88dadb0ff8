"""One tower of a folder with both, or with it alone: its configuration, its tensors, and the scale of the scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.config_entries import Entries
from cl2cm_jax.models.configured import backbone_kinds, model_folder, other_backbone
from cl2cm_jax.models.dual_encoders import open_clip
from cl2cm_jax.models.preprocess import NAFLEX_FIX

Side = Literal["text", "vision"]
FAMILIES = {"clip": "clip", "siglip": "siglip", "metaclip_2": "clip", "siglip2": "siglip"}  # of both towers
NAFLEX = ("siglip2", "siglip2_vision_model")
_LAYERS = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
# What transformers 5 takes where config.json, which holds what differs, has no entry.
_DEFAULTS: dict[tuple[str, Side], Mapping[str, Any]] = {
    ("clip", "text"): {
        **{"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12},
        **{"num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu"},
        **{"layer_norm_eps": 1e-5, "eos_token_id": 49407, "pad_token_id": 1},
    },
    ("siglip", "text"): {
        **_LAYERS,
        **{"vocab_size": 32000, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh"},
        **{"layer_norm_eps": 1e-6, "eos_token_id": 49407, "pad_token_id": 1},
    },
    ("clip", "vision"): {
        **_LAYERS,
        **{"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    },
    ("siglip", "vision"): {
        **_LAYERS,
        **{"image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    },
}
_OTHER: Mapping[Side, Side] = {"text": "vision", "vision": "text"}
_PROJECTIONS = {"text": "text_projection.", "vision": "visual_projection."}


class Tower(NamedTuple):
    """What a folder says of one tower.

    Attributes:
      family: "clip" or "siglip".
      model_type: of the tower alone, e.g. "clip_text_model".
      entries: of its configuration.
    """

    family: str
    model_type: str
    entries: Entries


def families(side: Side) -> tuple[str, ...]:
    """model_type of the folders that have a tower: of both, and of it alone."""
    return (*FAMILIES, *(f"{name}_{side}_model" for name in FAMILIES))


def read_tower(folder: Path, side: Side) -> Tower:
    """Reads the configuration of one tower.

    Raises:
      UserError: the model is of another family or variant, or the file is damaged; names it.
    """
    if open_clip.is_open_clip(folder):
        content = open_clip.content_of(folder, side)
        entries = Entries(content=content, folder=folder, missing="; get a fresh copy", file=open_clip.CONFIG)
        return Tower(FAMILIES[content["model_type"].removesuffix(f"_{side}_model")], content["model_type"], entries)
    both = Entries(content=hub_folder.read_json(folder), folder=folder, missing="; get a fresh copy")
    alone = {f"{name}_{side}_model": name for name in FAMILIES}
    named = both.content.get("model_type")
    if side == "vision":
        check_fixed(folder, named)
    if isinstance(named, str) and named in {f"{name}_{_OTHER[side]}_model" for name in FAMILIES}:
        raise UserError(
            f"model folder {folder}: model_type={named!r} is of a folder without its {side} tower; save the model with "
            "both towers there, or name another folder"
        )
    otherwise = "" if named in families(side) else other_backbone(side, named)
    model_type = both.one_of("model_type", families(side), otherwise=otherwise)
    name = alone.get(model_type, model_type)
    tower = both if model_type in alone else _part(both, side)
    if "projection_dim" in both.content and model_type not in alone:
        tower = replace(tower, content={**tower.content, "projection_dim": both.content["projection_dim"]})
    content = {**_DEFAULTS[FAMILIES[name], side], **{key: it for key, it in tower.content.items() if it is not None}}
    return Tower(FAMILIES[name], f"{name}_{side}_model", replace(tower, content=content))


def check_fixed(folder: Path, model_type: object) -> None:
    """Refuses a SigLIP 2 of pictures of any shape; raises UserError."""
    if model_type in NAFLEX:
        raise UserError(
            f"model folder {folder}: model_type={model_type!r} is NaFlex, a model of images of any shape, which is not "
            f"supported; {NAFLEX_FIX}"
        )


def _part(both: Entries, side: Side) -> Entries:
    """The entries of a tower; early files repeat them in an object that goes before."""
    first = f"{side}_config_dict"
    name = first if both.content.get(first) else f"{side}_config"
    return both.within(name) if both.content.get(name) is not None else replace(both, content={})


def projects(folder: Path, side: Side) -> bool:
    """Whether the folder has the tower's projection to the space of both; raises UserError without weights."""
    if open_clip.is_open_clip(folder):
        return "projection_dim" in open_clip.content_of(folder, side)
    return hub_folder.has_tensor(folder, f"{_PROJECTIONS[side]}weight")


def read_tensors(folder: Path, side: Side) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a tower by the names of transformers, without the prefix of the tower, and the file's names.

    Raises:
      UserError: there are no safetensors, or a file is damaged.
    """
    if open_clip.is_open_clip(folder):
        return open_clip.read_tensors(folder, side)
    other = _OTHER[side]
    ids = "embeddings.position_ids"
    unused = (f"{other}_model.", _PROJECTIONS[other], "logit_", ids, f"{side}_model.{ids}")
    found = hub_folder.read_tensors(folder, leave_out=unused)
    # newer files of the tower alone have no prefix
    return hub_folder.renamed(found, lambda name: name.removeprefix(f"{side}_model."), source=folder)


class Scores(NamedTuple):
    """How a model turns cosines into scores: exp(log_scale) * cosine + bias. A bias is of a sigmoid loss (SigLIP)."""

    log_scale: float
    bias: float | None


def configured_scores(config: ConfigDict) -> Scores | None:
    """The scale of the model whose towers are configured, where training starts with it (`contrastive.temperature` 0).

    Raises:
      UserError: no backbone is from a folder with both towers.
    """
    if config.contrastive.temperature:
        return None
    for kind in backbone_kinds(config):
        folder = model_folder(config, kind)
        scores = folder and read_scores(folder)
        if scores:
            return scores
    raise UserError(
        "config.contrastive.temperature=0 takes the scale of the scores from the model folder of a backbone, and none "
        "has both towers of a CLIP or SigLIP; use 0.07, or such a folder"
    )


def read_scores(folder: Path) -> Scores | None:
    """The scale of the scores of a folder with both towers; None where it has none, as of a tower alone.

    Raises:
      UserError: a value is not a number, or the weights are missing or damaged.
    """
    found = hub_folder.read_tensors(folder, only=("logit_scale", "logit_bias"))
    for name, value in found.items():
        if value.size != 1:
            raise UserError(f"model folder {folder}: tensor {name} has shape {value.shape}, not one number")
    if "logit_scale" not in found:
        return None
    bias = found.get("logit_bias")
    return Scores(float(found["logit_scale"].reshape(())), None if bias is None else float(bias.reshape(())))
