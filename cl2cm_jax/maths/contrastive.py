"""Contrastive losses between two sets of vectors, dense (R x C) form; the blockwise form is in blockwise.py.

Rows of the same image are positives of each other, never negatives.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp

from cl2cm_jax.maths.masking import MASKED, Term, divide, zero_invalid
from cl2cm_jax.maths.similarity import scores


class Side(NamedTuple):
    """One side of a contrastive loss.

    vectors: (N, D), unit length.
    image_id: (N,) int32; equal ids are positives.
    is_valid: (N,) bool; an invalid row is neither a query nor a negative, and may hold anything.
    weight: (N,) fp32, how much the row's own loss counts (no gradient flows into it). A row of weight 0 is still a
        negative for the others.
    """

    vectors: Array
    image_id: Array
    is_valid: Array
    weight: Array


def infonce(x: Side, y: Side, *, temperature: Array | float, positive_weight: Array | None = None) -> Term:
    """Cross-entropy of each row against its positives, mean of both directions. Source: LECCR.

    Several positives of a row share its target distribution: equally, or in the direction x -> y in proportion to
    `positive_weight`. A row without a positive contributes nothing.

    Args:
        x: R rows.
        y: C rows.
        temperature: (), divides the scores.
        positive_weight: (C,) >= 0, or None for 1; no gradient flows into it.

    Returns:
        Term whose mean is the mean over both directions of sum_i weight_i CE_i / (number of rows with a positive), and
        whose count is that number for x.
    """
    same, pair = pairs(x, y)
    logits = scores(zero_invalid(x.vectors, x.is_valid), zero_invalid(y.vectors, y.is_valid)) / temperature
    logits = jnp.where(pair, logits, MASKED)
    target = same if positive_weight is None else same * jax.lax.stop_gradient(positive_weight)
    return mean_of_directions(
        cross_entropy(logsumexp(logits, axis=1), jnp.sum(target * logits, axis=1), jnp.sum(target, axis=1), x.weight),
        cross_entropy(logsumexp(logits, axis=0), jnp.sum(same * logits, axis=0), jnp.sum(same, axis=0), y.weight),
    )


def triplet(x: Side, y: Side, *, margin: Array | float) -> Term:
    """Hinge of each row's hardest negative against its positive, both directions. Source: NRCCR.

    sum_i [margin + max_j S_ij - S_ii]+ over the non-positive j, and the same with x and y exchanged. With several
    positives S_ii is the best-scoring one. A row without a positive or without a negative contributes 0.

    Returns:
        Term(sum of both directions, number of valid rows of x with a positive). NRCCR uses the sum.
    """
    same, pair = pairs(x, y)
    score = scores(zero_invalid(x.vectors, x.is_valid), zero_invalid(y.vectors, y.is_valid))
    negative = pair & ~same
    return sum_of_directions(
        hinge(_max(score, same), _max(score, negative), x.weight, margin),
        hinge(_max(score.T, same.T), _max(score.T, negative.T), y.weight, margin),
    )


def sigmoid(x: Side, y: Side, *, scale: Array | float, bias: Array | float) -> Term:
    """Logistic loss of each pair on its own (SigLIP).

    -log sigmoid(label_ij (scale S_ij + bias)), label 1 for a positive pair and -1 for another. A pair weighs the mean
    of its two rows' weights, which is the mean of both directions.

    Returns:
        Term(sum over valid pairs, number of valid rows of x).
    """
    same, pair = pairs(x, y)
    score = scores(zero_invalid(x.vectors, x.is_valid), zero_invalid(y.vectors, y.is_valid))
    loss = -jax.nn.log_sigmoid(jnp.where(same, 1, -1) * (scale * score + bias))
    weight = jax.lax.stop_gradient(x.weight[:, None] + y.weight) / 2
    return Term(jnp.sum(jnp.where(pair, weight * loss, 0)), jnp.sum(x.is_valid, dtype=jnp.float32))


def pairs(x: Side, y: Side) -> tuple[Array, Array]:
    """Masks (R, C) bool of the positive pairs and of all pairs of two valid rows."""
    pair = x.is_valid[:, None] & y.is_valid
    return pair & (x.image_id[:, None] == y.image_id), pair


def cross_entropy(log_total: Array, target_logit: Array, target_mass: Array, weight: Array) -> Term:
    """Weighted cross-entropy of N rows from their sums, (N,) each, over the candidates.

    log_total is the log-sum-exp of the logits; target_logit and target_mass sum target * logit and target.
    """
    loss = log_total - divide(target_logit, target_mass)
    counts = target_mass > 0
    weighted = jnp.where(counts, jax.lax.stop_gradient(weight) * loss, 0)
    return Term(jnp.sum(weighted), jnp.sum(counts, dtype=jnp.float32))


def hinge(best_positive: Array, hardest_negative: Array, weight: Array, margin: Array | float) -> Term:
    """Weighted hinge of N rows from their two scores, (N,) each; MASKED where a row has none."""
    counts = best_positive > MASKED / 2
    loss = jnp.where(counts, jax.nn.relu(margin + hardest_negative - best_positive), 0)
    return Term(jnp.sum(jax.lax.stop_gradient(weight) * loss), jnp.sum(counts, dtype=jnp.float32))


def mean_of_directions(forward: Term, backward: Term) -> Term:
    """Term with the mean of the two means, counted in rows of the forward direction."""
    return Term((forward.mean + backward.mean) / 2 * forward.count, forward.count)


def sum_of_directions(forward: Term, backward: Term) -> Term:
    """Term with the sum of the two sums, counted in rows of the forward direction."""
    return Term(forward.sum + backward.sum, forward.count)


def _max(score: Array, among: Array) -> Array:
    """Row maximum (R,) of score (R, C) where among (R, C); a tie sends its gradient to the first, unlike jnp.max."""
    score = jnp.where(among, score, MASKED)
    return jnp.take_along_axis(score, jnp.argmax(score, axis=1)[:, None], axis=1)[:, 0]
