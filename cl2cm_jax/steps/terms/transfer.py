"""Relational distillation: the student learns how similar the teacher finds images and captions. Source: paper."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cl2cm_jax.maths import blockwise, distillation
from cl2cm_jax.steps.embeddings import merge_two
from cl2cm_jax.steps.pair_terms import TermInputs, tiles_of


def term(inputs: TermInputs) -> jax.Array:
    """() fp32, the mean of the relations that `transfer.relations` names."""
    relations = {"cross": _cross, "intra_target": _intra_target, "intra_vision": _intra_vision}
    return jnp.stack(
        [
            inputs.swept[name] if name in inputs.swept else relation(inputs)
            for name, relation in relations.items()
            if name in inputs.names
        ]
    ).mean()


def _cross(inputs: TermInputs) -> jax.Array:
    """S~-T~ to V-T, both directions."""
    ids, embeddings, c = inputs.ids, inputs.embeddings, inputs.config.transfer
    student, valid = (embeddings.vision, merge_two(embeddings.target)), (ids.is_valid, ids.target_is_valid)
    teacher = inputs.teacher.relation(embeddings, ids, sentence=c.sentence, own=c.own)
    forward = (teacher.source_rows, teacher.target_columns), student, valid
    backward = (teacher.target_rows, teacher.source_columns), student[::-1], valid[::-1]
    by_words = None if inputs.words is None else inputs.words.dense(len(ids.image_id))
    transposed = None if by_words is None else by_words.T
    return 0.5 * (
        _divergence(inputs, *forward, teacher_bias=transposed) + _divergence(inputs, *backward, teacher_bias=by_words)
    )


def _intra_target(inputs: TermInputs) -> jax.Array:
    """T~-T~ to T-T, without the diagonal."""
    teacher = inputs.teacher.target_rows, inputs.teacher.target_columns
    student = (merge_two(inputs.embeddings.target),) * 2
    return _divergence(inputs, teacher, student, (inputs.ids.target_is_valid,) * 2, exclude_diagonal=True)


def _intra_vision(inputs: TermInputs) -> jax.Array:
    """S~-S~ to V-V, without the diagonal."""
    teacher = inputs.teacher.source_rows, inputs.teacher.source_columns
    student = (inputs.embeddings.vision,) * 2
    return _divergence(inputs, teacher, student, (inputs.ids.is_valid,) * 2, exclude_diagonal=True)


def _divergence(inputs: TermInputs, teacher: Any, student: Any, valid: Any, **options: Any) -> jax.Array:
    """Mean KL from the teacher's (rows, columns) to the student's."""
    losses, tiles = distillation, {}
    if inputs.config.contrastive.form == "blockwise":
        losses, tiles = blockwise, tiles_of(inputs.config, inputs.mesh)
    return losses.relational_kl(
        teacher_rows=teacher[0],
        teacher_columns=teacher[1],
        student_rows=student[0],
        student_columns=student[1],
        row_is_valid=valid[0],
        column_is_valid=valid[1],
        temperature=inputs.config.transfer.temperature,
        student_temperature=inputs.config.transfer.student_temperature,
        **options,
        **tiles,
    ).mean
