"""The paper's training step on random or real captions: two BERT towers, CLIP features, every loss term."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax import config as configs
from cl2cm_jax.data.corpus import CaptionFeatures, Ragged, padded_length, text_inputs
from cl2cm_jax.data.packing import pack
from cl2cm_jax.maths.confidence import Calibration, uncalibrated
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers import bert
from cl2cm_jax.models.layers.transformer import cut_layers
from cl2cm_jax.models.networks import FeatureShape, Networks
from cl2cm_jax.parallel.mesh import batch_shards, make_mesh
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.steps.embeddings import embed
from cl2cm_jax.steps.objective import Objective
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import TrainStep, make_train_step

VISION = 512  # size of CLIP ViT-B/32's embedding


class Sizes(NamedTuple):
    """Sizes of the step.

    Attributes:
      batch: images per step, each with one source and one target caption.
      tokens: maximum caption length.
      layers: of the text backbone; trained from `first` on.
      hidden, heads, intermediate, vocabulary: of the text backbone; the defaults are mBERT's.
    """

    batch: int = 128
    tokens: int = 48
    layers: int = 12
    first: int = 3
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 119547

    @property
    def bert(self) -> bert.BertShape:
        """The text backbone."""
        positions = max(512, self.tokens)
        return bert.BertShape(
            self.vocabulary, self.hidden, self.layers, self.heads, self.intermediate, positions, 0, 2, 1e-12,
            "gelu", "mean",
        )  # fmt: skip

    def flops(self, tokens: int, *, with_prefix: bool) -> float:
        """FLOPs of one step: forward and backward of the trained layers, forward of the frozen layers `with_prefix`.

        Two networks, a source and a target caption per image, each of `tokens`. A multiply-add counts as two.
        """
        d, h = self.hidden, self.hidden  # the width of the towers' attention blocks
        layer = 4 * d * d + 2 * d * self.intermediate + 2 * tokens * d
        tower = d * h + 8 * h * h + 2 * tokens * h + h * 1024
        trained = 3 * ((self.layers - self.first) * layer + tower)
        frozen = self.first * layer if with_prefix else 0
        return 2.0 * 2 * 2 * self.batch * tokens * (trained + frozen)


def paper_config(sizes: Sizes, *, dtype: str, remat: bool, scan: bool) -> ConfigDict:
    """The configuration of the step: every loss term, and trained layers in both networks."""
    trainable = f"layers {sizes.first}-{sizes.layers - 1}"
    fields = {
        "text.backbone": "bert",
        "text.path": "made-up",
        "text.max_tokens": str(sizes.tokens),
        "text.remat": str(remat),
        "text.scan": str(scan),
        "train.compute": dtype,
        "train.batch_size": str(sizes.batch),
        "student.text_tower": "attention",
        "student.text_pool": "mean",
        "student.dim": "1536",
        "teacher.head": "tower",
        "teacher.pool": "mean",
        "teacher.residual": "False",
        "teacher.schedule": "joint",
        "teacher.dim": "512",
        "weights.word": "1.0",
        "optimizer.clip": "0",
        "optimizer.learning_rate": "1e-4",
        "optimizer.schedule": "constant",
        "optimizer.backbone_rate": "1.0",
    }
    for network in ("student", "teacher"):
        own = {"hidden": str(sizes.hidden), "heads": "8", "text.trainable": trainable, "text.dropout": "0.0"}
        fields |= {f"{network}.{name}": value for name, value in own.items()}
    return configs.override_all(configs.defaults(), fields)


class Step(NamedTuple):
    """Our training step.

    Attributes:
      config: the configuration.
      sizes: of the step.
      backbone: parameters of the text backbone.
      below: parameters of its frozen layers.
      train: the training step.
      networks: student and teacher.
    """

    config: ConfigDict
    sizes: Sizes
    backbone: Params
    below: Params
    train: TrainStep
    networks: Networks

    def prefix(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """States (n, L, d) float16, the input of the trained layers."""
        return np.asarray(_prefix(self.below, ids, mask, self.sizes.bert).astype(jnp.float16))

    def parts(self, params: Params, batch: Any) -> dict[str, Callable[[], Any]]:
        """Nested parts of the step, compiled separately; their differences show where the time goes."""
        objective = Objective(self.config, self.networks, make_mesh(**self.config.mesh))
        weights = {name: jnp.ones(()) for name in ("source", "target", "sentence", "word", "transfer")}
        calibration = Calibration(*map(jnp.asarray, uncalibrated(2)))

        def forward(params: Params, batch: Any) -> Any:
            return embed(self.networks, params, batch)

        def loss(params: Params, batch: Any) -> Any:
            return objective(forward(params, batch), params, batch, weights=weights, calibration=calibration)[0]

        functions = {"forward": forward, "forward + losses": loss, "+ backward": jax.value_and_grad(loss)}
        jitted = {name: jax.jit(function) for name, function in functions.items()}
        return {name: functools.partial(_finished, f, params, batch) for name, f in jitted.items()}

    def put(self, batch: dict[str, Any]) -> Any:
        """Copies a batch to the devices."""
        return put_batch(batch, make_mesh(**self.config.mesh))


def _finished(function: Callable[..., Any], *arguments: Any) -> None:
    jax.block_until_ready(function(*arguments))


_prefix = jax.jit(lambda below, ids, mask, shape: bert.prefix(below, ids, mask, shape=shape), static_argnums=3)


def make_step(sizes: Sizes, *, dtype: str, remat: bool, scan: bool) -> Step:
    """Builds the step with random weights, which do not change its cost."""
    shape = sizes.bert
    config = paper_config(sizes, dtype=dtype, remat=remat, scan=scan)
    backbone = bert.init(jax.random.key(1), shape=shape)
    below, above = cut_layers(backbone, sizes.first)
    features = FeatureShape(text=sizes.hidden, vision=VISION, max_words=sizes.tokens, max_frames=1)
    networks = Networks(config, features, tunable=bert.tunable(shape))
    stages = Stages(0, 10_000)
    train = make_train_step(
        config,
        networks,
        make_optimizers(config, stages, warmup=0),
        mesh=make_mesh(**config.mesh),
        stages=stages,
        languages=2,
        tail=above,
    )
    return Step(config, sizes, backbone, below, train, networks)


class Captions(NamedTuple):
    """Token ids of aligned captions.

    Attributes:
      ids: (2, n, L) int32, source and target.
      mask: (2, n, L) bool.
      vision: (n, VISION) float32.
    """

    ids: np.ndarray
    mask: np.ndarray
    vision: np.ndarray


def made_up(sizes: Sizes, count: int) -> Captions:
    """Captions of exactly `sizes.tokens` tokens."""
    random = np.random.default_rng(0)
    ids = random.integers(0, sizes.vocabulary, (2, count, sizes.tokens), dtype=np.int32)
    return Captions(ids, np.ones(ids.shape, bool), random.normal(size=(count, VISION)).astype(np.float32))


def cached(step: Step, captions: Captions) -> CaptionFeatures:
    """Cached states of the frozen layers for all captions, source before target, as in the feature cache."""
    ids, mask = (x.reshape(-1, x.shape[-1]) for x in (captions.ids, captions.mask))
    pieces = [slice(start, start + 64) for start in range(0, len(ids), 64)]
    values = np.concatenate([step.prefix(ids[piece], mask[piece])[mask[piece]] for piece in pieces])
    offsets = np.concatenate([[0], mask.sum(1).cumsum()]).astype(np.int64)
    is_word = np.ones(len(values), bool)
    is_word[offsets[:-1]] = is_word[offsets[1:] - 1] = False
    states = Ragged(values=values, offsets=offsets, is_word=is_word)
    sentences = np.zeros((len(ids), step.sizes.hidden), np.float32)
    return CaptionFeatures(sentences, states.select(np.zeros(0, int)), states)


def batch_of(text: CaptionFeatures, captions: Captions, rows: np.ndarray, *, tokens: int, multiple: int) -> dict:
    """A batch of the images `rows`, as the data pipeline makes it."""
    count = len(captions.vision)
    both = np.concatenate([rows, count + rows])
    length = padded_length(text, both, max_length=tokens, multiple=multiple)
    source = text_inputs(text, rows, length=length, with_words=False)
    target = text_inputs(text, count + rows, length=length, with_words=False)
    size = len(rows)
    tokens_of = np.stack([source["tokens"], target["tokens"]], axis=1).sum(-1)
    return {
        "packing": pack(tokens_of, length=length, groups=batch_shards(make_mesh())),
        "vision": {"features": captions.vision[rows][:, None], "mask": np.ones((size, 1), bool)},
        "source": source,
        "target": {name: array[:, None] for name, array in target.items()},
        "target_language": np.ones((size, 1), np.int32),
        "target_is_valid": np.ones((size, 1), bool),
        "image_id": rows.astype(np.int32),
        "is_valid": np.ones(size, bool),
    }
