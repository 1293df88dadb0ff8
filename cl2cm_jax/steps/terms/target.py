"""contrastive(V, T): images against their target captions, weighted by pair confidence. Source: NRCCR, LECCR."""

from __future__ import annotations

import jax

from cl2cm_jax.maths.contrastive import Side
from cl2cm_jax.steps.embeddings import merge_two
from cl2cm_jax.steps.pair_terms import TermInputs, contrast


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, from all pairs of images (B, D) and target captions (B*K, D)."""
    ids, embeddings = inputs.ids, inputs.embeddings
    targets = Side(merge_two(embeddings.target), ids.target_image_id, ids.target_is_valid, inputs.confidence)
    images = Side(embeddings.vision, ids.image_id, ids.is_valid, inputs.image_weight)
    return contrast(inputs, images, targets, inputs.confidence if inputs.config.contrastive.labels == "soft" else None)
