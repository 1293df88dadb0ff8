from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.maths.distillation import relational_kl
from cl2cm_jax.maths.similarity import normalize


def unit(n: int, d: int, seed: int) -> jax.Array:
    return normalize(jax.random.normal(jax.random.key(seed), (n, d)))


TEACHER: dict[str, Any] = dict(teacher_rows=unit(4, 5, 0), teacher_columns=unit(6, 5, 1))
STUDENT: dict[str, Any] = dict(student_rows=unit(4, 3, 2), student_columns=unit(6, 3, 3))
VALID: dict[str, Any] = dict(row_is_valid=jnp.ones(4, bool), column_is_valid=jnp.ones(6, bool))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_equals_the_divergence_computed_in_numpy():
    p = softmax(np.asarray(TEACHER["teacher_rows"] @ TEACHER["teacher_columns"].T, np.float64) / 0.1)
    q = softmax(np.asarray(STUDENT["student_rows"] @ STUDENT["student_columns"].T, np.float64) / 0.2)
    rows = (p * np.log(p / q)).sum(1)
    term = relational_kl(**TEACHER, **STUDENT, **VALID, temperature=0.1, student_temperature=0.2)
    np.testing.assert_allclose(term.sum, rows.sum(), rtol=1e-5)
    assert term.count == 4


def test_a_bias_is_added_to_the_scores_of_the_teacher():
    bias = np.random.default_rng(0).normal(size=(4, 6))
    p = softmax((np.asarray(TEACHER["teacher_rows"] @ TEACHER["teacher_columns"].T, np.float64) + bias) / 0.1)
    q = softmax(np.asarray(STUDENT["student_rows"] @ STUDENT["student_columns"].T, np.float64) / 0.1)
    term = relational_kl(**TEACHER, **STUDENT, **VALID, temperature=0.1, teacher_bias=jnp.asarray(bias))
    np.testing.assert_allclose(term.sum, (p * np.log(p / q)).sum(), rtol=1e-5)


def test_is_zero_without_gradient_when_the_student_is_the_teacher():
    def loss(rows, columns):
        student: dict[str, Any] = dict(student_rows=rows, student_columns=columns)
        return relational_kl(**TEACHER, **student, **VALID, temperature=0.05).sum

    value, gradients = jax.value_and_grad(loss, (0, 1))(TEACHER["teacher_rows"], TEACHER["teacher_columns"])
    assert abs(value) < 1e-7
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_the_gradient_reaches_the_student_alone():
    gradient = jax.grad(lambda arrays: relational_kl(**arrays, **VALID, temperature=0.1).sum)(TEACHER | STUDENT)
    for name in TEACHER:
        np.testing.assert_array_equal(gradient[name], 0)
    for name in STUDENT:
        assert jnp.abs(gradient[name]).max() > 1e-3


def test_the_teacher_temperature_gets_no_gradient():
    def loss(temperature):
        return relational_kl(**TEACHER, **STUDENT, **VALID, temperature=temperature, student_temperature=0.1).sum

    assert jax.grad(loss)(0.1) == 0


def test_exclude_diagonal_leaves_out_self_similarity():
    teacher, student = unit(4, 5, 0), unit(4, 3, 1)
    valid = jnp.ones(4, bool)

    def loss(exclude):
        return relational_kl(
            teacher_rows=teacher, teacher_columns=teacher, student_rows=student, student_columns=student,
            temperature=0.2, row_is_valid=valid, column_is_valid=valid, exclude_diagonal=exclude,
        ).sum  # fmt: skip

    off = ~np.eye(4, dtype=bool)
    p = softmax(np.asarray(teacher @ teacher.T, np.float64)[off].reshape(4, 3) / 0.2)
    q = softmax(np.asarray(student @ student.T, np.float64)[off].reshape(4, 3) / 0.2)
    np.testing.assert_allclose(loss(True), (p * np.log(p / q)).sum(), rtol=1e-5)
    assert abs(loss(True) - loss(False)) > 1e-2


def test_invalid_rows_and_columns_change_no_value_and_no_gradient():
    row_is_valid, column_is_valid = jnp.arange(4) < 3, jnp.arange(6) < 4
    cut = {name: a[:3] if "rows" in name else a[:4] for name, a in (TEACHER | STUDENT).items()}
    spoiled = {
        name: jnp.where((row_is_valid if "rows" in name else column_is_valid)[:, None], a, jnp.nan)
        for name, a in (TEACHER | STUDENT).items()
    }

    def loss(arrays, rows, columns):
        return relational_kl(**arrays, temperature=0.1, row_is_valid=rows, column_is_valid=columns).mean

    want, want_gradient = jax.value_and_grad(loss)(cut, row_is_valid[:3], column_is_valid[:4])
    got, got_gradient = jax.value_and_grad(loss)(spoiled, row_is_valid, column_is_valid)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for name, gradient in want_gradient.items():
        np.testing.assert_allclose(got_gradient[name][: len(gradient)], gradient, atol=1e-6)
        np.testing.assert_array_equal(got_gradient[name][len(gradient) :], 0)


def test_a_row_without_any_column_counts_for_nothing():
    one = unit(1, 5, 0)
    term = relational_kl(
        teacher_rows=one, teacher_columns=one, student_rows=one, student_columns=one, temperature=0.1,
        row_is_valid=jnp.ones(1, bool), column_is_valid=jnp.ones(1, bool), exclude_diagonal=True,
    )  # fmt: skip
    assert (term.sum, term.count) == (0, 0)
