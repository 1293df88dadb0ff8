"""Word-level losses of the cross-lingual network, supervised by a transport plan.

Source: paper for the idea (self-supervised by optimal transport); ours for the two forms.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths.masking import MASKED, Term


def transport_cost(plan: Array, cost: Array, *, is_valid: Array) -> Term:
    """Cost <plan_i, cost_i> of moving each pair's words along a fixed plan; the gradient flows into the cost alone.

    plan and cost (B, M, N), is_valid (B,) bool. Returns Term(sum over pairs, number of valid pairs with any mass).
    """
    plan = jax.lax.stop_gradient(plan)
    counts = is_valid & jnp.any(plan > 0, axis=(1, 2))
    moved = (plan > 0) & counts[:, None, None]
    return Term(jnp.sum(jnp.where(moved, plan * cost, 0)), jnp.sum(counts, dtype=jnp.float32))


def mutual_labels(plan: Array, source_mask: Array, target_mask: Array) -> tuple[Array, Array]:
    """Partner of each word: the one that it sends most to and that receives most from it; -1 for none.

    plan (B, M, N), masks (B, M) and (B, N) bool -> labels (B, M) and (B, N) int32. The first of equals is taken.
    Normalising the plan's rows for the one choice and its columns for the other would change neither choice.
    """
    link = _mutual_links(plan, source_mask, target_mask)
    labels_s = jnp.where(jnp.any(link, axis=2), jnp.argmax(link, axis=2), -1)
    labels_t = jnp.where(jnp.any(link, axis=1), jnp.argmax(link, axis=1), -1)
    return labels_s.astype(jnp.int32), labels_t.astype(jnp.int32)


def self_labelled(logits: Array, plan: Array, *, source_mask: Array, target_mask: Array, is_valid: Array) -> Term:
    """Cross-entropy of pointing from a word to its partner (`mutual_labels`) among the other sentence's words.

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
    link = _mutual_links(plan, source_mask, target_mask) & is_valid[:, None, None]
    logits = jnp.where(real, logits.astype(jnp.float32), MASKED)
    log_p = (jax.nn.log_softmax(logits, axis=2) + jax.nn.log_softmax(logits, axis=1)) / 2
    return Term(-jnp.sum(jnp.where(link, log_p, 0)), jnp.sum(link, dtype=jnp.float32))


def _mutual_links(plan: Array, source_mask: Array, target_mask: Array) -> Array:
    """(B, M, N) bool: the cells that are the first maximum of both their row and their column of the plan."""
    real = source_mask[:, :, None] & target_mask[:, None, :] & (plan > 0)
    mass = jnp.where(real, plan, 0)
    in_row = jnp.arange(plan.shape[2]) == jnp.argmax(mass, axis=2, keepdims=True)
    in_column = jnp.arange(plan.shape[1])[:, None] == jnp.argmax(mass, axis=1, keepdims=True)
    return real & in_row & in_column
