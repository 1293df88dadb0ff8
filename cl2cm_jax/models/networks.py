"""The two networks of CL2CM: the student aligns vision with text, the teacher aligns text with text.

Source: paper (two networks; the student alone at inference).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from cl2cm_jax.config import heads_first, keeps_start, lora_rank, reads_words, student_first, teacher_first
from cl2cm_jax.errors import UserError
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.models.backbone import TailOptions, TextOutput, Tunable, VisionBackbone
from cl2cm_jax.models.dual_encoders.folder import Scores
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.lora import init_adapters, merged
from cl2cm_jax.models.layers.packing import Packing
from cl2cm_jax.models.towers import Text, TextTower, TowerSize, VisionTower

# keys of a network's parameters for its trained layers of the backbones
TAIL = "text_backbone"
VISION_TAIL = "vision_backbone"


class FeatureShape(NamedTuple):
    """Sizes of the backbones' outputs.

    Attributes:
      text: of a sentence vector.
      vision: d of the features.
      max_words: longest caption in words.
      max_frames: most frames of an image.
      words: d of the words; 0: as `text`.
    """

    text: int
    vision: int
    max_words: int
    max_frames: int
    words: int = 0


class Pretrained(NamedTuple):
    """Parameters of the backbones that a training step reads and does not train.

    Attributes:
      below: of the vision backbone, below the student's layers.
      text, vision: of the student's layers as they were before training, where that is needed; {} otherwise.
    """

    below: Params
    text: Params
    vision: Params


NOTHING = Pretrained({}, {}, {})


class Student(nnx.Module):
    """Cross-modal network: a vision tower and one text tower for all languages."""

    def __init__(self, config: ConfigDict, shape: FeatureShape, *, rngs: nnx.Rngs):
        c, contrastive = config.student, config.contrastive
        self.dropout = nnx.Dropout(c.dropout) if c.dropout else None
        vision = TowerSize(shape.vision, c.hidden, c.heads, c.dim, shape.max_frames, config.train.compute)
        _check_residual(config, shape)
        self.vision = VisionTower(vision, kind=c.vision_tower, residual=c.vision_residual, rngs=rngs)
        text = TowerSize(shape.text, c.hidden, c.heads, c.dim, shape.max_words, config.train.compute, shape.words)
        self.text = TextTower(text, kind=c.text_tower, pool=c.text_pool, residual=c.text_residual, rngs=rngs)
        temperature = contrastive.temperature or 1.0  # 0: replaced by the model's own, see `Networks.init`
        self.log_temperature = nnx.Param(jnp.log(jnp.asarray(temperature, jnp.float32)))
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


def _check_residual(config: ConfigDict, shape: FeatureShape) -> None:
    """Refuses sizes with which a head cannot start at its backbone's vectors; raises UserError."""
    c = config.student
    text = ("text", "sentence vectors", shape.text)
    vision = ("vision", "global vectors of pictures", shape.vision)
    if c.text_residual and c.vision_residual and shape.text != shape.vision:
        raise UserError(
            f"config.student.text_residual=True and vision_residual=True start in one space, and the text backbone's "
            f"vectors have {shape.text} values, the vision backbone's {shape.vision}; use both towers of one model, or "
            "False for one of them"
        )
    for tower, vectors, size in (text, vision):
        if c[f"{tower}_residual"] and c.dim != size:
            raise UserError(
                f"config.student.{tower}_residual=True starts at the backbone's {vectors}; use "
                f"config.student.dim={size}, their size (got {c.dim})"
            )


def vision_size(student: Params) -> tuple[int, int]:
    """(d, most frames) of the features that a student was trained on, from the shapes of its parameters."""
    tower = student["vision"]
    if "encode_frames" not in tower:
        return tower["project"]["kernel"].shape[0], 1
    frames = tower["encode_frames"]
    return frames["norm"]["scale"].shape[0], frames["positions"].shape[0]


class Teacher(nnx.Module):
    """Cross-lingual network: the same weights for source and target captions, on its own copy of the text features."""

    def __init__(self, config: ConfigDict, shape: FeatureShape, *, rngs: nnx.Rngs):
        c = config.teacher
        dim = shape.text if c.residual else c.dim
        size = TowerSize(shape.text, c.hidden, c.heads, dim, shape.max_words, config.train.compute, shape.words)
        kind = "linear" if c.head == "linear" else "attention"
        has_tower = c.head != "none"
        self.tower = TextTower(size, kind=kind, pool=c.pool, residual=c.residual, rngs=rngs) if has_tower else None
        points = self.tower is not None and config.word.loss == "self_labelled"
        self.pointer = nnx.Linear(dim, dim, use_bias=False, rngs=rngs) if points else None
        # orthogonal, so that it nearly keeps the words' cosines at the start
        orthogonal = nnx.initializers.orthogonal()
        narrows = config.word.loss == "contrast" and reads_words(c.head, c.pool)
        self.narrow_words = (
            nnx.Linear(dim, config.word.dim, use_bias=False, kernel_init=orthogonal, rngs=rngs) if narrows else None
        )

    def __call__(self, text: Text) -> Text:
        """Returns unit sentences (B, D) and words (B, L, D); the backbone's own where there is no head.

        With `word.loss="contrast"` words have `word.dim` dimensions.
        """
        if self.tower is None:
            return text._replace(sentence=normalize(text.sentence))
        return self.tower(text, narrow=self.narrow_words)

    def pointer_logits(self, words: jax.Array, partner: jax.Array) -> jax.Array:
        """Bilinear pointer logits (B, M, N) from words (B, M, D) to the partner's words (B, N, D)."""
        assert self.pointer is not None
        return jnp.einsum("bmd,bnd->bmn", self.pointer(normalize(words)), normalize(partner))


class Networks:
    """Student and teacher as pure functions of `params = {"student": ..., "teacher": ...}`.

    The teacher's parameters have a leading axis of `teacher.folds` heads (cross-fitting): head f is not trained on the
    images of fold f, and alone scores their rows; with folds=1 one head is trained on everything. A network that trains
    layers of the text backbone has its own copy of them under `TAIL`, without that axis; the student has its layers of
    the vision backbone under `VISION_TAIL`.

    Args:
      config: the configuration.
      shape: sizes of the features.
      tunable: of the text backbone, if a network trains layers of it.
      vision: the vision backbone cut in two (`trained_layers.vision_layers`), if the student trains layers of it.
      scores: of the pretrained model, where the student starts with them (`contrastive.temperature` 0).

    Attributes:
      folds: number of the teacher's heads.
      reads_words: whether a network uses the frozen backbone's words; otherwise they are not read.
      keeps_start: whether a term keeps the student near the model that it starts at.
    """

    def __init__(
        self,
        config: ConfigDict,
        shape: FeatureShape,
        *,
        tunable: Tunable[TextOutput] | None = None,
        vision: VisionBackbone | None = None,
        scores: Scores | None = None,
    ):
        self.folds: int = 1 if config.teacher.head == "none" else config.teacher.folds
        s, t = config.student, config.teacher
        self._trains = {"student": student_first(config) is not None, "teacher": teacher_first(config) is not None}
        frozen_student = not self._trains["student"] or heads_first(config)
        self.reads_words: bool = (frozen_student and reads_words(s.text_tower, s.text_pool)) or (
            not self._trains["teacher"] and reads_words(t.head, t.pool)
        )
        self.keeps_start: bool = keeps_start(config)
        self.student = Functional(lambda rngs: Student(config, shape, rngs=rngs))
        self.teacher = Functional(lambda rngs: Teacher(config, shape, rngs=rngs))
        trained = {TAIL: "text", VISION_TAIL: "vision"}
        ranks = {
            part: lora_rank(s[kind].trainable, field=f"student.{kind}.trainable") for part, kind in trained.items()
        }
        self._ranks = {part: rank for part, rank in ranks.items() if rank}
        self._tunable, self._vision, self._scores = tunable, vision, scores
        shared = {"remat": config.text.remat, "scan": config.text.scan, "dtype": config.train.compute}
        self._options = {name: TailOptions(dropout=config[name].text.dropout, **shared) for name in self._trains}

    def init(self, key: jax.Array, *, tail: Params | None = None, vision: Params | None = None) -> Params:
        """Random parameters; those of the backbones' trained layers are pretrained: `tail` of text, `vision`."""
        student, teacher = jax.random.split(key)
        heads = [self.teacher.init(k) for k in jax.random.split(teacher, self.folds)]
        params = {"student": self.student.init(student), "teacher": jax.tree.map(lambda *xs: jnp.stack(xs), *heads)}
        if self._scores is not None:
            params["student"] |= _scaled(params["student"], self._scores)
        for name, trains in self._trains.items():
            if trains:
                assert tail is not None
                params[name][TAIL] = jax.tree.map(jnp.copy, tail)  # the state is donated: no buffer is in it twice
        if vision is not None:
            params["student"][VISION_TAIL] = jax.tree.map(jnp.copy, vision)
        for place, (part, rank) in enumerate(self._ranks.items()):
            pretrained = tail if part == TAIL else vision
            assert pretrained is not None
            params["student"][part] = init_adapters(jax.random.fold_in(student, place), pretrained, rank=rank)
        return params

    @property
    def has_adapters(self) -> bool:
        """Whether the student trains low-rank adapters of backbone layers, and not the layers."""
        return bool(self._ranks)

    def with_layers(self, student: Params, pretrained: Pretrained) -> Params:
        """The student's parameters with whole layers in place of adapters, as all other functions take them."""
        whole = {TAIL: pretrained.text, VISION_TAIL: pretrained.vision}
        return student | {part: merged(whole[part], student[part]) for part in self._ranks}

    def vision_features(
        self, student: Params, vision: Mapping[str, jax.Array], *, frozen: Params | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Runs the vision backbone on images if the student trains layers of it; features are returned as they are.

        Args:
          student: its parameters.
          vision: a batch's "pixels" (B, S, S, 3) uint8; or "features" (B, F, d) and "mask" (B, F).
          frozen: parameters of the backbone below the student's layers, without gradient.

        Returns:
          Features (B, F, d) and mask (B, F), for `encode_vision`.
        """
        if VISION_TAIL not in student:
            return vision["features"], vision["mask"]
        backbone = self._vision
        assert backbone is not None
        params = {"frozen": frozen or {}, "own": student[VISION_TAIL]}
        output = backbone.apply(params, backbone.preprocess(vision["pixels"]))
        features = output.features if output.pooled is None else output.pooled[:, None]
        return features, jnp.ones(features.shape[:2], bool)

    def encode_vision(
        self, student: Params, features: jax.Array, mask: jax.Array, *, key: jax.Array | None = None
    ) -> jax.Array:
        """The student's unit vectors (B, D) for features (B, F, d) with mask (B, F); `key` turns dropout on."""
        return self.student.bind(heads_of(student)).encode_vision(features, mask, key=key)

    def encode_text(self, student: Params, text: Text, *, key: jax.Array | None = None) -> jax.Array:
        """The student's unit vectors (B, D) for captions from `read`; `key` turns dropout on."""
        return self.student.bind(heads_of(student)).encode_text(text, key=key)

    def encode_teacher(self, teacher: Params, text: Text) -> Text:
        """Vectors of each of the teacher's F heads for captions from `read`: sentence (F, N, D), words (F, N, L, D)."""

        def by_one(head: Params) -> Text:
            return self.teacher.bind(head)(text)._replace(mask=None, states=None, tokens=None)

        heads = heads_of(teacher)
        if not heads:  # no head: no parameters to map over, one set of vectors
            return jax.tree.map(lambda x: x[None], by_one({}))
        return jax.vmap(by_one)(heads)

    def text_features(
        self,
        network: Literal["student", "teacher"],
        params: Params,
        text: Text,
        *,
        packing: Packing | None = None,
        key: jax.Array | None = None,
    ) -> Text:
        """Runs a network's own layers of the text backbone, if it has any.

        Args:
          network: whose dropout rate is used.
          params: of this network.
          text: captions (..., L, d) of any leading axes.
          packing: rows shared by several captions; None: one caption per row.
          key: turns dropout on.

        Returns:
          Input of the network's heads: sentence (..., d), words (..., L, d), mask (..., L).
        """
        if TAIL not in params:
            return text._replace(states=None, tokens=None)
        assert self._tunable is not None and text.states is not None and text.tokens is not None
        states, tokens = (x.reshape(-1, *x.shape[text.tokens.ndim - 1 :]) for x in (text.states, text.tokens))
        options = self._options[network]
        output = self._tunable.tail(params[TAIL], states, tokens, packing=packing, key=key, options=options)
        leading = text.tokens.shape[:-1]
        sentence, words, mask = (
            x.reshape(*leading, *x.shape[1:]) for x in (output.sentence, output.words, output.mask)
        )
        # what a backbone computes of padding is a state, and no word
        return Text(sentence, words, mask if text.mask is None else mask & text.mask)


def _scaled(student: Params, scores: Scores) -> Params:
    """Temperature and, where the loss has one, bias of a pretrained model's scores."""
    found = {"log_temperature": -scores.log_scale, "sigmoid_bias": scores.bias}
    return {name: jnp.full_like(student[name], x) for name, x in found.items() if name in student and x is not None}


def heads_of(params: Params) -> Params:
    """A network's parameters without those of the backbones' layers."""
    return {name: value for name, value in params.items() if name not in (TAIL, VISION_TAIL)}
