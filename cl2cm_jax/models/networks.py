"""The two networks of CL2CM: the student aligns vision with text, the teacher aligns text with text.

Source: paper (two networks, dual-stream at inference, the student alone at inference); their inside is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from cl2cm_jax.config import reads_words
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.towers import Text, TextTower, VisionTower


class FeatureShape(NamedTuple):
    """Sizes of what the backbones yield: d of text and vision, most words a caption, most frames a picture."""

    text: int
    vision: int
    max_words: int
    max_frames: int


class Student(nnx.Module):
    """Cross-modal network: a vision tower and one text tower for every language."""

    def __init__(self, config: ConfigDict, shape: FeatureShape, *, rngs: nnx.Rngs):
        c, contrastive = config.student, config.contrastive
        self.dropout = nnx.Dropout(c.dropout) if c.dropout else None
        self.vision = VisionTower(
            kind=c.vision_tower,
            features=shape.vision,
            hidden=c.hidden,
            heads=c.heads,
            dim=c.dim,
            max_frames=shape.max_frames,
            dtype=config.train.compute,
            rngs=rngs,
        )
        self.text = TextTower(
            kind=c.text_tower,
            pool=c.text_pool,
            features=shape.text,
            hidden=c.hidden,
            heads=c.heads,
            dim=c.dim,
            max_words=shape.max_words,
            residual=c.text_residual,
            dtype=config.train.compute,
            rngs=rngs,
        )
        self.log_temperature = nnx.Param(jnp.log(jnp.asarray(contrastive.temperature, jnp.float32)))
        self.sigmoid_bias = nnx.Param(jnp.asarray(-10.0)) if contrastive.loss == "sigmoid" else None

    def encode_vision(self, features: jax.Array, mask: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Maps features (B, F, d) and mask (B, F) to unit vectors (B, D); `key` turns dropout on."""
        return self.vision(self._drop(features, key), mask)

    def encode_text(self, text: Text, *, key: jax.Array | None = None) -> jax.Array:
        """Maps captions to unit vectors (B, D); `key` turns dropout on."""
        words = None if text.words is None else self._drop(text.words, key)
        return self.text(text._replace(sentence=self._drop(text.sentence, key), words=words)).sentence

    def _drop(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        if self.dropout is None or key is None:
            return x
        return self.dropout(x, rngs=nnx.Rngs(dropout=key), deterministic=False)


def vision_size(student: Params) -> tuple[int, int]:
    """(d, most frames) of the features that a student was trained on, read off its parameters."""
    tower = student["vision"]
    if "encode_frames" not in tower:
        return tower["norm"]["scale"].shape[0], 1
    frames = tower["encode_frames"]
    return frames["norm"]["scale"].shape[0], frames["positions"].shape[0]


class Teacher(nnx.Module):
    """Cross-lingual network: siamese over source and target captions, on its own copy of the text features."""

    def __init__(self, config: ConfigDict, shape: FeatureShape, *, rngs: nnx.Rngs):
        c = config.teacher
        dim = shape.text if c.residual else c.dim
        self.tower = (
            None
            if c.head == "none"
            else TextTower(
                kind="linear" if c.head == "linear" else "attention",
                pool=c.pool,
                features=shape.text,
                hidden=c.hidden,
                heads=c.heads,
                dim=dim,
                max_words=shape.max_words,
                residual=c.residual,
                dtype=config.train.compute,
                rngs=rngs,
            )
        )
        points = self.tower is not None and config.word.loss == "self_labelled"
        self.pointer = nnx.Linear(dim, dim, use_bias=False, rngs=rngs) if points else None

    def __call__(self, text: Text) -> Text:
        """Returns unit sentences (B, D) and words (B, L, D); the backbone's own where there is no head."""
        if self.tower is None:
            return text._replace(sentence=normalize(text.sentence))
        return self.tower(text)

    def point(self, words: jax.Array, partner: jax.Array) -> jax.Array:
        """Bilinear pointer logits (B, M, N) from words (B, M, D) to the partner's words (B, N, D)."""
        assert self.pointer is not None
        return jnp.einsum("bmd,bnd->bmn", self.pointer(normalize(words)), normalize(partner))


class Networks:
    """Student and teacher as pure functions of `params = {"student": ..., "teacher": ...}`.

    The teacher's parameters carry a leading axis of `teacher.folds` heads: head f never trains on the images of
    fold f, and their rows are scored by it alone (cross-fitting; one head that trains on everything if folds=1).
    `reads_words` says whether any tower looks at words; where none does they are neither read nor moved.
    """

    def __init__(self, config: ConfigDict, shape: FeatureShape):
        self.folds: int = 1 if config.teacher.head == "none" else config.teacher.folds
        s, t = config.student, config.teacher
        self.reads_words: bool = reads_words(s.text_tower, s.text_pool) or reads_words(t.head, t.pool)
        self.student = Functional(lambda rngs: Student(config, shape, rngs=rngs))
        self.teacher = Functional(lambda rngs: Teacher(config, shape, rngs=rngs))

    def init(self, key: jax.Array) -> Params:
        student, teacher = jax.random.split(key)
        heads = [self.teacher.init(k) for k in jax.random.split(teacher, self.folds)]
        return {"student": self.student.init(student), "teacher": jax.tree.map(lambda *xs: jnp.stack(xs), *heads)}
