from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.maths.masking import Term, masked_mean, zero_invalid
from cl2cm_jax.maths.similarity import cosine_cost, normalize


def test_term_mean_of_nothing_is_zero_with_a_finite_gradient():
    def mean(total):
        return Term(total, jnp.float32(0)).mean

    assert mean(jnp.float32(3)) == 0
    assert jax.grad(mean)(jnp.float32(3)) == 0
    assert Term(jnp.float32(3), jnp.float32(2)).mean == 1.5


def test_masked_mean_ignores_padding_and_survives_a_row_without_words():
    x = jnp.array([[[1.0, 2.0], [3.0, 4.0], [jnp.nan, 9.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(masked_mean(x, mask), [[2.0, 3.0], [0.0, 0.0]])
    gradient = jax.grad(lambda x: masked_mean(x, mask).sum())(x)
    np.testing.assert_allclose(gradient[0], [[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(gradient[1], 0)


def test_zero_invalid_stops_a_nan_in_both_passes():
    x = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    is_valid = jnp.array([True, False])
    np.testing.assert_array_equal(zero_invalid(x, is_valid), [[1.0, 2.0], [0.0, 0.0]])
    gradient = jax.grad(lambda x: (zero_invalid(x, is_valid) ** 2).sum())(x)
    np.testing.assert_array_equal(gradient, [[2.0, 4.0], [0.0, 0.0]])


def test_normalize_gives_unit_length_and_is_safe_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0], [1e-9, 0.0]])
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: normalize(x)[:, 0].sum())(x)).all()


def test_cosine_cost_is_between_zero_and_two():
    a = jnp.array([[[2.0, 0.0], [0.0, 3.0]]])
    b = jnp.array([[[1.0, 0.0], [0.0, 1.0], [-5.0, 0.0]]])
    np.testing.assert_allclose(cosine_cost(a, b), [[[0.0, 1.0, 2.0], [1.0, 0.0, 1.0]]], atol=1e-6)
