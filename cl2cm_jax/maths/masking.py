"""Masked sums: padding changes neither a value nor a gradient."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

MASKED = -1e30
"""Stands for minus infinity in masked logits; unlike the real one, sums and differences of it stay finite."""


class Term(NamedTuple):
    """A loss term: sum () fp32 over the examples that count, and their count () fp32, so that padding is exact."""

    sum: Array
    count: Array

    @property
    def mean(self) -> Array:
        """() fp32: sum / count, and 0 where nothing counts."""
        return divide(self.sum, self.count)


def divide(numerator: Array, denominator: Array) -> Array:
    """Quotient (...) where the denominator (...) is positive, else 0; the gradient is finite in both cases."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def zero_invalid(x: Array, is_valid: Array) -> Array:
    """Rows x (N, ...) in fp32, the invalid ones (is_valid (N,) False) set to 0, so that not even a NaN spreads.

    N may be several dimensions.
    """
    mask = is_valid.reshape(is_valid.shape + (1,) * (x.ndim - is_valid.ndim))
    return jnp.where(mask, x, 0).astype(jnp.float32)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x (..., L, d) over the positions where mask (..., L) is True -> (..., d); 0 where there is none."""
    total = jnp.sum(jnp.where(mask[..., None], x, 0), axis=-2)
    return total / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(x.dtype)
