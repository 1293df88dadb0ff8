"""Word alignment of aligned captions by optimal transport, without labels. Source: paper for the level."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cl2cm_jax.maths import word_alignment
from cl2cm_jax.maths.masking import Term
from cl2cm_jax.maths.similarity import cosine_cost
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Teacher, heads_of
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps.embeddings import Batch, merge_two
from cl2cm_jax.steps.pair_terms import Scalars, TermInputs
from cl2cm_jax.steps.word_scores import Words, contrast, transport_plan


def term(inputs: TermInputs) -> tuple[jax.Array, Scalars]:
    """() fp32, the mean over heads of the teacher; a head skips the images of its fold.

    Logs "word_cosine", the mean cosine of two words of a source caption.
    """
    config, ids, batch = inputs.config, inputs.ids, inputs.batch
    source_mask = batch["source"]["mask"]

    def of_head(head: jax.Array, params: Params, source: Text, target: Text) -> tuple[jax.Array, jax.Array]:
        assert source.words is not None
        source_valid = ids.is_valid & inputs.trains(head, ids.image_id)
        target_valid = ids.target_is_valid & inputs.trains(head, ids.target_image_id)
        target = jax.tree.map(merge_two, target)
        if config.word.loss == "contrast":
            valid = {"source_valid": source_valid, "target_valid": target_valid}
            found = contrast(config, source, target, batch, ids, **valid, mesh=inputs.mesh)
        else:
            paired = jax.tree.map(lambda a: a[ids.pair], source)
            teacher = inputs.networks.teacher.bind(params)
            found = _aligned(config, teacher, paired, target, batch, ids.pair, target_valid)
        words = Words.of(source.words, source_mask, ids.is_valid, marginals="uniform")
        return found.mean, word_alignment.mean_word_cosine(words.unit, words.mask).mean

    embeddings = inputs.embeddings
    of_heads = heads_of(inputs.params["teacher"]), embeddings.teacher_source, embeddings.teacher_target
    heads = inputs.networks.folds
    if config.word.loss == "contrast":  # head by head, so that gathers have no batch axis
        each = [of_head(jnp.asarray(i), *jax.tree.map(lambda a, i=i: a[i], of_heads)) for i in range(heads)]
        losses, cosines = (jnp.stack(values) for values in zip(*each, strict=True))
    else:
        losses, cosines = jax.vmap(of_head)(jnp.arange(heads), *of_heads)
    return losses.mean(), {"word_cosine": jax.lax.stop_gradient(cosines.mean())}


def _aligned(
    config: ConfigDict, teacher: Teacher, source: Text, target: Text, batch: Batch, pair: jax.Array, is_valid: jax.Array
) -> Term:
    """One transport problem an aligned pair: source words (B*K, L, D) with target words (B*K, L, D)."""
    assert source.words is not None and target.words is not None
    source_mask, target_mask = batch["source"]["mask"][pair], merge_two(batch["target"]["mask"])
    cost = cosine_cost(source.words, target.words)
    on = (source.words, target.words)
    if config.word.plan_from == "backbone":
        on = (batch["source"]["words"][pair], merge_two(batch["target"]["words"]))
    plan = transport_plan(config, *on, source_mask=source_mask, target_mask=target_mask)
    if config.word.loss == "transport":
        return word_alignment.transport_cost(plan, cost, is_valid=is_valid)
    logits = teacher.pointer_logits(source.words, target.words)
    masks = {"source_mask": source_mask, "target_mask": target_mask}
    return word_alignment.self_labelled(logits, plan, **masks, is_valid=is_valid)
