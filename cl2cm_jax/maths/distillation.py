"""Relational distillation, dense form: the student learns the teacher's similarities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.similarity import scores


def relational_kl(
    *,
    teacher_rows: Array,
    teacher_columns: Array,
    student_rows: Array,
    student_columns: Array,
    temperature: Array | float,
    student_temperature: Array | float | None = None,
    row_is_valid: Array,
    column_is_valid: Array,
    exclude_diagonal: bool = False,
    teacher_bias: Array | None = None,
) -> Term:
    """KL(p_i || q_i) of each row's softmax over the columns, p the teacher's (no gradient), q the student's.

    Source: paper for relational distillation from the cross-lingual to the cross-modal network.

    Args:
        teacher_rows: (R, Dt), unit length.
        teacher_columns: (C, Dt), unit length.
        student_rows: (R, D), unit length.
        student_columns: (C, D), unit length.
        temperature: (), divides the scores; no gradient flows through the teacher's.
        student_temperature: (), or None for the same.
        row_is_valid: (R,) bool; invalid rows and columns may hold anything.
        column_is_valid: (C,) bool.
        exclude_diagonal: leave out column i of row i.
        teacher_bias: (R, C), added to the teacher's scores; None for none.

    Returns:
        Term(sum over rows, number of valid rows that have a column).
    """
    pair = row_is_valid[:, None] & column_is_valid
    if exclude_diagonal:
        pair &= ~jnp.eye(*pair.shape, dtype=bool)

    def log_softmax(rows: Array, columns: Array, tau: Array | float, bias: Array | None = None) -> Array:
        score = scores(zero_invalid(rows, row_is_valid), zero_invalid(columns, column_is_valid))
        score = score if bias is None else score + bias
        return jax.nn.log_softmax(jnp.where(pair, score / tau, MASKED), axis=1)

    log_p = jax.lax.stop_gradient(log_softmax(teacher_rows, teacher_columns, temperature, teacher_bias))
    log_q = log_softmax(
        student_rows, student_columns, temperature if student_temperature is None else student_temperature
    )
    divergence = jnp.sum(jnp.where(pair, jnp.exp(log_p) * (log_p - log_q), 0), axis=1)
    return sum_over(divergence, jnp.any(pair, axis=1))


def sum_over(loss: Array, counts: Array) -> Term:
    """Term of loss (R,) over the rows where counts (R,) is True."""
    return Term(jnp.sum(jnp.where(counts, loss, 0)), jnp.sum(counts, dtype=jnp.float32))
