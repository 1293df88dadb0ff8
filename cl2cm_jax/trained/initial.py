"""The parameters of a trained model as the start of another training (`--init`)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.config import student_first, vision_first
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision, settled
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import VISION_TAIL
from cl2cm_jax.models.trained_layers import in_two_parts
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.model import is_workdir, locate_bundle
from cl2cm_jax.training.identity import as_trained
from cl2cm_jax.training.workdir import load_student, read_config


class Initial(NamedTuple):
    """A student whose parameters another one starts from.

    Attributes:
      name: of the model, as the user named it.
      weights: identifies its weights.
      student: its parameters, with the trained layers of the backbones.
    """

    name: str
    weights: str
    student: Params


def initial_student(model: str, config: ConfigDict) -> Initial:
    """The student of a workdir, a bundle or a hub id, for a training with `config`.

    Raises:
      UserError: there is no such model, it is damaged, or it was trained on another backbone.
    """
    config, folder = settled(config), Path(model)
    if is_workdir(folder):
        theirs = as_trained(read_config(folder), folder)
        text, vision = configured_text(theirs), configured_vision(theirs)
        _check_backbones(model, theirs, config, text=text, vision=vision)
        student, weights = load_student(folder, theirs, text=text, vision=vision)
        return Initial(model, weights, student)
    try:
        parts = Parts(locate_bundle(model))
    except UserError as error:
        raise UserError(f"--init: {error}") from error
    _check_backbones(model, parts.config, config, text=parts.text, vision=parts.vision)
    student = dict(parts.student)
    if parts.vision is not None and vision_first(parts.config) is not None:
        student[VISION_TAIL] = in_two_parts(parts.config, parts.vision).params["own"]
    return Initial(model, parts.manifest.weights, student)


def _check_backbones(
    model: str, theirs: ConfigDict, ours: ConfigDict, *, text: TextBackbone, vision: VisionBackbone | None
) -> None:
    """Refuses a student on features of another kind, even of the same size; `text` and `vision` are its backbones."""
    for name in ("text.backbone", "vision.backbone", "vision.pool", "text.lowercase", "text.prompt"):
        group, _, leaf = name.partition(".")
        if theirs[group][leaf] != ours[group][leaf]:
            raise UserError(
                f"--init={model} was trained with config.{name}={theirs[group][leaf]!r}, not {ours[group][leaf]!r}; "
                "use its value, or start without --init"
            )
    pairs = [("text", student_first(theirs), text, configured_text(ours))]
    pairs += [("vision", vision_first(theirs), vision, configured_vision(ours))]
    for kind, first, backbone, own in pairs:
        if backbone and own and not _equal(_frozen(backbone, first), _frozen(own, first)):
            raise UserError(
                f"--init={model} was trained on other weights of the {kind} backbone than config.{kind}.path="
                f"{ours[kind].path!r} has; name those, or start without --init",
                id="other-backbone",
            )


def _frozen(backbone: TextBackbone | VisionBackbone, first: int | None) -> Params:
    """The parameters of a backbone below the first trained layer; all if none is trained."""
    if first is None or backbone.tunable is None:
        return backbone.params
    head = {"pooled": True} if isinstance(backbone, VisionBackbone) else {}  # of no matter to the part below
    return backbone.tunable.cut(backbone.params, first, **head)[0]


def _equal(one: Params, other: Params) -> bool:
    same = jax.tree.structure(one) == jax.tree.structure(other)
    return same and all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))
