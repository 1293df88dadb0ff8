"""Scores of sentence pairs by their words, for a few candidate pairs of each target caption.

A target caption is compared word by word with k source captions of the batch: the most similar ones by the teacher's
sentence vectors, its own always among them. So memory is O(B k L^2), never B x B x L x L.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from cl2cm_jax.maths import optimal_transport as transport
from cl2cm_jax.maths import word_alignment
from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.similarity import cosine_cost, normalize, scores
from cl2cm_jax.models.towers import Text
from cl2cm_jax.parallel.mesh import BATCH_AXES
from cl2cm_jax.steps.embeddings import Batch, BatchIds, Embeddings, HeldOut, merge_two


class Words(NamedTuple):
    """Words of N captions, masked where the caption is not valid; leading axes may be more than one.

    Attributes:
      unit: (N, L, d) of unit length, 0 at padding.
      mask: (N, L) bool, True at real words.
      mass: (N, L), marginals of transport.
    """

    unit: jax.Array
    mask: jax.Array
    mass: jax.Array

    @classmethod
    def of(cls, words: jax.Array, mask: jax.Array, is_valid: jax.Array, *, marginals: str) -> Words:
        """From words (N, L, d), their mask (N, L) bool and that of the captions (N,) bool."""
        mask = mask & is_valid[..., None]
        words = zero_invalid(words, mask)
        return cls(normalize(words), mask, transport.marginals(words, mask, kind=marginals))  # type: ignore[arg-type]

    def at(self, index: jax.Array) -> Words:
        """Words of the captions `index`, of any shape."""
        return Words(*(a[index] for a in self))


class Candidates(NamedTuple):
    """The source captions that each of R target captions is scored with.

    Attributes:
      index: (R, k) int32, their images in the batch.
      counts: (R, k) bool; False where there are fewer than k.
    """

    index: jax.Array
    counts: jax.Array


class WordRelation(NamedTuple):
    """Added to the teacher's scores of R target captions with images' source captions; 0 for images not listed.

    Attributes:
      index: (R, k) int32, the images in the batch.
      bias: (R, k), no gradient.
    """

    index: jax.Array
    bias: jax.Array

    def dense(self, images: int) -> jax.Array:
        """The matrix (R, images)."""
        rows = jnp.arange(len(self.index))[:, None]
        return jnp.zeros((len(self.index), images)).at[rows, self.index].add(self.bias)


def candidates(
    config: ConfigDict,
    target: jax.Array,
    source: jax.Array,
    *,
    own: jax.Array,
    target_valid: jax.Array,
    source_valid: jax.Array,
    mesh: Mesh | None = None,
) -> Candidates:
    """The most similar source captions of each target caption; no gradient passes.

    Args:
      config: the configuration.
      target: (R, D) sentences.
      source: (B, D) sentences.
      own: (R,) place of the caption's own image.
      target_valid: (R,) bool; a caption that is not valid has no candidates.
      source_valid: (B,) bool.
      mesh: R is split over it if `contrastive.form` is blockwise, which makes no R x B matrix.
    """
    count = min(config.word.candidates, len(source))
    target, source = (
        jax.lax.stop_gradient(zero_invalid(x, valid)) for x, valid in ((target, target_valid), (source, source_valid))
    )

    def of(row: tuple[jax.Array, ...], source: jax.Array, source_valid: jax.Array) -> Candidates:
        target, own, valid = row
        score = scores(target, source)
        score = jnp.where(own[:, None] == jnp.arange(len(source)), jnp.inf, score)
        best, index = jax.lax.top_k(jnp.where(valid[:, None] & source_valid, score, MASKED), count)
        return Candidates(index, best > MASKED / 2)

    rows = target, own, target_valid
    if config.contrastive.form == "dense":
        return of(rows, source, source_valid)

    def by_block(rows: tuple[jax.Array, ...], source: jax.Array, source_valid: jax.Array) -> Candidates:
        def of_one(row: tuple[jax.Array, ...]) -> Candidates:
            one = of(tuple(a[None] for a in row), source, source_valid)
            return Candidates(*(a[0] for a in one))

        return jax.lax.map(of_one, rows, batch_size=min(config.contrastive.block, len(rows[0])))

    if mesh is not None and mesh.size > 1:
        split = P(BATCH_AXES)
        by_block = jax.shard_map(by_block, mesh=mesh, in_specs=(split, P(), P()), out_specs=split, check_vma=False)
    return by_block(rows, source, source_valid)


def pair_scores(config: ConfigDict, source: Words, target: Words) -> jax.Array:
    """Scores (R, k) by `word.score` of the words (R, k, M, d) of candidates with those of captions (R, N, d)."""
    rows, count, length, dim = source.unit.shape
    cosine = scores(source.unit.reshape(rows, count * length, dim), target.unit)
    cosine = cosine.reshape(rows * count, length, -1)
    ones, others = jax.tree.map(merge_two, source), jax.tree.map(partial(jnp.repeat, repeats=count, axis=0), target)
    if config.word.score == "late_interaction":
        score = word_alignment.late_interaction(cosine, ones.mask, others.mask)
    else:
        plan = solve(config, 1 - cosine, source_marginal=ones.mass, target_marginal=others.mass)
        score = word_alignment.transport_score(plan, cosine)
    return score.reshape(rows, count)


def solve(config: ConfigDict, cost: jax.Array, *, source_marginal: jax.Array, target_marginal: jax.Array) -> jax.Array:
    """The configured solver's plans (B, M, N)."""
    c, masses = config.word, {"source_marginal": source_marginal, "target_marginal": target_marginal}
    if c.solver == "ipot":
        return transport.ipot(cost, beta=c.beta, iterations=c.iterations, **masses)
    return transport.sinkhorn(cost, epsilon=c.epsilon, iterations=c.iterations, **masses)


def transport_plan(
    config: ConfigDict, source: jax.Array, target: jax.Array, *, source_mask: jax.Array, target_mask: jax.Array
) -> jax.Array:
    """The configured solver's plan (B, M, N) between words (B, M, D) and (B, N, D) under their masks."""
    kind = config.word.marginals
    of_source = transport.marginals(source, source_mask, kind=kind)
    of_target = transport.marginals(target, target_mask, kind=kind)
    return solve(config, cosine_cost(source, target), source_marginal=of_source, target_marginal=of_target)


def contrast(
    config: ConfigDict,
    source: Text,
    target: Text,
    batch: Batch,
    ids: BatchIds,
    *,
    source_valid: jax.Array,
    target_valid: jax.Array,
    mesh: Mesh | None,
) -> Term:
    """InfoNCE of one head's word scores among the candidates of each target caption.

    Args:
      config: the configuration.
      source: sentences (B, D) and words (B, M, d) of the head.
      target: the same of target captions, R = B*K.
      batch: has the masks of words.
      ids: image ids and masks.
      source_valid: (B,) bool, the images that the head trains on.
      target_valid: (R,) bool.
      mesh: see `candidates`.
    """
    assert source.words is not None and target.words is not None
    found = candidates(
        config,
        target.sentence,
        source.sentence,
        own=ids.pair,
        target_valid=target_valid,
        source_valid=source_valid,
        mesh=mesh,
    )
    kind = config.word.marginals
    sources = Words.of(source.words, batch["source"]["mask"], source_valid, marginals=kind)
    targets = Words.of(target.words, merge_two(batch["target"]["mask"]), target_valid, marginals=kind)
    return word_alignment.candidate_contrast(
        pair_scores(config, sources.at(found.index), targets),
        is_positive=ids.image_id[found.index] == ids.target_image_id[:, None],
        counts=found.counts,
        temperature=config.word.temperature,
    )


def relation(
    config: ConfigDict, teacher: HeldOut, embeddings: Embeddings, batch: Batch, ids: BatchIds, *, mesh: Mesh | None
) -> WordRelation:
    """Word scores in the relation "cross"; no gradient passes.

    score_ij = cos_ij + `transfer.word` * w_ij, where w_ij of a pair that is not a candidate is the mean over captions
    of the smallest word score of their candidates. That number is subtracted everywhere, which changes no softmax. The
    words of a caption and of its candidates are those of the caption's held-out head.
    """
    found = candidates(
        config,
        teacher.target_rows,
        teacher.source_columns,
        own=ids.pair,
        target_valid=ids.target_is_valid,
        source_valid=ids.is_valid,
        mesh=mesh,
    )
    source, target = embeddings.teacher_source.words, embeddings.teacher_target.words
    assert source is not None and target is not None
    source, target = jax.lax.stop_gradient((source, jax.vmap(merge_two)(target)))
    heads, images = source.shape[:2]
    head, kind = ids.target_image_id % heads, config.word.marginals
    own = target[head, jnp.arange(len(head))]
    targets = Words.of(own, merge_two(batch["target"]["mask"]), ids.target_is_valid, marginals=kind)
    masks, valid = (jnp.tile(a, (heads, *([1] * (a.ndim - 1)))) for a in (batch["source"]["mask"], ids.is_valid))
    sources = Words.of(merge_two(source), masks, valid, marginals=kind)
    score = pair_scores(config, sources.at(head[:, None] * images + found.index), targets)
    smallest = jnp.min(jnp.where(found.counts, score, jnp.inf), axis=1)
    some = jnp.any(found.counts, axis=1)
    fill = Term(jnp.sum(jnp.where(some, smallest, 0)), jnp.sum(some, dtype=jnp.float32)).mean
    return WordRelation(found.index, jnp.where(found.counts, config.transfer.word * (score - fill), 0))
