"""Sequence packing: rows of a transformer's layers with one caption each, or several (planned by `data.packing`)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Packing(NamedTuple):
    """A plan of rows for N captions of L tokens in G groups, from `data.packing.pack`.

    Attributes:
      take: (G, R, L) int32, index into the tokens of the group's captions; -1: padding.
      put: (..., L) int32 with N = product of the leading axes, index into the tokens of the group's rows.
    """

    take: jax.Array
    put: jax.Array


class Rows(NamedTuple):
    """R rows of W tokens, as the layers need them.

    Attributes:
      visible: (R, 1, 1 or W, W) bool, the attention mask.
      token: (R, W) int32, n * L + l of token l of caption n; arbitrary at padding.
      position: (R, W) int32, l.
    """

    visible: jax.Array
    token: jax.Array
    position: jax.Array


def one_a_row(tokens: jax.Array) -> Rows:
    """Rows with one caption each, of mask (N, L)."""
    visible = tokens | ~tokens.any(axis=1, keepdims=True)  # a row that is all padding stays finite
    caption, position = (jax.lax.broadcasted_iota(jnp.int32, tokens.shape, axis) for axis in (0, 1))
    return Rows(visible[:, None, None, :], caption * tokens.shape[1] + position, position)


def packed_rows(packing: Packing) -> Rows:
    """Rows with several captions each; padding attends to padding."""
    take, length = packing.take, packing.take.shape[-1]
    group = jnp.arange(len(take), dtype=jnp.int32)[:, None, None] * (packing.put.size // len(take))
    caption = (take // length).reshape(-1, length)
    token = (jnp.maximum(take, 0) + group).reshape(-1, length)
    return Rows((caption[:, :, None] == caption[:, None, :])[:, None], token, token % length)


def near(rows: Rows, *, before: int | None = None, behind: int | None = None) -> jax.Array:
    """`rows.visible` within a window of positions, (R, 1, W, W) bool.

    Args:
      rows: of W tokens.
      before: how many positions back a token sees; None: to the begin.
      behind: how many ahead; None: to the end.
    """
    ahead = rows.position[:, None, :] - rows.position[:, :, None]  # of the key, seen from the query
    inside = jnp.ones(ahead.shape, bool)
    if before is not None:
        inside &= ahead >= -before
    if behind is not None:
        inside &= ahead <= behind
    return rows.visible & inside[:, None]


def pack(x: jax.Array, packing: Packing) -> jax.Array:
    """Captions (N, L, d) -> rows (G * R, L, d), 0 at padding."""
    groups, _, length = packing.take.shape
    flat = _pick(x.reshape(groups, -1, x.shape[-1]), packing.take.reshape(groups, -1))
    return flat.reshape(-1, length, x.shape[-1])


def unpack(x: jax.Array, packing: Packing, tokens: jax.Array) -> jax.Array:
    """Rows (G * R, L, d) -> captions (N, L, d), 0 where the mask (N, L) has no token."""
    groups = len(packing.take)
    place = jnp.where(tokens, packing.put.reshape(tokens.shape), -1)
    return _pick(x.reshape(groups, -1, x.shape[-1]), place.reshape(groups, -1)).reshape(*tokens.shape, x.shape[-1])


def _pick(x: jax.Array, place: jax.Array) -> jax.Array:
    """Takes x (G, n, d) at place (G, m) of each group, 0 at -1. Devices need no other device's groups."""
    picked = jax.vmap(lambda rows, at: rows[at])(x, jnp.maximum(place, 0))
    return jnp.where(place[..., None] >= 0, picked, jnp.zeros((), x.dtype))
