"""The files of a training run: its configuration, and the student that it selected."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cl2cm_jax.config import current_names, from_flat, student_first, vision_first
from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, VISION_TAIL, FeatureShape, Networks, vision_size
from cl2cm_jax.models.pretrained import assign, check_tensors, shapes_of
from cl2cm_jax.models.trained_layers import check_text_layers, in_two_parts
from cl2cm_jax.runtime.checksums import read_checked, read_checked_json, write_checked, write_checked_json

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def save_student(workdir: Path, student: Params) -> str:
    """Writes the student's parameters; returns the name of these weights, a hash of the file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in flatten_dict(student, sep="/").items()}
    content = save(arrays, metadata={"network": "student"})  # one entry, since the order of several is not fixed
    write_checked(workdir / MODEL_FILE, content)
    return hashlib.sha256(content).hexdigest()[:16]


def load_student(
    workdir: Path, config: ConfigDict, *, text: TextBackbone, vision: VisionBackbone | None
) -> tuple[Params, str]:
    """Reads the file of `save_student`: parameters and the name of the weights.

    The backbones are those before training; `vision` is None where the student was trained on features on disk.

    Raises:
      UserError: the file is missing or damaged, or its tensors are not those of the configuration.
    """
    path = workdir / MODEL_FILE
    again = "run --mode=evaluate on the workdir to write it again"
    try:
        content = read_checked(path, fix=again)
        check_tensors(io.BytesIO(content))
        arrays = load(content)
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {again}") from error
    try:
        shape = feature_shape(config, unflatten_dict(arrays, sep="/"), text)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a complete student checkpoint ({one_line(error)}); {again}") from error
    if vision is not None and shape.vision != (found := vision_features(config, vision)):
        raise UserError(f"{path} is of {shape.vision} features, but the vision backbone yields {found}; {again}")
    abstract = _abstract(config, shape, text=text, vision=vision)
    for name, wanted in shapes_of(abstract).items():
        if wanted == () and name in arrays and arrays[name].shape == (1,):  # as `ascontiguousarray` writes a scalar
            arrays[name] = arrays[name].reshape(())
    student = assign(abstract, arrays, source=path)
    for name, leaf in flatten_dict(student, sep="/").items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise UserError(f"{path}: {name} holds values that are not finite; train the model again")
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


def write_config(workdir: Path, fields: Mapping[str, object]) -> None:
    """Writes the flattened configuration of a run."""
    write_checked_json(workdir / CONFIG_FILE, fields)


def read_fields(path: Path) -> dict[str, object]:
    """The fields of a config.json; raises OSError or ValueError if it is missing or damaged, UserError if changed."""
    fields = read_checked_json(path, fix="restore it")
    if not isinstance(fields, dict):
        raise ValueError("it holds no fields")
    return current_names(fields)


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of a workdir; raises UserError if there is none, or it is damaged."""
    path = workdir / CONFIG_FILE
    try:
        return from_flat(read_fields(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); give the --workdir of a training run") from error


def feature_shape(config: ConfigDict, student: Params, text: TextBackbone) -> FeatureShape:
    """Sizes of the features that a student reads, from its parameters."""
    dim, frames = vision_size(student)
    return FeatureShape(
        text=text.sentence_size,
        vision=dim,
        max_words=config.text.max_tokens,
        max_frames=frames,
        words=text.dim if text.dim != text.sentence_size else 0,
    )


def vision_features(config: ConfigDict, vision: VisionBackbone) -> int:
    """D of the features that a vision backbone yields."""
    return (config.vision.pool == "backbone" and vision.pooled) or vision.dim
