"""Word-level losses of the cross-lingual network, and scores of sentence pairs by their words.

Source: paper for the idea, words aligned without labels by optimal transport.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths.contrastive import cross_entropy
from cl2cm_jax.maths.masking import MASKED, Term, divide


def transport_cost(plan: Array, cost: Array, *, is_valid: Array) -> Term:
    """Cost <plan_i, cost_i> of moving each pair's words along a fixed plan; the gradient flows into the cost alone.

    plan and cost (B, M, N), is_valid (B,) bool. Returns Term(sum over pairs, number of valid pairs with any mass).
    """
    plan = jax.lax.stop_gradient(plan)
    counts = is_valid & jnp.any(plan > 0, axis=(1, 2))
    moved = (plan > 0) & counts[:, None, None]
    return Term(jnp.sum(jnp.where(moved, plan * cost, 0)), jnp.sum(counts, dtype=jnp.float32))


def self_labelled(logits: Array, plan: Array, *, source_mask: Array, target_mask: Array, is_valid: Array) -> Term:
    """Cross-entropy of pointing from a word to its partner (`mutual_links`) among the other sentence's words.

    Args:
        logits: (B, M, N) fp32, word m of the source against word n of the target (a bilinear form of the caller).
        plan: (B, M, N), no gradient.
        source_mask: (B, M) bool, the real words.
        target_mask: (B, N) bool.
        is_valid: (B,) bool.

    Returns:
        Term(sum over linked word pairs of the mean of both directions, number of linked word pairs).
    """
    real = source_mask[:, :, None] & target_mask[:, None, :]
    link = mutual_links(plan, source_mask, target_mask) & is_valid[:, None, None]
    logits = jnp.where(real, logits.astype(jnp.float32), MASKED)
    log_p = (jax.nn.log_softmax(logits, axis=2) + jax.nn.log_softmax(logits, axis=1)) / 2
    return Term(-jnp.sum(jnp.where(link, log_p, 0)), jnp.sum(link, dtype=jnp.float32))


def late_interaction(cosine: Array, source_mask: Array, target_mask: Array) -> Array:
    """Score of each sentence pair: mean over words of the best cosine on the other side, mean of both directions.

    Args:
        cosine: (P, M, N) fp32 of word m of the source with word n of the target.
        source_mask: (P, M) bool, the real words.
        target_mask: (P, N) bool.

    Returns:
        (P,) in [-1, 1]; 0 where a side has no word.
    """
    real = source_mask[:, :, None] & target_mask[:, None, :]
    cosine = jnp.where(real, cosine, MASKED)

    def mean_of_best(axis: int) -> Array:
        found = jnp.any(real, axis=axis)
        best = jnp.where(found, jnp.max(cosine, axis=axis), 0)
        return divide(jnp.sum(best, axis=1), jnp.sum(found, axis=1, dtype=jnp.float32))

    return (mean_of_best(2) + mean_of_best(1)) / 2


def transport_score(plan: Array, cosine: Array) -> Array:
    """Score of each sentence pair: 1 - <sg[plan], 1 - cosine>, as <sg[plan], cosine> for plans of mass 1.

    plan and cosine (P, M, N) -> (P,); 0 where the plan has no mass.
    """
    plan = jax.lax.stop_gradient(plan)
    return jnp.sum(jnp.where(plan > 0, plan * cosine, 0), axis=(1, 2))


def candidate_contrast(score: Array, *, is_positive: Array, counts: Array, temperature: Array | float) -> Term:
    """InfoNCE of each row over its own candidates, whose positives share the target distribution equally.

    Words that are all one vector give every pair the same score, and the loss its chance level: unlike the cost of a
    plan, this loss has no minimum at a collapse.

    Args:
        score: (R, k) fp32.
        is_positive: (R, k) bool.
        counts: (R, k) bool; candidates where it is False are ignored and may hold anything.
        temperature: (), divides the scores.

    Returns:
        Term(sum over rows, number of rows with a positive).
    """
    logits = jnp.where(counts, score / temperature, MASKED)
    same = (is_positive & counts).astype(jnp.float32)
    total, mass = jax.nn.logsumexp(logits, axis=1), jnp.sum(same, axis=1)
    return cross_entropy(total, jnp.sum(same * logits, axis=1), mass, jnp.ones(mass.shape))


def mean_word_cosine(unit: Array, mask: Array) -> Term:
    """Mean cosine of two different words of a sentence; near 1 the words have collapsed.

    unit (N, L, D) of unit length, those of padding 0; mask (N, L) bool. Returns Term(sum over sentences, number of
    sentences of two words or more).
    """
    count = jnp.sum(mask, axis=1, dtype=jnp.float32)
    together = jnp.sum(jnp.sum(unit, axis=1) ** 2, axis=-1) - jnp.sum(unit**2, axis=(1, 2))
    found = divide(together, count * (count - 1))
    return Term(jnp.sum(found), jnp.sum(count > 1, dtype=jnp.float32))


def mutual_links(plan: Array, source_mask: Array, target_mask: Array) -> Array:
    """Partners: the cells of the plan (B, M, N) that are the first maximum of their row and of their column, bool.

    Normalising the plan's rows for the one maximum and its columns for the other would change neither.
    """
    real = source_mask[:, :, None] & target_mask[:, None, :] & (plan > 0)
    mass = jnp.where(real, plan, 0)
    in_row = jnp.arange(plan.shape[2]) == jnp.argmax(mass, axis=2, keepdims=True)
    in_column = jnp.arange(plan.shape[1])[:, None] == jnp.argmax(mass, axis=1, keepdims=True)
    return real & in_row & in_column
