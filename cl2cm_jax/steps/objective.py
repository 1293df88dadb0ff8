"""The objective of CL2CM on one page: embeddings -> named terms -> total.

    total = source * contrastive(V, S) + target * contrastive(V, T)            student
          + sentence * contrastive(S~, T~) + word * alignment(words~)          teacher
          + transfer * KL(relations of the teacher || relations of the student)

Source: paper for the teacher's two levels and the transfer; siblings (NRCCR) for the student's two terms. Their forms
and hyperparameters are config fields (config/fields.py).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.maths import blockwise, contrastive, distillation, word_alignment
from cl2cm_jax.maths import optimal_transport as transport
from cl2cm_jax.maths.confidence import Calibration, posterior, softmax_confidence, standard_scores
from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.maths.similarity import cosine_cost
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks, Teacher, heads_of
from cl2cm_jax.models.towers import Text
from cl2cm_jax.parallel.mesh import BATCH_AXES
from cl2cm_jax.steps.embeddings import Batch, Embeddings, merge_two

Scalars = dict[str, jax.Array]


class Objective(NamedTuple):
    """What the losses need beside arrays. `mesh` matters to `contrastive.form="blockwise"` alone."""

    config: ConfigDict
    networks: Networks
    mesh: Mesh | None = None

    def __call__(
        self, embeddings: Embeddings, params: Params, batch: Batch, *, weights: Scalars, calibration: Calibration
    ) -> tuple[jax.Array, Scalars]:
        """Computes the total and every term that has a weight by name, all () fp32.

        Args:
          embeddings: of the whole batch, also when gradients are accumulated over micro-batches.
          params: for what the losses themselves learn: temperature, bias, pointer.
          batch: identities, validity and the backbone's words.
          weights: of the terms at this step, by name; a term without one is not computed.
          calibration: pair scores -> confidence, by language.
        """
        rows = Rows.of(batch)
        teacher = HeldOut.of(embeddings, rows)
        terms: Scalars = {}
        logged: Scalars = {}
        if "source" in weights:
            terms["source"] = source_term(self, embeddings, params["student"], rows)
        if "target" in weights:
            trusted = jnp.ones(rows.pair.shape)
            if self.config.confidence.kind != "none":
                trusted, scores = pair_confidence(self.config, teacher, batch, calibration)
                logged["confidence"] = _mean_over(trusted, rows.target_is_valid)
                logged["pair_score"] = _mean_over(scores, rows.target_is_valid)
            terms["target"] = target_term(self, embeddings, params["student"], rows, trusted)
        if "sentence" in weights or "word" in weights:
            terms |= teacher_terms(self, embeddings, heads_of(params["teacher"]), rows, batch, names=frozenset(weights))
        if "transfer" in weights:
            terms["transfer"] = transfer_term(self, embeddings, teacher, rows)
        total = sum((weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, {"total": total, **terms, **logged, "temperature": jnp.exp(params["student"]["log_temperature"])}

    def form(self, dense: ModuleType) -> tuple[ModuleType, dict[str, Any]]:
        """The module of the batch-level losses, `dense` or `blockwise`, and what else its functions need."""
        c = self.config.contrastive
        if c.form == "dense":
            return dense, {}
        return blockwise, {"block": c.block, "mesh": self.mesh, "axis": BATCH_AXES}


class Rows(NamedTuple):
    """Identity and validity of the batch's B images and of their B*K target captions, image by image.

    Attributes:
      image_id, is_valid: (B,).
      target_image_id, target_is_valid: (B*K,).
      pair: (B*K,) position of each target caption's image in the batch.
    """

    image_id: jax.Array
    is_valid: jax.Array
    target_image_id: jax.Array
    target_is_valid: jax.Array
    pair: jax.Array

    @classmethod
    def of(cls, batch: Batch) -> Rows:
        images, captions = batch["target_is_valid"].shape
        pair = jnp.repeat(jnp.arange(images), captions)
        valid = (batch["target_is_valid"] & batch["is_valid"][:, None]).reshape(-1)
        return cls(batch["image_id"], batch["is_valid"], batch["image_id"][pair], valid, pair)


class HeldOut(NamedTuple):
    """The teacher's vectors, arranged so that a dot product compares a row under the head of the row's own fold.

    With F heads a row is its held-out head's vector in the slot of that head, zeros elsewhere, and a column is all
    heads' vectors side by side. With one head both are that head's vectors. No gradient passes.

    Attributes:
      source_rows, source_columns: (B, F*D); target_rows, target_columns: (B*K, F*D).
    """

    source_rows: jax.Array
    source_columns: jax.Array
    target_rows: jax.Array
    target_columns: jax.Array

    @classmethod
    def of(cls, embeddings: Embeddings, rows: Rows) -> HeldOut:
        source = jax.lax.stop_gradient(embeddings.teacher_source.sentence)
        target = jax.lax.stop_gradient(jax.vmap(merge_two)(embeddings.teacher_target.sentence))
        heads = len(source)

        def arrange(vectors: jax.Array, image_id: jax.Array) -> tuple[jax.Array, jax.Array]:
            columns = jnp.moveaxis(vectors, 0, 1)  # (N, F, D)
            own = jax.nn.one_hot(image_id % heads, heads)[..., None]
            return (columns * own).reshape(len(columns), -1), columns.reshape(len(columns), -1)

        return cls(*arrange(source, rows.image_id), *arrange(target, rows.target_image_id))


def pair_confidence(
    config: ConfigDict, teacher: HeldOut, batch: Batch, calibration: Calibration
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of every pair in contrastive(V, T) and its standard score, both (B*K,)."""
    captions = batch["target_is_valid"].shape[1]
    per_language = teacher.target_columns.reshape(-1, captions, teacher.target_columns.shape[-1])
    valid = batch["target_is_valid"] & batch["is_valid"][:, None]

    def of_one(columns: jax.Array, valid: jax.Array, language: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = standard_scores(teacher.source_rows, columns, is_valid=valid)
        if config.confidence.kind == "posterior":
            return posterior(scores, language, calibration), scores
        temperature = config.transfer.temperature
        return softmax_confidence(teacher.source_rows, columns, temperature=temperature, is_valid=valid), scores

    trusted, scores = jax.vmap(of_one, in_axes=1, out_axes=1)(per_language, valid, batch["target_language"])
    return trusted.reshape(-1), scores.reshape(-1)


def source_term(objective: Objective, embeddings: Embeddings, student: Params, rows: Rows) -> jax.Array:
    """contrastive(V, S)."""
    vision = Side(embeddings.vision, rows.image_id, rows.is_valid, jnp.ones(rows.is_valid.shape))
    return aligned(objective, vision, vision._replace(vectors=embeddings.source), student)


def target_term(
    objective: Objective, embeddings: Embeddings, student: Params, rows: Rows, trusted: jax.Array
) -> jax.Array:
    """contrastive(V, T), weighted by the confidence of each pair (B*K,); an image weighs as its pairs do on average."""
    target = Side(merge_two(embeddings.target), rows.target_image_id, rows.target_is_valid, trusted)
    captions = len(rows.pair) // len(rows.image_id)
    valid = rows.target_is_valid.reshape(-1, captions)
    per_image = (trusted.reshape(-1, captions) * valid).sum(1) / jnp.maximum(valid.sum(1), 1)
    vision = Side(embeddings.vision, rows.image_id, rows.is_valid, per_image)
    labels = trusted if objective.config.contrastive.labels == "soft" else None
    return aligned(objective, vision, target, student, labels)


def aligned(
    objective: Objective, x: Side, y: Side, student: Params, positive_weight: jax.Array | None = None
) -> jax.Array:
    """The student's contrastive loss of two sides, in the configured form and reduction."""
    c = objective.config.contrastive
    temperature = jnp.exp(student["log_temperature"])
    if not c.learn_temperature:
        temperature = jax.lax.stop_gradient(temperature)
    losses, tiles = objective.form(contrastive)
    if c.loss == "infonce":
        term = losses.infonce(x, y, temperature=temperature, positive_weight=positive_weight, **tiles)
    elif c.loss == "triplet":
        term = losses.triplet(x, y, margin=c.margin, **tiles)
    else:
        term = losses.sigmoid(x, y, scale=1.0 / temperature, bias=student["sigmoid_bias"], **tiles)
    return term.sum if c.reduction == "sum" else term.mean


def teacher_terms(
    objective: Objective, embeddings: Embeddings, params: Params, rows: Rows, batch: Batch, *, names: frozenset[str]
) -> Scalars:
    """Those of "sentence" and "word" alignment that are in `names`, each the mean over heads.

    Head f skips the images of fold f (cross-fitting).
    """
    heads = objective.networks.folds

    def of_head(head: jax.Array, params: Params, source: Text, target: Text) -> Scalars:
        mine = (heads == 1) | (rows.image_id % heads != head)
        source_valid, target_valid = rows.is_valid & mine, rows.target_is_valid & mine[rows.pair]
        target = jax.tree.map(merge_two, target)
        x = Side(source.sentence, rows.image_id, source_valid, jnp.ones(source_valid.shape))
        y = Side(target.sentence, rows.target_image_id, target_valid, jnp.ones(target_valid.shape))
        terms = {}
        if "sentence" in names:
            temperature = jnp.asarray(objective.config.teacher.temperature)
            terms["sentence"] = contrastive.infonce(x, y, temperature=temperature).mean
        if "word" in names:
            paired = jax.tree.map(lambda a: a[rows.pair], source)
            teacher = objective.networks.teacher.bind(params)
            terms["word"] = word_term(objective.config, teacher, paired, target, batch, rows.pair, target_valid).mean
        return terms

    over_heads = jax.vmap(of_head)(jnp.arange(heads), params, embeddings.teacher_source, embeddings.teacher_target)
    return jax.tree.map(lambda x: x.mean(), over_heads)


def word_term(
    config: ConfigDict,
    teacher: Teacher,
    source: Text,
    target: Text,
    batch: Batch,
    pair: jax.Array,
    is_valid: jax.Array,
) -> Term:
    """One transport problem an aligned pair: source words (B*K, L, D) with target words (B*K, L, D)."""
    c = config.word
    assert source.words is not None and target.words is not None
    source_mask, target_mask = batch["source"]["mask"][pair], merge_two(batch["target"]["mask"])
    cost = cosine_cost(source.words, target.words)
    on = (source.words, target.words)
    if c.plan_from == "backbone":
        on = (batch["source"]["words"][pair], merge_two(batch["target"]["words"]))
    plan = transport_plan(config, *on, source_mask=source_mask, target_mask=target_mask)
    if c.loss == "transport":
        return word_alignment.transport_cost(plan, cost, is_valid=is_valid)
    logits = teacher.point(source.words, target.words)
    return word_alignment.self_labelled(
        logits, plan, source_mask=source_mask, target_mask=target_mask, is_valid=is_valid
    )


def transport_plan(
    config: ConfigDict, source: jax.Array, target: jax.Array, *, source_mask: jax.Array, target_mask: jax.Array
) -> jax.Array:
    """The configured solver's plan (B, M, N) between words (B, M, D) and (B, N, D) under their masks."""
    c = config.word
    cost = cosine_cost(source, target)
    marginals = {
        "source_marginal": transport.marginals(source, source_mask, kind=c.marginals),
        "target_marginal": transport.marginals(target, target_mask, kind=c.marginals),
    }
    if c.solver == "ipot":
        return transport.ipot(cost, beta=c.beta, iterations=c.iterations, **marginals)
    return transport.sinkhorn(cost, epsilon=c.epsilon, iterations=c.iterations, **marginals)


def transfer_term(objective: Objective, embeddings: Embeddings, teacher: HeldOut, rows: Rows) -> jax.Array:
    """Relational distillation, mean over the configured relations; gradient into the student only.

    "cross" gives the S-T relation of the teacher to the V-T relation of the student, in both directions;
    "intra_target" gives T-T to T-T and "intra_vision" S-S to V-V, without their diagonals.
    """
    c = objective.config.transfer
    losses, tiles = objective.form(distillation)
    vision, target = embeddings.vision, merge_two(embeddings.target)

    def relation(t_rows, t_columns, s_rows, s_columns, row_valid, column_valid, **options) -> jax.Array:  # noqa: ANN001
        return losses.relational_kl(
            teacher_rows=t_rows,
            teacher_columns=t_columns,
            student_rows=s_rows,
            student_columns=s_columns,
            row_is_valid=row_valid,
            column_is_valid=column_valid,
            temperature=c.temperature,
            student_temperature=c.student_temperature,
            **options,
            **tiles,
        ).mean

    valid, target_valid = rows.is_valid, rows.target_is_valid
    values = []
    if "cross" in c.relations:
        forward = relation(teacher.source_rows, teacher.target_columns, vision, target, valid, target_valid)
        backward = relation(teacher.target_rows, teacher.source_columns, target, vision, target_valid, valid)
        values.append(0.5 * (forward + backward))
    if "intra_target" in c.relations:
        sides = (teacher.target_rows, teacher.target_columns, target, target, target_valid, target_valid)
        values.append(relation(*sides, exclude_diagonal=True))
    if "intra_vision" in c.relations:
        sides = (teacher.source_rows, teacher.source_columns, vision, vision, valid, valid)
        values.append(relation(*sides, exclude_diagonal=True))
    return jnp.stack(values).mean()


def _mean_over(x: jax.Array, mask: jax.Array) -> jax.Array:
    return Term(jnp.where(mask, x, 0.0).sum(), mask.sum().astype(jnp.float32)).mean
