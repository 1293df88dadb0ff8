from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.maths.contrastive import Side, infonce, sigmoid, triplet
from cl2cm_jax.maths.similarity import normalize

LOSSES = {
    "infonce": lambda x, y: infonce(x, y, temperature=jnp.float32(0.1)),
    "triplet": lambda x, y: triplet(x, y, margin=0.2),
    "sigmoid": lambda x, y: sigmoid(x, y, scale=jnp.float32(5.0), bias=jnp.float32(-2.0)),
}


def side(vectors, image_id=None, is_valid=None, weight=None) -> Side:
    n = len(vectors)
    return Side(
        jnp.asarray(vectors, jnp.float32),
        jnp.arange(n) if image_id is None else jnp.asarray(image_id),
        jnp.ones(n, bool) if is_valid is None else jnp.asarray(is_valid),
        jnp.ones(n) if weight is None else jnp.asarray(weight, jnp.float32),
    )


def unit(n: int, d: int = 6, seed: int = 0) -> jax.Array:
    return normalize(jax.random.normal(jax.random.key(seed), (n, d)))


# Scores of these two sides: [[1, 0], [0.6, 0.8]], not symmetric.
X, Y = [[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 1.0]]


def test_infonce_equals_the_value_computed_by_hand():
    z = np.array([[1.0, 0.0], [0.6, 0.8]]) / 0.5
    rows = np.log(np.exp(z).sum(1)) - np.diag(z)
    columns = np.log(np.exp(z).sum(0)) - np.diag(z)
    term = infonce(side(X), side(Y), temperature=jnp.float32(0.5))
    np.testing.assert_allclose(term.mean, (rows.mean() + columns.mean()) / 2, rtol=1e-6)
    assert term.count == 2


def test_infonce_weights_rows_by_their_own_side():
    z = np.array([[1.0, 0.0], [0.6, 0.8]])
    rows = np.log(np.exp(z).sum(1)) - np.diag(z)
    columns = np.log(np.exp(z).sum(0)) - np.diag(z)
    term = infonce(side(X, weight=[1, 0]), side(Y, weight=[0.5, 2]), temperature=1.0)
    np.testing.assert_allclose(term.mean, (rows[0] / 2 + (0.5 * columns[0] + 2 * columns[1]) / 2) / 2, rtol=1e-6)


def test_infonce_shares_a_target_among_weighted_positives():
    x, y = (
        side([[1.0, 0.0], [0.0, 1.0]], image_id=[7, 8]),
        side([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], image_id=[7, 7, 8]),
    )
    z = np.array([[0.6, 0.8, 0.0], [0.8, 0.6, 1.0]])
    total = np.log(np.exp(z).sum(1))
    columns = np.log(np.exp(z).sum(0)) - [0.6, 0.8, 1.0]
    for weight, target in ((None, [0.5, 0.5]), ([1.0, 3.0, 1.0], [0.25, 0.75])):
        rows = [total[0] - target[0] * 0.6 - target[1] * 0.8, total[1] - 1.0]
        term = infonce(x, y, temperature=1.0, positive_weight=None if weight is None else jnp.array(weight))
        np.testing.assert_allclose(term.mean, (np.mean(rows) + np.mean(columns)) / 2, rtol=1e-6)
        assert term.count == 2


def test_a_row_without_a_positive_is_a_negative_but_is_not_counted():
    alone = infonce(side(X[:1]), side(Y[:1]), temperature=1.0)
    extra = infonce(side(X, image_id=[0, 5]), side(Y, image_id=[0, 6]), temperature=1.0)
    assert alone.mean == 0
    assert extra.count == 1
    expected = (np.log(np.exp([1.0, 0.0]).sum()) - 1 + np.log(np.exp([1.0, 0.6]).sum()) - 1) / 2
    np.testing.assert_allclose(extra.mean, expected, rtol=1e-6)


def test_triplet_equals_the_value_computed_by_hand():
    # Rows: [0.2 + 0 - 1]+ = 0, [0.2 + 0.6 - 0.8]+ = 0; columns: [0.2 + 0.6 - 1]+ = 0, [0.2 + 0 - 0.8]+ = 0.
    assert triplet(side(X), side(Y), margin=0.2).sum == pytest.approx(0, abs=1e-6)
    # Margin 0.5: rows 0, 0.3; columns 0.1, 0.
    term = triplet(side(X), side(Y), margin=0.5)
    assert term.sum == pytest.approx(0.4, abs=1e-6)
    assert term.count == 2
    assert triplet(side(X, weight=[1, 0]), side(Y), margin=0.5).sum == pytest.approx(0.1, abs=1e-6)


def test_triplet_takes_the_hardest_negative_not_the_sum():
    y = side([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], image_id=[0, 1, 2])
    assert triplet(side([[1.0, 0.0]], image_id=[0]), y, margin=0.5).sum == pytest.approx(0.3, abs=1e-6)


def test_sigmoid_equals_the_value_computed_by_hand():
    z = 2 * np.array([[1.0, 0.0], [0.6, 0.8]]) - 1
    loss = np.log1p(np.exp(-np.array([[1, -1], [-1, 1]]) * z))
    term = sigmoid(side(X), side(Y), scale=2.0, bias=-1.0)
    np.testing.assert_allclose(term.sum, loss.sum(), rtol=1e-6)
    assert term.count == 2
    weighted = sigmoid(side(X, weight=[1, 0]), side(Y, weight=[1, 0]), scale=2.0, bias=-1.0)
    np.testing.assert_allclose(weighted.sum, loss[0, 0] + loss[0, 1] / 2 + loss[1, 0] / 2, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_two_captions_of_one_image_are_positives(name):
    vectors, captions = unit(3), unit(3, seed=1)
    same = LOSSES[name](side(vectors, [4, 4, 5]), side(captions, [4, 4, 5]))
    swapped = LOSSES[name](side(vectors, [4, 4, 5]), side(captions[jnp.array([1, 0, 2])], [4, 4, 5]))
    apart = LOSSES[name](side(vectors, [4, 3, 5]), side(captions, [4, 3, 5]))
    np.testing.assert_allclose(same.sum, swapped.sum, rtol=1e-6)
    assert abs(same.sum - apart.sum) > 1e-2


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_rows_change_no_value_and_no_gradient(name):
    x, y = unit(4), unit(4, seed=1)
    padding = jnp.full((2, 6), jnp.nan)
    is_valid = [True] * 4 + [False] * 2

    def short(x, y):
        return LOSSES[name](side(x, [0, 1, 1, 2]), side(y, [0, 1, 1, 2]))

    def padded(x, y):
        return LOSSES[name](side(x, [0, 1, 1, 2, 0, 3], is_valid), side(y, [0, 1, 1, 2, 0, 3], is_valid))

    long = jnp.concatenate([x, padding]), jnp.concatenate([y, padding])
    np.testing.assert_allclose(jnp.stack(padded(*long)), jnp.stack(short(x, y)), rtol=1e-6)
    for got, want in zip(
        jax.grad(lambda *a: padded(*a).mean, (0, 1))(*long),
        jax.grad(lambda *a: short(*a).mean, (0, 1))(x, y),
        strict=True,
    ):
        np.testing.assert_allclose(got[:4], want, atol=1e-6)
        np.testing.assert_array_equal(got[4:], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_is_zero_with_a_finite_gradient(name):
    def mean(x):
        nothing = side(x, is_valid=[False] * 3)
        return LOSSES[name](nothing, nothing).mean

    assert mean(unit(3)) == 0
    np.testing.assert_array_equal(jax.grad(mean)(unit(3)), 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_of_weight_zero_is_still_a_negative(name):
    def loss(y, weight, is_valid):
        weights = jnp.array([1.0, 1.0, weight])
        return LOSSES[name](side(x, weight=weights), side(y, weight=weights, is_valid=is_valid)).sum

    x = unit(3)
    y = normalize(x + 0.1 * unit(3, seed=1))
    y = y.at[2].set(normalize(x[0] + 0.2 * x[1]))  # the hardest negative of row 0
    everyone = [True] * 3
    gradient = jax.grad(loss)(y, 0.0, everyone)
    assert jnp.abs(gradient[2]).max() > 1e-3
    assert loss(y, 0.0, everyone) < loss(y, 1.0, everyone)
    assert loss(y, 0.0, everyone) > loss(y, 0.0, [True, True, False])


def test_the_temperature_is_traced_and_learnable():
    x, y = side(unit(5)), side(unit(5, seed=1))
    value = jax.jit(lambda t: infonce(x, y, temperature=t).mean)
    t, step = 0.3, 1e-2
    numeric = (value(t + step) - value(t - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(t), numeric, rtol=2e-2)


def test_no_gradient_flows_into_weights():
    def loss(weight):
        x, y = side(unit(3), weight=weight), side(unit(3, seed=1), weight=weight)
        terms = (
            infonce(x, y, temperature=1.0, positive_weight=weight),
            triplet(x, y, margin=0.5),
            sigmoid(x, y, scale=1.0, bias=0.0),
        )
        return sum(term.sum for term in terms)

    np.testing.assert_array_equal(jax.grad(loss)(jnp.ones(3)), 0)
