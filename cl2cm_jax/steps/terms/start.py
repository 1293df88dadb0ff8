"""Distillation of the model that training starts at: the student's vectors stay near the frozen backbones' (ours).

Of images and of source captions; what target captions should say is learned.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cl2cm_jax.maths.masking import Term, masked_mean
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.steps.pair_terms import TermInputs


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, the mean distance 1 - cosine to the vectors at the start, of images and of source captions."""
    batch, embeddings, is_valid = inputs.batch, inputs.embeddings, inputs.ids.is_valid
    images = embeddings.start_vision  # where layers of the backbone are trained, on the same crops
    if images is None:
        images = masked_mean(batch["vision"]["features"], batch["vision"]["mask"])
    pairs = (embeddings.vision, images), (embeddings.source, batch["source"]["sentence"])
    return jnp.stack([_distance(now, then, is_valid) for now, then in pairs]).mean()


def _distance(now: jax.Array, then: jax.Array, is_valid: jax.Array) -> jax.Array:
    """Mean 1 - cosine of unit vectors (B, D) and vectors (B, D) over the valid rows, ()."""
    cosine = (now * jax.lax.stop_gradient(normalize(then.astype(jnp.float32)))).sum(axis=-1)
    return Term(jnp.where(is_valid, 1 - cosine, 0.0).sum(), is_valid.sum().astype(jnp.float32)).mean
