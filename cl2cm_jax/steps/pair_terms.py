"""Pairwise loss terms, dense form: what a loss term is given, and the student's contrastive loss of two sides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.maths import contrastive
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.parallel.mesh import BATCH_AXES
from cl2cm_jax.steps.embeddings import Batch, BatchIds, Embeddings, HeldOut
from cl2cm_jax.steps.word_scores import WordRelation

Scalars = dict[str, jax.Array]


class TermInputs(NamedTuple):
    """What a loss term may read, all of the whole batch.

    Attributes:
      config: the configuration.
      networks: student and teacher, for their sizes and for modules that a loss runs.
      mesh: for the blockwise form.
      params: {"student", "teacher"}, for what the losses themselves learn: temperature, bias, pointer.
      batch: captions, masks and ids as the data pipeline yields them.
      embeddings, ids: outputs of both networks; image ids and masks.
      teacher: the teacher's vectors by held-out head.
      confidence: (B*K,) weight of every pair in contrastive(V, T).
      names: of the terms that are computed, and of the relations of the term "transfer".
      words: word scores that are added to the relation "cross"; None for nothing.
      precomputed: the terms and relations that the blockwise form has computed in one pass.
    """

    config: ConfigDict
    networks: Networks
    mesh: Mesh | None
    params: Params
    batch: Batch
    embeddings: Embeddings
    ids: BatchIds
    teacher: HeldOut
    confidence: jax.Array
    names: frozenset[str]
    words: WordRelation | None = None
    precomputed: Mapping[str, jax.Array] = MappingProxyType({})

    @property
    def temperature(self) -> jax.Array:
        """Of the student's contrastive loss, ()."""
        found = jnp.exp(self.params["student"]["log_temperature"])
        return found if self.config.contrastive.learn_temperature else jax.lax.stop_gradient(found)

    @property
    def bias(self) -> jax.Array:
        """Of the student's sigmoid loss, (); the other losses have none."""
        return self.params["student"].get("sigmoid_bias", jnp.zeros(()))

    @property
    def image_weight(self) -> jax.Array:
        """Weight of an image in contrastive(V, T): the mean confidence of its pairs, (B,)."""
        valid = self.ids.target_is_valid.reshape(len(self.ids.image_id), -1)
        return (self.confidence.reshape(valid.shape) * valid).sum(1) / jnp.maximum(valid.sum(1), 1)

    def trains(self, head: jax.Array | int, image_id: jax.Array) -> jax.Array:
        """Whether a teacher head trains on an image: not on those of its own fold (cross-fitting)."""
        folds = self.networks.folds
        return (folds == 1) | (image_id % folds != head)


def tiles_of(config: ConfigDict, mesh: Mesh | None) -> dict[str, Any]:
    """Arguments of the functions in maths/blockwise.py that the dense ones lack."""
    c = config.contrastive
    return {"block": c.block, "mesh": mesh, "axis": BATCH_AXES, "exchange": c.exchange}


def reduced(config: ConfigDict, term: Term) -> jax.Array:
    """Sum or mean of a student's contrastive term, as `contrastive.reduction` says, ()."""
    return term.sum if config.contrastive.reduction == "sum" else term.mean


def contrast(inputs: TermInputs, x: Side, y: Side, positive_weight: jax.Array | None = None) -> jax.Array:
    """The student's contrastive loss of two sides, (); `positive_weight` as in `contrastive.infonce`."""
    c = inputs.config.contrastive
    if c.loss == "infonce":
        term = contrastive.infonce(x, y, temperature=inputs.temperature, positive_weight=positive_weight)
    elif c.loss == "triplet":
        term = contrastive.triplet(x, y, margin=c.margin)
    else:
        term = contrastive.sigmoid(x, y, scale=1.0 / inputs.temperature, bias=inputs.bias)
    return reduced(inputs.config, term)
