"""Dot products and cosines in fp32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def normalize(x: Array) -> Array:
    """Vectors x (..., d) divided by their length, in fp32; one shorter than 1e-10 becomes 0 and gets no gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    usable = squared > 1e-20
    return jnp.where(usable, x * jax.lax.rsqrt(jnp.where(usable, squared, 1)), 0)


def scores(a: Array, b: Array) -> Array:
    """All dot products of a (..., M, d) and b (..., N, d) -> (..., M, N) fp32.

    Full fp32 on every platform: accelerators would otherwise round the factors to TF32 or bf16.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum("...md,...nd->...mn", a, b, precision=jax.lax.Precision.HIGHEST)


def cosine_cost(a: Array, b: Array) -> Array:
    """Transport cost 1 - cos(a_m, b_n) of words a (..., M, d) and b (..., N, d) -> (..., M, N) fp32 in [0, 2]."""
    return 1 - scores(normalize(a), normalize(b))
