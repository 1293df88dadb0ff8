"""contrastive(V, S): images against their source captions. Source: NRCCR, LECCR."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.steps.pair_terms import TermInputs, contrast


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, from all pairs of images (B, D) and source captions (B, D)."""
    ids, embeddings = inputs.ids, inputs.embeddings
    images = Side(embeddings.vision, ids.image_id, ids.is_valid, jnp.ones(ids.is_valid.shape))
    return contrast(inputs, images, images._replace(vectors=embeddings.source))
