"""Optimal transport plans between the words of aligned pairs, one problem per pair, solved as a batch.

Padding has marginal 0; its rows and columns of the plan are exactly 0 whatever the cost there. No gradient flows
through a plan. Source: paper for word alignment by optimal transport.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp

from cl2cm_jax.maths.masking import MASKED, divide

_SAFE_RANGE = 41.0
"""Largest r = (highest - lowest cost) / epsilon of Sinkhorn's product form: the iterations move the logarithms of the
scalings nowhere beyond 2 r, which is 82, and fp32 ends at exp(87) on either side."""


def marginals(words: Array, mask: Array, *, kind: Literal["uniform", "norm"] = "uniform") -> Array:
    """Mass of each word (B, L) fp32: 0 where mask (B, L) is False, summing to 1 where a row has a word.

    "uniform" gives every real word the same mass; "norm" in proportion to the length of its vector in words (B, L, d).
    """
    if kind not in ("uniform", "norm"):
        raise ValueError(f'marginals kind={kind!r} is unknown; use "uniform" or "norm"')
    mass = jnp.ones(mask.shape) if kind == "uniform" else jnp.linalg.norm(words.astype(jnp.float32), axis=-1)
    mass = jnp.where(mask, mass, 0)
    return jax.lax.stop_gradient(divide(mass, jnp.sum(mass, axis=-1, keepdims=True)))


def ipot(
    cost: Array, *, source_marginal: Array, target_marginal: Array, beta: float = 0.5, iterations: int = 50
) -> Array:
    """Plan (B, M, N) by inexact proximal point iterations (IPOT, Xie et al. 2019), without an entropy bias.

    Measured against linear programming on random words (d 64, 9 x 11 to 20 x 28): row sums are right to 2e-4,
    column sums to rounding, and the cost to 0.2 % at 50 iterations, 0.05 % at 100. Words that are all alike, so that
    the optimum is near 0, need more iterations.

    Args:
        cost: (B, M, N) fp32.
        source_marginal: (B, M) fp32, from `marginals`.
        target_marginal: (B, N) fp32.
        beta: weight of the proximal term; smaller is nearer to the optimal cost but misses the row sums by more.
        iterations: outer iterations, each with one inner scaling.
    """
    cost, mu, nu = jax.lax.stop_gradient((cost, source_marginal, target_marginal))
    real = _real(mu, nu)
    kernel = jnp.where(real, jnp.exp(-cost / beta), 0)

    def scalings(q: Array, sigma: Array) -> tuple[Array, Array]:
        delta = divide(mu, jnp.einsum("bmn,bn->bm", q, sigma))
        return delta, divide(nu, jnp.einsum("bmn,bm->bn", q, delta))

    def iterate(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        q, sigma = state
        delta, sigma = scalings(q, sigma)
        # kernel * plan in one pass: the plan itself is needed at the end only, and memory traffic is the cost
        return kernel * (delta[:, :, None] * q * sigma[:, None, :]), sigma

    q, sigma = jax.lax.fori_loop(0, iterations - 1, iterate, (kernel, nu))
    delta, sigma = scalings(q, sigma)
    return delta[:, :, None] * q * sigma[:, None, :]


def sinkhorn(
    cost: Array, *, source_marginal: Array, target_marginal: Array, epsilon: float = 0.05, iterations: int = 50
) -> Array:
    """Plan (B, M, N) of entropy-regularised transport (Cuturi 2013); any epsilon is safe.

    The same iterations in one of two forms: products with exp(-cost / epsilon), a tenth of the time, where fp32 holds
    all of them, as it does for cosine costs from epsilon 0.05 on; sums of exponentials in the log domain elsewhere.

    Arguments as for `ipot`; epsilon weighs the entropy: smaller is nearer to the optimum and needs more iterations.
    """
    cost, mu, nu = jax.lax.stop_gradient((cost, source_marginal, target_marginal))
    real = _real(mu, nu)
    exponent = cost / epsilon
    lowest = jnp.min(jnp.where(real, exponent, jnp.inf))
    highest = jnp.max(jnp.where(real, exponent, -jnp.inf))
    exponent = jnp.where(real, exponent - jnp.where(real.any(), lowest, 0), 0)  # a constant changes no plan
    return jax.lax.cond(
        highest - lowest <= _SAFE_RANGE,
        partial(_sinkhorn_scaling, iterations=iterations),
        partial(_sinkhorn_log, iterations=iterations),
        *(exponent, mu, nu, real),
    )


def _sinkhorn_scaling(exponent: Array, mu: Array, nu: Array, real: Array, *, iterations: int) -> Array:
    kernel = jnp.where(real, jnp.exp(-exponent), 0)

    def iterate(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        v = state[1]
        u = divide(mu, jnp.einsum("bmn,bn->bm", kernel, v))
        return u, divide(nu, jnp.einsum("bmn,bm->bn", kernel, u))

    u, v = jax.lax.fori_loop(0, iterations, iterate, (jnp.ones_like(mu), jnp.ones_like(nu)))
    return u[:, :, None] * kernel * v[:, None, :]


def _sinkhorn_log(exponent: Array, mu: Array, nu: Array, real: Array, *, iterations: int) -> Array:
    log_kernel = jnp.where(real, -exponent, MASKED)
    log_mu, log_nu = _log(mu), _log(nu)

    def iterate(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        g = state[1]
        f = log_mu - logsumexp(log_kernel + g[:, None, :], axis=2)
        g = log_nu - logsumexp(log_kernel + f[:, :, None], axis=1)
        return f, g

    f, g = jax.lax.fori_loop(0, iterations, iterate, (jnp.zeros_like(mu), jnp.zeros_like(nu)))
    return jnp.where(real, jnp.exp(log_kernel + f[:, :, None] + g[:, None, :]), 0)


def _real(mu: Array, nu: Array) -> Array:
    """(B, M, N) bool: cells between two words that have mass."""
    return (mu > 0)[:, :, None] & (nu > 0)[:, None, :]


def _log(mass: Array) -> Array:
    return jnp.where(mass > 0, jnp.log(jnp.where(mass > 0, mass, 1)), MASKED)
