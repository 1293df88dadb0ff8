from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.maths.distillation import relational_kl
from cl2cm_jax.maths.similarity import normalize


def unit(n: int, d: int, seed: int) -> jax.Array:
    return normalize(jax.random.normal(jax.random.key(seed), (n, d)))


Arrays = dict[str, tuple[jax.Array, jax.Array]]
TEACHER: Arrays = {"teacher": (unit(4, 5, 0), unit(6, 5, 1))}
STUDENT: Arrays = {"student": (unit(4, 3, 2), unit(6, 3, 3))}
VALID: Arrays = {"is_valid": (jnp.ones(4, bool), jnp.ones(6, bool))}


def cosines(arrays: Arrays) -> np.ndarray:
    ((rows, columns),) = arrays.values()
    return np.asarray(rows @ columns.T, np.float64)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_equals_the_divergence_computed_in_numpy():
    p = softmax(cosines(TEACHER) / 0.1)
    q = softmax(cosines(STUDENT) / 0.2)
    rows = (p * np.log(p / q)).sum(1)
    term = relational_kl(**TEACHER, **STUDENT, **VALID, temperature=0.1, student_temperature=0.2)
    np.testing.assert_allclose(term.sum, rows.sum(), rtol=1e-5)
    assert term.count == 4


def test_a_bias_is_added_to_the_scores_of_the_teacher():
    bias = np.random.default_rng(0).normal(size=(4, 6))
    p = softmax((cosines(TEACHER) + bias) / 0.1)
    q = softmax(cosines(STUDENT) / 0.1)
    term = relational_kl(**TEACHER, **STUDENT, **VALID, temperature=0.1, teacher_bias=jnp.asarray(bias))
    np.testing.assert_allclose(term.sum, (p * np.log(p / q)).sum(), rtol=1e-5)


def test_is_zero_without_gradient_when_the_student_is_the_teacher():
    def loss(rows, columns):
        return relational_kl(**TEACHER, student=(rows, columns), **VALID, temperature=0.05).sum

    value, gradients = jax.value_and_grad(loss, (0, 1))(*TEACHER["teacher"])
    assert abs(value) < 1e-6
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_the_gradient_reaches_the_student_alone():
    gradient = jax.grad(lambda arrays: relational_kl(**arrays, **VALID, temperature=0.1).sum)(TEACHER | STUDENT)
    for part in gradient["teacher"]:
        np.testing.assert_array_equal(part, 0)
    for part in gradient["student"]:
        assert jnp.abs(part).max() > 1e-3


def test_the_teacher_temperature_gets_no_gradient():
    def loss(temperature):
        return relational_kl(**TEACHER, **STUDENT, **VALID, temperature=temperature, student_temperature=0.1).sum

    assert jax.grad(loss)(0.1) == 0


def test_exclude_diagonal_leaves_out_self_similarity():
    teacher, student = unit(4, 5, 0), unit(4, 3, 1)
    valid = jnp.ones(4, bool)

    def loss(exclude):
        return relational_kl(
            teacher=(teacher, teacher),
            student=(student, student),
            is_valid=(valid, valid),
            temperature=0.2,
            exclude_diagonal=exclude,
        ).sum

    off = ~np.eye(4, dtype=bool)
    p = softmax(np.asarray(teacher @ teacher.T, np.float64)[off].reshape(4, 3) / 0.2)
    q = softmax(np.asarray(student @ student.T, np.float64)[off].reshape(4, 3) / 0.2)
    np.testing.assert_allclose(loss(True), (p * np.log(p / q)).sum(), rtol=1e-5)
    assert abs(loss(True) - loss(False)) > 1e-2


def test_invalid_rows_and_columns_change_no_value_and_no_gradient():
    is_valid = jnp.arange(4) < 3, jnp.arange(6) < 4
    cut = jax.tree.map(lambda a: a[: len(a) - (1 if len(a) == 4 else 2)], TEACHER | STUDENT)
    spoiled = {
        name: tuple(jnp.where(valid[:, None], a, jnp.nan) for a, valid in zip(arrays, is_valid, strict=True))
        for name, arrays in (TEACHER | STUDENT).items()
    }

    def loss(arrays, is_valid):
        return relational_kl(**arrays, temperature=0.1, is_valid=is_valid).mean

    want, want_gradient = jax.value_and_grad(loss)(cut, (is_valid[0][:3], is_valid[1][:4]))
    got, got_gradient = jax.value_and_grad(loss)(spoiled, is_valid)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for padded, gradient in zip(*map(jax.tree.leaves, (got_gradient, want_gradient)), strict=True):
        np.testing.assert_allclose(padded[: len(gradient)], gradient, atol=1e-6)
        np.testing.assert_array_equal(padded[len(gradient) :], 0)


def test_a_row_without_any_column_counts_for_nothing():
    one = unit(1, 5, 0)
    term = relational_kl(
        teacher=(one, one),
        student=(one, one),
        is_valid=(jnp.ones(1, bool),) * 2,
        temperature=0.1,
        exclude_diagonal=True,
    )
    assert (term.sum, term.count) == (0, 0)
