"""The objective of CL2CM on one page: embeddings -> named terms -> total.

    total = source * contrastive(V, S) + target * contrastive(V, T)            student
          + sentence * contrastive(S~, T~) + word * alignment(words~)          teacher
          + transfer * KL(relations of the teacher || relations of the student)

Source: paper for the teacher's two levels and the transfer; siblings (NRCCR) for the student's two terms. Their forms
and hyperparameters are config fields (config/fields.py).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cl2cm_jax.maths import blockwise, confidence, word_alignment
from cl2cm_jax.maths import optimal_transport as transport
from cl2cm_jax.maths.confidence import Calibration
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.maths.similarity import cosine_cost
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks, Teacher, heads_of
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps.embeddings import Batch, Embeddings, merge_two
from cl2cm_jax.steps.pair_terms import Coupled, Scalars, intra_relations, term_by_term, tiles_of
from cl2cm_jax.steps.pair_terms_blockwise import in_one_sweep
from cl2cm_jax.steps.rows import HeldOut, Rows
from cl2cm_jax.steps.word_scores import Words, contrast, relation, solve

TERMS = ("source", "target", "sentence", "word", "transfer")
RELATIONS = ("cross", "intra_target", "intra_vision")  # of the transfer, which is their mean


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
        rows, names = Rows.of(batch), frozenset(weights)
        teacher = HeldOut.of(embeddings, rows)
        trusted, logged = jnp.ones(rows.pair.shape), {}
        if "target" in names and self.config.confidence.kind != "none":
            trusted, scores = pair_confidence(self, teacher, batch, calibration)
            logged["confidence"] = _mean_over(trusted, rows.target_is_valid)
            logged["pair_score"] = _mean_over(scores, rows.target_is_valid)
        relations = self.config.transfer.relations if "transfer" in names else ()
        words = None
        if "cross" in relations and self.config.transfer.word:
            words = relation(self.config, teacher, embeddings, batch, rows, mesh=self.mesh)
        coupled = Coupled(
            config=self.config,
            mesh=self.mesh,
            heads=self.networks.folds,
            embeddings=embeddings,
            rows=rows,
            teacher=teacher,
            trusted=trusted,
            student=params["student"],
            names=names.union(relations),
            words=words,
        )
        form = term_by_term if self.config.contrastive.form == "dense" else in_one_sweep
        found = form(coupled) | intra_relations(coupled)
        if "word" in names:
            found["word"], alike = word_mean(self, embeddings, heads_of(params["teacher"]), coupled, batch)
            logged["word_cosine"] = jax.lax.stop_gradient(alike)
        if relations:
            found["transfer"] = jnp.stack([found[name] for name in RELATIONS if name in relations]).mean()
        terms = {name: found[name] for name in TERMS if name in names}
        total = sum((weights[name] * value for name, value in terms.items()), jnp.zeros(()))
        return total, {"total": total, **terms, **logged, "temperature": jnp.exp(params["student"]["log_temperature"])}


def pair_confidence(
    objective: Objective, teacher: HeldOut, batch: Batch, calibration: Calibration
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of every pair in contrastive(V, T) and its standard score, both (B*K,)."""
    config, captions = objective.config, batch["target_is_valid"].shape[1]
    per_language = teacher.target_columns.reshape(-1, captions, teacher.target_columns.shape[-1])
    valid = batch["target_is_valid"] & batch["is_valid"][:, None]
    form, tiles = confidence, {}
    if config.contrastive.form == "blockwise":
        form, tiles = blockwise, tiles_of(config, objective.mesh)
        tiles["block"] = max(1, tiles["block"] // captions)  # languages side by side

    def of_one(columns: jax.Array, valid: jax.Array, language: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = form.standard_scores(teacher.source_rows, columns, is_valid=valid, **tiles)
        if config.confidence.kind == "posterior":
            return confidence.posterior(scores, language, calibration), scores
        temperature = config.transfer.temperature
        return form.softmax_confidence(
            teacher.source_rows, columns, temperature=temperature, is_valid=valid, **tiles
        ), scores

    trusted, scores = jax.vmap(of_one, in_axes=1, out_axes=1)(per_language, valid, batch["target_language"])
    return trusted.reshape(-1), scores.reshape(-1)


def word_mean(
    objective: Objective, embeddings: Embeddings, params: Params, coupled: Coupled, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Word alignment, mean over heads, and how alike the words of a source caption are, both ().

    A head skips the images of its fold.
    """
    config, rows = objective.config, coupled.rows
    source_mask = batch["source"]["mask"]

    def of_head(head: jax.Array, params: Params, source: Text, target: Text) -> tuple[jax.Array, jax.Array]:
        assert source.words is not None
        source_valid = rows.is_valid & coupled.learns(head, rows.image_id)
        target_valid = rows.target_is_valid & coupled.learns(head, rows.target_image_id)
        target = jax.tree.map(merge_two, target)
        if config.word.loss == "contrast":
            valid = {"source_valid": source_valid, "target_valid": target_valid}
            term = contrast(config, source, target, batch, rows, **valid, mesh=objective.mesh)
        else:
            paired = jax.tree.map(lambda a: a[rows.pair], source)
            teacher = objective.networks.teacher.bind(params)
            term = word_term(config, teacher, paired, target, batch, rows.pair, target_valid)
        said = Words.of(source.words, source_mask, rows.is_valid, marginals="uniform")
        return term.mean, word_alignment.mean_word_cosine(said.unit, said.mask).mean

    of_heads = params, embeddings.teacher_source, embeddings.teacher_target
    if config.word.loss == "contrast":  # head by head, so that gathers have no batch axis
        each = [of_head(jnp.asarray(i), *jax.tree.map(lambda a, i=i: a[i], of_heads)) for i in range(coupled.heads)]
        terms, alike = (jnp.stack(values) for values in zip(*each, strict=True))
    else:
        terms, alike = jax.vmap(of_head)(jnp.arange(coupled.heads), *of_heads)
    return terms.mean(), alike.mean()


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
    masses = (
        transport.marginals(words, mask, kind=config.word.marginals)
        for words, mask in ((source, source_mask), (target, target_mask))
    )
    of_source, of_target = masses
    return solve(config, cosine_cost(source, target), source_marginal=of_source, target_marginal=of_target)


def _mean_over(x: jax.Array, mask: jax.Array) -> jax.Array:
    return Term(jnp.where(mask, x, 0.0).sum(), mask.sum().astype(jnp.float32)).mean
