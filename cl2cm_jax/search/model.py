"""The trained student as files, and as the two functions that search needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cl2cm_jax.atomic import replacing
from cl2cm_jax.config import from_flat
from cl2cm_jax.encoders import ImageEncoder, padded_frames, text_encoder
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import VISION_TAIL, FeatureShape, Networks, vision_size
from cl2cm_jax.models.trained_layers import in_two_parts
from cl2cm_jax.search.encoder import Encoder
from cl2cm_jax.steps.embed_step import Embedder

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
BATCH = 16  # queries or pictures a call


def save_student(workdir: Path, student: Params) -> str:
    """Writes the student's parameters; returns the name of these weights, a hash of the file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in flatten_dict(student, sep="/").items()}
    content = save(arrays, metadata={"network": "student"})  # one entry: the order of several changes from save to save
    with replacing(workdir / MODEL_FILE) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()[:16]


def load_student(workdir: Path) -> tuple[Params, str]:
    """Reads what `save_student` wrote: parameters and the name of the weights.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = workdir / MODEL_FILE
    try:
        content = path.read_bytes()
        return unflatten_dict(load(content), sep="/"), hashlib.sha256(content).hexdigest()[:16]
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); run --mode=evaluate on the workdir to write it anew"
        ) from error


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


def load_encoder(workdir: Path) -> Encoder:
    """The student of a finished run behind its backbones. TensorFlow is not needed."""
    config = read_config(workdir)
    student, weights = load_student(workdir)
    backbones = {"text": configured_text(config), "vision": configured_vision(config)}
    encoder = student_encoder(config, student, weights=weights, **backbones)
    encoder.text([" "])  # compiles now what every query needs
    return encoder


def student_encoder(
    config: ConfigDict,
    student: Params,
    *,
    weights: str,
    text: TextBackbone,
    vision: VisionBackbone | None,
    batch_size: int = BATCH,
) -> Encoder:
    """A student behind its backbones.

    Args:
      config: what it was trained with.
      student: its parameters, with its own layers of the backbones.
      weights: names them, see `Encoder`.
      text: the backbone as it was before training.
      vision: the same; None where the student was trained on features on disk.
      batch_size: queries or pictures a call of the student's heads.

    Raises:
      UserError: the backbone has not the layers that the configuration names, or takes no captions of that length.
    """
    vision = vision and in_two_parts(config, vision, own=student.get(VISION_TAIL))
    text_features = text_encoder(config, text)
    image_features = ImageEncoder(vision, pool=config.vision.pool) if vision is not None else None
    networks = Networks(config, feature_shape(config, student, text), tunable=text.tunable)
    embedder = Embedder(networks, batch_size=batch_size, max_words=config.text.max_tokens, length_multiple=0)

    def texts(queries: Sequence[str]) -> np.ndarray:
        return embedder.text(student, text_features(queries), np.arange(len(queries)))

    def images(clips: Iterable[Iterable[np.ndarray]]) -> np.ndarray:
        if image_features is None:
            raise UserError(
                "pictures: the model was trained on features on disk (config.vision.backbone='precomputed') and "
                "cannot read pictures; search the gallery of its training run instead"
            )
        features, frames = padded_frames(list(image_features.clips(clips)), least=config.data.frames)
        return embedder.vision(student, features, np.arange(features.shape[1]) < frames[:, None])

    batch = image_features.batch if image_features is not None else 1
    return Encoder(text=texts, images=images, weights=weights, frames=config.data.frames, batch=batch)


def feature_shape(config: ConfigDict, student: Params, text: TextBackbone) -> FeatureShape:
    """Sizes of what a student reads, off its parameters."""
    dim, frames = vision_size(student)
    return FeatureShape(text=text.dim, vision=dim, max_words=config.text.max_tokens, max_frames=frames)
