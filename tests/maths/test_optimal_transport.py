from __future__ import annotations

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from cl2cm_jax.maths.optimal_transport import _sinkhorn_log, _sinkhorn_scaling, ipot, marginals, sinkhorn
from cl2cm_jax.maths.similarity import cosine_cost

SIZES = [(9, 11), (12, 16), (20, 28)]
PAIRS = 2


def optimum(cost: np.ndarray, mu: np.ndarray, nu: np.ndarray) -> float:
    """Transport cost of the linear program, by an independent solver."""
    m, n = cost.shape
    rows = np.kron(np.eye(m), np.ones(n))
    columns = np.kron(np.ones(m), np.eye(n))[:-1]  # the last follows from the others
    found = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([mu, nu[:-1]]), method="highs")
    assert found.success
    return found.fun


@cache
def problem(m: int, n: int, kind: Literal["uniform", "norm"] = "uniform"):
    """Costs and marginals of PAIRS problems."""
    source = jax.random.normal(jax.random.key(m), (PAIRS, m, 64))
    target = jax.random.normal(jax.random.key(n), (PAIRS, n, 64))
    mu = marginals(source, jnp.ones((PAIRS, m), bool), kind=kind)
    nu = marginals(target, jnp.ones((PAIRS, n), bool), kind=kind)
    return cosine_cost(source, target), mu, nu


@pytest.mark.parametrize(("iterations", "cost_error"), [(50, 2e-3), (100, 1e-3)])
@pytest.mark.parametrize("kind", ["uniform", "norm"])
@pytest.mark.parametrize("size", SIZES)
def test_ipot_meets_the_marginals_and_the_linear_programming_optimum(size, kind, iterations, cost_error):
    cost, mu, nu = problem(*size, kind)
    plan = ipot(cost, source_marginal=mu, target_marginal=nu, iterations=iterations)
    np.testing.assert_allclose(plan.sum(2), mu, atol=2e-4)
    np.testing.assert_allclose(plan.sum(1), nu, atol=1e-6)
    assert plan.min() >= 0
    for i in range(PAIRS):
        best = optimum(*(np.asarray(a[i], np.float64) for a in (cost, mu, nu)))
        assert (plan[i] * cost[i]).sum() == pytest.approx(best, rel=cost_error)


def test_ipot_with_uniform_marginals_is_the_published_iteration():
    cost, mu, nu = problem(9, 11)
    kernel = np.exp(-np.asarray(cost[0], np.float64) / 0.5)
    plan, sigma = np.ones((9, 11)), np.full(11, 1 / 11)
    for _ in range(10):
        q = kernel * plan
        delta = 1 / (9 * q @ sigma)
        sigma = 1 / (11 * q.T @ delta)
        plan = delta[:, None] * q * sigma
    np.testing.assert_allclose(ipot(cost, source_marginal=mu, target_marginal=nu, iterations=10)[0], plan, rtol=1e-4)


def test_sinkhorn_with_a_small_epsilon_converges_to_the_optimum():
    cost, mu, nu = problem(9, 11)
    plan = sinkhorn(cost, source_marginal=mu, target_marginal=nu, epsilon=0.005, iterations=2000)
    np.testing.assert_allclose(plan.sum(2), mu, atol=2e-4)
    np.testing.assert_allclose(plan.sum(1), nu, atol=2e-4)
    for i in range(PAIRS):
        best = optimum(*(np.asarray(a[i], np.float64) for a in (cost, mu, nu)))
        assert (plan[i] * cost[i]).sum() == pytest.approx(best, rel=1e-2)


def test_sinkhorn_gives_the_one_plan_of_entropic_form():
    cost, mu, nu = problem(12, 16)
    plan = sinkhorn(cost, source_marginal=mu, target_marginal=nu, epsilon=0.1, iterations=300)
    np.testing.assert_allclose(plan.sum(2), mu, atol=1e-5)
    np.testing.assert_allclose(plan.sum(1), nu, atol=1e-5)
    # The optimum is the only plan with these marginals whose log(plan) + cost / epsilon is a row plus a column.
    z = jnp.log(plan) + cost / 0.1
    centred = z - z.mean(1, keepdims=True) - z.mean(2, keepdims=True) + z.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(centred, 0, atol=1e-4)


@pytest.mark.parametrize("solver", [ipot, sinkhorn])
def test_padding_is_exactly_zero_and_changes_nothing(solver):
    cost, mu, nu = problem(9, 11)
    padded = jnp.full((PAIRS, 13, 14), jnp.nan).at[:, :9, :11].set(cost)
    plan = solver(
        padded,
        source_marginal=jnp.pad(mu, ((0, 0), (0, 4))),
        target_marginal=jnp.pad(nu, ((0, 0), (0, 3))),
    )
    np.testing.assert_allclose(plan[:, :9, :11], solver(cost, source_marginal=mu, target_marginal=nu), atol=1e-6)
    np.testing.assert_array_equal(plan[:, 9:], 0)
    np.testing.assert_array_equal(plan[:, :, 11:], 0)


@pytest.mark.parametrize("solver", [ipot, sinkhorn])
def test_a_sentence_without_words_has_an_empty_plan(solver):
    cost, mu, nu = problem(9, 11)
    plan = solver(cost, source_marginal=mu.at[0].set(0), target_marginal=nu)
    np.testing.assert_array_equal(plan[0], 0)
    np.testing.assert_allclose(plan[1].sum(), 1, atol=1e-3)
    np.testing.assert_array_equal(solver(cost, source_marginal=0 * mu, target_marginal=0 * nu), 0)


@pytest.mark.parametrize("solver", [ipot, sinkhorn])
def test_no_gradient_flows_through_the_plan(solver):
    cost, mu, nu = problem(9, 11)

    def loss(cost):
        return (solver(cost, source_marginal=mu, target_marginal=nu) ** 2).sum()

    np.testing.assert_array_equal(jax.grad(loss)(cost), 0)


def test_marginals_put_mass_on_real_words_only():
    words = jnp.array([[[3.0, 4.0], [0.0, 5.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(marginals(words, mask), [[0.5, 0.5, 0], [0, 0, 0]])
    words = words.at[0, 1].set(jnp.array([0.0, 15.0]))
    np.testing.assert_allclose(marginals(words, mask, kind="norm"), [[0.25, 0.75, 0], [0, 0, 0]])
    with pytest.raises(ValueError, match="norms"):
        marginals(words, mask, kind="norms")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("spread", [2.0, 40.0])
def test_sinkhorn_is_the_same_in_products_and_in_the_log_domain(spread):
    random = np.random.default_rng(0)
    real = np.arange(16) < random.integers(1, 17, (7, 1))
    cost = random.uniform(0, spread, (7, 12, 16))
    cost[0, 0, 0], cost[0, 1, 0] = 0, spread
    mu, nu = marginals(jnp.zeros((7, 12, 1)), jnp.ones((7, 12), bool)), marginals(jnp.zeros((7, 16, 1)), real)
    cell = jnp.asarray(np.broadcast_to(real[:, None], cost.shape))
    arguments = (jnp.asarray(cost, jnp.float32), mu, nu, cell)
    products, logs = (solve(*arguments, iterations=200) for solve in (_sinkhorn_scaling, _sinkhorn_log))
    np.testing.assert_allclose(products, logs, rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("shift", [-300.0, 300.0])
@pytest.mark.parametrize("epsilon", [1e-3, 1.0])
def test_sinkhorn_is_finite_whatever_the_costs_are(shift, epsilon):
    cost, mu, nu = problem(9, 11)
    plan = sinkhorn(cost + shift, source_marginal=mu, target_marginal=nu, epsilon=epsilon)
    np.testing.assert_allclose(plan.sum(1), nu, atol=1e-5)
    assert np.isfinite(plan).all() and plan.min() >= 0
