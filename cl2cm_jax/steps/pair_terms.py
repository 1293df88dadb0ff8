"""The terms that couple all pairs of a batch, each from its dense loss; one_sweep.py has the other form of the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.maths import blockwise, contrastive, distillation
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.models.functional import Params
from cl2cm_jax.parallel.mesh import BATCH_AXES
from cl2cm_jax.steps.embeddings import Embeddings, merge_two
from cl2cm_jax.steps.rows import HeldOut, Rows
from cl2cm_jax.steps.word_scores import WordRelation

Scalars = dict[str, jax.Array]


class Coupled(NamedTuple):
    """What the terms read.

    Attributes:
      config: the configuration.
      mesh: matters to the blockwise form alone.
      heads: of the teacher.
      embeddings, rows, teacher: of the whole batch.
      trusted: (B*K,) weight of every pair in contrastive(V, T).
      student: parameters, for temperature and bias.
      names: of the terms "source", "target", "sentence", and of the relations "cross", "intra_target", "intra_vision".
      words: what words add to the relation "cross"; None for nothing.
    """

    config: ConfigDict
    mesh: Mesh | None
    heads: int
    embeddings: Embeddings
    rows: Rows
    teacher: HeldOut
    trusted: jax.Array
    student: Params
    names: frozenset[str]
    words: WordRelation | None = None

    @property
    def temperature(self) -> jax.Array:
        """Of the student's contrast, ()."""
        found = jnp.exp(self.student["log_temperature"])
        return found if self.config.contrastive.learn_temperature else jax.lax.stop_gradient(found)

    @property
    def bias(self) -> jax.Array:
        """Of the student's sigmoid loss, (); the other losses have none."""
        return self.student.get("sigmoid_bias", jnp.zeros(()))

    @property
    def image_weight(self) -> jax.Array:
        """(B,), an image weighs in contrastive(V, T) as its pairs do on average."""
        valid = self.rows.target_is_valid.reshape(len(self.rows.image_id), -1)
        return (self.trusted.reshape(valid.shape) * valid).sum(1) / jnp.maximum(valid.sum(1), 1)

    def learns(self, head: jax.Array | int, image_id: jax.Array) -> jax.Array:
        """Whether a head of the teacher learns from an image: not from those of its fold (cross-fitting)."""
        return (self.heads == 1) | (image_id % self.heads != head)


def tiles_of(config: ConfigDict, mesh: Mesh | None) -> dict[str, Any]:
    """What the functions of maths/blockwise.py are told beside what the dense ones are."""
    c = config.contrastive
    return {"block": c.block, "mesh": mesh, "axis": BATCH_AXES, "exchange": c.exchange}


def reduced(config: ConfigDict, term: Term) -> jax.Array:
    """A term of the student's contrast as it is configured, ()."""
    return term.sum if config.contrastive.reduction == "sum" else term.mean


def term_by_term(c: Coupled) -> Scalars:
    """Every term with score matrices of its own."""
    rows, embeddings, found = c.rows, c.embeddings, {}
    vision = Side(embeddings.vision, rows.image_id, rows.is_valid, jnp.ones(rows.is_valid.shape))
    if "source" in c.names:
        found["source"] = _contrast(c, vision, vision._replace(vectors=embeddings.source))
    if "target" in c.names:
        target = Side(merge_two(embeddings.target), rows.target_image_id, rows.target_is_valid, c.trusted)
        soft = c.trusted if c.config.contrastive.labels == "soft" else None
        found["target"] = _contrast(c, vision._replace(weight=c.image_weight), target, soft)
    if "sentence" in c.names:
        found["sentence"] = _sentence(c)
    if "cross" in c.names:
        student, valid = (embeddings.vision, merge_two(embeddings.target)), (rows.is_valid, rows.target_is_valid)
        parts = {"sentence": c.config.transfer.sentence, "own": c.config.transfer.own}
        teacher = c.teacher.relation(embeddings, rows, **parts)
        forward = (teacher.source_rows, teacher.target_columns), student, valid
        backward = (teacher.target_rows, teacher.source_columns), student[::-1], valid[::-1]
        by_words = None if c.words is None else c.words.dense(len(rows.image_id))
        transposed = None if by_words is None else by_words.T
        found["cross"] = 0.5 * (
            _relation(c, *forward, teacher_bias=transposed) + _relation(c, *backward, teacher_bias=by_words)
        )
    return found


def intra_relations(c: Coupled) -> Scalars:
    """Relations of a side to itself, without their diagonals: of T-T to T-T and of S-S to V-V."""
    target, vision = merge_two(c.embeddings.target), c.embeddings.vision
    sides = {
        "intra_target": (
            (c.teacher.target_rows, c.teacher.target_columns),
            (target,) * 2,
            (c.rows.target_is_valid,) * 2,
        ),
        "intra_vision": ((c.teacher.source_rows, c.teacher.source_columns), (vision,) * 2, (c.rows.is_valid,) * 2),
    }
    return {name: _relation(c, *of, exclude_diagonal=True) for name, of in sides.items() if name in c.names}


def _contrast(c: Coupled, x: Side, y: Side, positive_weight: jax.Array | None = None) -> jax.Array:
    """The student's contrastive loss of two sides."""
    if c.config.contrastive.loss == "infonce":
        term = contrastive.infonce(x, y, temperature=c.temperature, positive_weight=positive_weight)
    elif c.config.contrastive.loss == "triplet":
        term = contrastive.triplet(x, y, margin=c.config.contrastive.margin)
    else:
        term = contrastive.sigmoid(x, y, scale=1.0 / c.temperature, bias=c.bias)
    return reduced(c.config, term)


def _sentence(c: Coupled) -> jax.Array:
    """The teacher's contrastive(S, T), mean over heads."""
    rows = c.rows

    def of_head(head: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
        mine = c.learns(head, rows.image_id)
        source_valid, target_valid = rows.is_valid & mine, rows.target_is_valid & mine[rows.pair]
        x = Side(source, rows.image_id, source_valid, jnp.ones(source_valid.shape))
        y = Side(merge_two(target), rows.target_image_id, target_valid, jnp.ones(target_valid.shape))
        return contrastive.infonce(x, y, temperature=jnp.asarray(c.config.teacher.temperature)).mean

    vectors = c.embeddings.teacher_source.sentence, c.embeddings.teacher_target.sentence
    return jax.vmap(of_head)(jnp.arange(c.heads), *vectors).mean()


def _relation(c: Coupled, teacher: Any, student: Any, valid: Any, **options: Any) -> jax.Array:
    """Relational distillation from (rows, columns) of the teacher to those of the student."""
    losses, tiles = distillation, {}
    if c.config.contrastive.form == "blockwise":
        losses, tiles = blockwise, tiles_of(c.config, c.mesh)
    return losses.relational_kl(
        teacher_rows=teacher[0],
        teacher_columns=teacher[1],
        student_rows=student[0],
        student_columns=student[1],
        row_is_valid=valid[0],
        column_is_valid=valid[1],
        temperature=c.config.transfer.temperature,
        student_temperature=c.config.transfer.student_temperature,
        **options,
        **tiles,
    ).mean
