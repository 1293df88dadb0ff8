"""The files of a training run: its configuration, and the student that it selected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cl2cm_jax.config import from_flat, student_first, vision_first
from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, VISION_TAIL, FeatureShape, Networks, vision_size
from cl2cm_jax.models.pretrained import assign, shapes_of
from cl2cm_jax.models.trained_layers import check_text_layers, in_two_parts
from cl2cm_jax.runtime.atomic import replacing

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_student(workdir: Path, student: Params) -> str:
    """Writes the student's parameters; returns the name of these weights, a hash of the file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in flatten_dict(student, sep="/").items()}
    content = save(arrays, metadata={"network": "student"})  # one entry: the order of several changes from save to save
    with replacing(workdir / MODEL_FILE) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()[:16]


def load_student(
    workdir: Path, config: ConfigDict, *, text: TextBackbone, vision: VisionBackbone | None
) -> tuple[Params, str]:
    """Reads what `save_student` wrote: parameters and the name of the weights.

    Args:
      workdir: of the run.
      config: what it was trained with.
      text: the backbone as it was before training.
      vision: the same; None where the student was trained on features on disk.

    Raises:
      UserError: the file is missing or damaged, or its tensors are not those of the configuration.
    """
    path = workdir / MODEL_FILE
    again = "run --mode=evaluate on the workdir to write it anew"
    try:
        content = path.read_bytes()
        arrays = load(content)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {again}") from error
    try:
        shape = feature_shape(config, unflatten_dict(arrays, sep="/"), text)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no student, or half a one ({one_line(error)}); {again}") from error
    if vision is not None and shape.vision != (found := vision_features(config, vision)):
        raise UserError(f"{path} is of {shape.vision} features, but the vision backbone yields {found}; {again}")
    abstract = _abstract(config, shape, text=text, vision=vision)
    for name, wanted in shapes_of(abstract).items():
        if wanted == () and name in arrays and arrays[name].shape == (1,):  # as `ascontiguousarray` writes a scalar
            arrays[name] = arrays[name].reshape(())
    student = assign(abstract, arrays, source=path)
    if odd := [
        name for name, leaf in flatten_dict(student, sep="/").items() if not np.isfinite(np.asarray(leaf)).all()
    ]:
        raise UserError(f"{path}: {odd[0]} holds values that are not finite; train the model anew")
    return student, hashlib.sha256(content).hexdigest()[:16]


def _abstract(
    config: ConfigDict, shape: FeatureShape, *, text: TextBackbone, vision: VisionBackbone | None
) -> dict[str, Any]:
    """A student's parameters, without their values."""
    networks = Networks(config, shape, tunable=text.tunable)
    abstract: dict[str, Any] = dict(jax.eval_shape(networks.student.init, jax.random.key(0)))
    first = student_first(config)
    if first is not None:
        tunable = check_text_layers(config, text)
        assert tunable is not None
        abstract[TAIL] = tunable.cut(text.params, first)[1]
    if vision is not None and vision_first(config) is not None:
        abstract[VISION_TAIL] = in_two_parts(config, vision).params["own"]
    return abstract


def read_fields(path: Path) -> dict[str, object]:
    """The fields that a config.json holds; raises OSError or ValueError where it is missing or damaged."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it holds no fields")
    return fields


def read_config(workdir: Path) -> ConfigDict:
    """The configuration that a workdir was trained with.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = workdir / CONFIG_FILE
    try:
        return from_flat(read_fields(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give the --workdir of a training run") from error


def feature_shape(config: ConfigDict, student: Params, text: TextBackbone) -> FeatureShape:
    """Sizes of what a student reads, off its parameters."""
    dim, frames = vision_size(student)
    return FeatureShape(text=text.dim, vision=dim, max_words=config.text.max_tokens, max_frames=frames)


def vision_features(config: ConfigDict, vision: VisionBackbone) -> int:
    """D of the features that a vision backbone yields."""
    return (config.vision.pool == "backbone" and vision.pooled) or vision.dim
