"""Backbones by the names in the configuration: modules of `models/backbones/`, or dotted names of any module."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from cl2cm_jax.config import (
    TEXT_BACKBONES,
    VISION_BACKBONES,
    cut_layer,
    has_vision_backbone,
    load_plugin,
    plugin_names,
)
from cl2cm_jax.config.declarations import AUTO, before_text
from cl2cm_jax.config.plugins import ANY
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import TextBackbone, TextSpec, VisionBackbone, VisionSpec
from cl2cm_jax.models.files.hub_library import model_types

Kind = Literal["text", "vision"]
_PACKAGES = {"text": TEXT_BACKBONES, "vision": VISION_BACKBONES}


def text_spec(name: str) -> TextSpec:
    """What a text backbone says of itself without its weights; raises UserError if the name is unknown."""
    return _spec("text", name)


def vision_spec(name: str) -> VisionSpec:
    """What a vision backbone says of itself without its weights; raises UserError if the name is unknown."""
    return _spec("vision", name)


def text_backbone(name: str, path: str | Path | None = None) -> TextBackbone:
    """Loads a text backbone.

    Args:
      name: a module of `models/backbones/text`, or a dotted name.
      path: of the weights, as the module says; None: those of an installed package.

    Raises:
      UserError: the name is unknown, or the weights are missing or damaged.
    """
    return text_spec(name).load(path)


def vision_backbone(name: str, path: str | Path | None = None, *, image_size: int = 0) -> VisionBackbone:
    """Loads a vision backbone.

    Args:
      name: a module of `models/backbones/vision`, or a dotted name.
      path: of the weights, as the module says; None: those of an installed package.
      image_size: side of an image in pixels; 0: the model's own.

    Raises:
      UserError: the name is unknown, the weights are missing or damaged, or the size does not fit the backbone.
    """
    return vision_spec(name).load(path, image_size=image_size)


def fingerprint(kind: Kind, name: str, path: str | Path | None = None) -> str:
    """SHA-256 of a backbone's weights; raises UserError if the name is unknown or the file is missing."""
    return _spec(kind, name).fingerprint(path)


def other_backbone(kind: Kind, model_type: object) -> str:
    """The fix for a folder whose model_type is of another backbone: its name, or that transformers runs any model."""
    names = plugin_names(_PACKAGES[kind])
    if found := next((name for name in names if model_type in tuple(_spec(kind, name).families)), ""):
        return f"config.{kind}.backbone={found!r} reads it"
    with contextlib.suppress(UserError):  # transformers is not installed
        if isinstance(model_type, str) and model_type in model_types(kind):
            return f"config.{kind}.backbone={ANY!r} runs it, frozen (extra torch)"
    return "use such a model"


def hashes(config: ConfigDict, kind: Kind) -> dict[str, str]:
    """SHA-256 of each file of the configured backbone, by name; raises UserError if one is missing."""
    return _spec(kind, config[kind].backbone).hashes(config[kind].path or None)


def backbone_kinds(config: ConfigDict) -> tuple[Kind, ...]:
    """The backbones that a configuration has."""
    return ("text", "vision") if has_vision_backbone(config) else ("text",)


def pinned(config: ConfigDict) -> ConfigDict:
    """The configuration with the commit that each hub id is at now, so that no later download is of another."""
    config = config.copy_and_resolve_references()
    for kind in backbone_kinds(config):
        path = config[kind].path
        if path and hub_folder.is_hub_id(path):
            folder = _spec(kind, config[kind].backbone).folder(path)
            config[kind].path = hub_folder.at_revision(path, hub_folder.revision_of(folder) if folder else "")
    return config


def load_libraries(config: ConfigDict) -> None:
    """Imports the libraries of the backbones that JAX does not run; raises UserError if one is not installed."""
    for kind in backbone_kinds(config):
        _spec(kind, config[kind].backbone).load_library()


def text_prompt(config: ConfigDict) -> str:
    """What stands before every text; of "auto", what the model folder names, whose file may be damaged: a UserError."""
    t = config.text
    return before_text(text_spec(t.backbone).prompts(t.path or None).own if t.prompt == AUTO else t.prompt)


def settled(config: ConfigDict) -> ConfigDict:
    """The configuration with the prompt itself in place of "auto", as a run keeps it."""
    config = config.copy_and_resolve_references()
    config.text.prompt = text_prompt(config)
    return config


def prompt_notes(config: ConfigDict) -> list[tuple[int, str]]:
    """Log lines, each with its level: which prompt is used, and that of a model which is used without one."""
    t, used = config.text, text_prompt(config)
    said = text_spec(t.backbone).prompts(t.path or None)
    if used:
        source = said.source if used == before_text(said.own) else "config.text.prompt"
        return [(logging.INFO, f"text: {used!r} stands before every caption and query ({source})")]
    advised = before_text(said.own or said.usual)
    if not advised:
        return []
    why = f"its folder names {advised!r} ({said.source})" if said.own else f"its authors put {advised!r} before queries"
    line = f"config.text.prompt='' gives the text backbone no prompt, and {why}; set it, or expect worse results"
    return [(logging.WARNING, line)]


def model_folder(config: ConfigDict, kind: Kind) -> Path | None:
    """The model folder of a configured backbone; None where its weights are one file."""
    return _spec(kind, config[kind].backbone).folder(config[kind].path or None)


def configured_text(config: ConfigDict) -> TextBackbone:
    """Loads the configured text backbone."""
    check_trained_backbones(config)
    return text_backbone(config.text.backbone, config.text.path or None)


def configured_text_reader(config: ConfigDict) -> TextBackbone:
    """The same to encode texts alone: in less memory where no layer of it is trained, see `TextSpec.load_frozen`."""
    check_trained_backbones(config)
    spec = text_spec(config.text.backbone)
    load = spec.load_frozen if cut_layer(config) is None else spec.load
    return load(config.text.path or None)


def configured_vision(config: ConfigDict) -> VisionBackbone | None:
    """Loads the configured vision backbone; None with precomputed features."""
    check_trained_backbones(config)
    v = config.vision
    if not has_vision_backbone(config):
        return None
    return vision_backbone(v.backbone, v.path or None, image_size=v.image_size)


def check_trained_backbones(config: ConfigDict) -> None:
    """Refuses to train layers of backbones that have none to train, before any weights are read; raises UserError."""
    parts: tuple[tuple[Kind, str], ...] = (("text", "student"), ("text", "teacher"), ("vision", "student"))
    for kind, part in parts:
        name, trainable = config[kind].backbone, config[part][kind].trainable
        if trainable and not _spec(kind, name).has_layers:
            known = [repr(one) for one in plugin_names(_PACKAGES[kind]) if _spec(kind, one).has_layers]
            needed = f"config.{kind}.backbone={' or '.join(known)}"
            raise UserError(f"config.{part}.{kind}.trainable={trainable!r} needs {needed}, not {name!r}; or use ''")


def _spec(kind: Kind, name: str) -> Any:
    return load_plugin(_PACKAGES[kind], name, "SPEC", field=f"config.{kind}.backbone")
