"""Relational distillation: the student learns the similarities that the teacher gives. Source: paper."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cl2cm_jax.maths import blockwise, distillation
from cl2cm_jax.maths.distillation import Pair
from cl2cm_jax.steps.embeddings import merge_two
from cl2cm_jax.steps.pair_terms import TermInputs, tiles_of


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, the mean of the relations that `transfer.relations` names."""
    relations = {"cross": _cross, "intra_target": _intra_target, "intra_vision": _intra_vision}
    found = [
        inputs.precomputed[name] if name in inputs.precomputed else relation(inputs)
        for name, relation in relations.items()
        if name in inputs.names
    ]
    return jnp.stack(found).mean()


def _cross(inputs: TermInputs) -> jax.Array:
    """S~-T~ to V-T, both directions."""
    ids, embeddings, c = inputs.ids, inputs.embeddings, inputs.config.transfer
    student, valid = (embeddings.vision, merge_two(embeddings.target)), (ids.is_valid, ids.target_is_valid)
    teacher = inputs.teacher.relation(embeddings, ids, sentence=c.sentence, own=c.own)
    by_words = None if inputs.words is None else inputs.words.dense(len(ids.image_id))
    transposed = None if by_words is None else by_words.T
    back = (student[1], student[0]), (valid[1], valid[0])
    forward = _divergence(
        inputs, (teacher.source_rows, teacher.target_columns), student, valid, teacher_bias=transposed
    )
    backward = _divergence(inputs, (teacher.target_rows, teacher.source_columns), *back, teacher_bias=by_words)
    return 0.5 * (forward + backward)


def _intra_target(inputs: TermInputs) -> jax.Array:
    """T~-T~ to T-T, without the diagonal."""
    student, teacher = merge_two(inputs.embeddings.target), inputs.teacher
    valid = inputs.ids.target_is_valid
    return _itself(inputs, (teacher.target_rows, teacher.target_columns), student, valid)


def _intra_vision(inputs: TermInputs) -> jax.Array:
    """S~-S~ to V-V, without the diagonal."""
    teacher = inputs.teacher.source_rows, inputs.teacher.source_columns
    return _itself(inputs, teacher, inputs.embeddings.vision, inputs.ids.is_valid)


def _itself(inputs: TermInputs, teacher: Pair, student: jax.Array, valid: jax.Array) -> jax.Array:
    return _divergence(inputs, teacher, (student, student), (valid, valid), exclude_diagonal=True)


def _divergence(inputs: TermInputs, teacher: Pair, student: Pair, valid: Pair, **options: Any) -> jax.Array:
    """Mean KL from the teacher's (rows, columns) to the student's."""
    c, losses = inputs.config, distillation
    if c.contrastive.form == "blockwise":
        losses, options = blockwise, options | tiles_of(c, inputs.mesh)
    temperatures = {"temperature": c.transfer.temperature, "student_temperature": c.transfer.student_temperature}
    return losses.relational_kl(teacher=teacher, student=student, is_valid=valid, **temperatures, **options).mean
