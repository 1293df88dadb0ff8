"""The student of a finished run as an `Encoder`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import MANY_LETTERS, ImageEncoder, TextEncoder, padded_frames, text_encoder
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text_reader, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import VISION_TAIL, Networks
from cl2cm_jax.models.trained_layers import in_two_parts
from cl2cm_jax.runtime.start import return_freed_memory
from cl2cm_jax.steps.embed_step import Embedder
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.training.identity import as_trained
from cl2cm_jax.training.workdir import feature_shape, load_student, read_config

BATCH = 16  # queries or pictures per call
_MANY_UNKNOWN = 1 / 3  # share of the word pieces of a text in a language that the encoder does not know


def load_encoder(workdir: Path) -> Encoder:
    """The student of a finished run behind its backbones. TensorFlow is not needed.

    Raises:
      UserError: a file of the run or of a backbone is missing or damaged, or they do not fit together.
    """
    config = as_trained(read_config(workdir), workdir)
    text, vision = configured_text_reader(config), configured_vision(config)
    return_freed_memory()  # of the files that were read
    student, weights = load_student(workdir, config, text=text, vision=vision)
    encoder = student_encoder(config, student, weights=weights, text=text, vision=vision)
    encoder.text([" "])  # compiles the text tower now, not at the first query
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
      config: of the training run.
      student: its parameters, with the trained layers of the backbones.
      weights: identifies them, see `Encoder`.
      text: the backbone before training.
      vision: the same; None if the student was trained on precomputed features.
      batch_size: queries or pictures per call of the student's heads.

    Raises:
      UserError: the backbone lacks layers that the configuration names, or is too short for its captions.
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
                "the model was trained on precomputed features (config.vision.backbone='precomputed') and cannot read "
                "pictures; search the gallery of its training run instead"
            )
        features, frames = padded_frames(list(image_features.clips(clips)), minimum=config.data.frames)
        return embedder.vision(student, features, np.arange(features.shape[1]) < frames[:, None])

    batch, enough = (1, 0) if image_features is None else (image_features.batch, image_features.enough)
    return Encoder(
        text=texts,
        images=images,
        weights=weights,
        frames=config.data.frames,
        batch=batch,
        enough=enough,
        notice=partial(_notice, text_features),
        pieces=partial(_pieces, text_features),
    )


def _pieces(encoder: TextEncoder, words: Sequence[str]) -> list[int]:
    """The number of word pieces of each word, more than any has where one of them is unknown."""
    tokens = encoder.tokens(words)
    unknown = encoder.losses(words, tokens).unknown > 0
    return np.where(unknown, encoder.max_tokens + 1, tokens.mask.sum(1)).tolist()


def _notice(encoder: TextEncoder, text: str) -> str:
    """What of a text is not read, in one line; "" if it is read as a whole."""
    losses, found = encoder.losses([text], encoder.tokens([text])), []
    if (share := losses.unknown[0]) >= _MANY_UNKNOWN:
        found.append(f"the text encoder does not know {share:.0%} of the word pieces, and probably not the language")
    elif (share := encoder.spelt(text)) >= MANY_LETTERS:
        found.append(f"the text encoder reads {share:.0%} letter by letter, and probably does not know the language")
    if losses.is_cut[0]:
        found.append(f"only the first {encoder.room} word pieces are read; shorten the text")
    return "; ".join(found)
