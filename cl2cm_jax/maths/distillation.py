"""Relational distillation, dense form: the student learns the teacher's similarities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from cl2cm_jax.maths.masking import MASKED, Term, zero_invalid
from cl2cm_jax.maths.similarity import scores

Pair = tuple[Array, Array]
"""Of the R rows and of the C columns."""


def relational_kl(
    *,
    teacher: Pair,
    student: Pair,
    is_valid: Pair,
    temperature: Array | float,
    student_temperature: Array | float | None = None,
    exclude_diagonal: bool = False,
    teacher_bias: Array | None = None,
) -> Term:
    """KL(p_i || q_i) of each row's softmax over the columns, p the teacher's (no gradient), q the student's.

    Source: paper for relational distillation from the cross-lingual to the cross-modal network.

    Args:
        teacher: (R, Dt) and (C, Dt), unit length.
        student: (R, D) and (C, D), unit length.
        is_valid: (R,) and (C,) bool; invalid rows and columns may hold anything.
        temperature: (), divides the scores; no gradient flows through the teacher's.
        student_temperature: (), or None for the same.
        exclude_diagonal: leave out column i of row i.
        teacher_bias: (R, C), added to the teacher's scores; None for none.

    Returns:
        Term(sum over rows, number of valid rows that have a column).
    """
    pair = is_valid[0][:, None] & is_valid[1]
    if exclude_diagonal:
        pair &= ~jnp.eye(*pair.shape, dtype=bool)

    def log_softmax(vectors: Pair, tau: Array | float, bias: Array | None = None) -> Array:
        score = scores(*(zero_invalid(x, valid) for x, valid in zip(vectors, is_valid, strict=True)))
        score = score if bias is None else score + bias
        return jax.nn.log_softmax(jnp.where(pair, score / tau, MASKED), axis=1)

    log_p = jax.lax.stop_gradient(log_softmax(teacher, temperature, teacher_bias))
    log_q = log_softmax(student, temperature if student_temperature is None else student_temperature)
    divergence = jnp.sum(jnp.where(pair, jnp.exp(log_p) * (log_p - log_q), 0), axis=1)
    return sum_over(divergence, jnp.any(pair, axis=1))


def sum_over(loss: Array, counts: Array) -> Term:
    """Term of loss (R,) over the rows where counts (R,) is True."""
    return Term(jnp.sum(jnp.where(counts, loss, 0)), jnp.sum(counts, dtype=jnp.float32))
