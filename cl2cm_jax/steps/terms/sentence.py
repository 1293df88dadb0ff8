"""contrastive(S~, T~): the teacher's source sentences against its target sentences. Source: paper for the level."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cl2cm_jax.maths.contrastive import Side, infonce
from cl2cm_jax.steps.embeddings import merge_two
from cl2cm_jax.steps.pair_terms import TermInputs


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, the mean over heads of the teacher; a head skips the images of its fold."""
    ids, temperature = inputs.ids, inputs.config.teacher.temperature

    def of_head(head: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
        trained = inputs.trains(head, ids.image_id)
        source_valid, target_valid = ids.is_valid & trained, ids.target_is_valid & trained[ids.pair]
        x = Side(source, ids.image_id, source_valid, jnp.ones(source_valid.shape))
        y = Side(merge_two(target), ids.target_image_id, target_valid, jnp.ones(target_valid.shape))
        return infonce(x, y, temperature=jnp.asarray(temperature)).mean

    vectors = inputs.embeddings.teacher_source.sentence, inputs.embeddings.teacher_target.sentence
    return jax.vmap(of_head)(jnp.arange(inputs.networks.folds), *vectors).mean()
