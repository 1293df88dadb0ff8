"""From the states of a text's tokens to words and a sentence vector."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from cl2cm_jax.maths.masking import masked_mean
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.models.backbone import TextOutput

Pool = Literal["mean", "cls", "lasttoken"]  # of all tokens; the first one's state; the last one's


def read_out(states: jax.Array, tokens: jax.Array, *, pool: Pool, marks: tuple[int, int] = (1, 1)) -> TextOutput:
    """Words, their mask and the unit sentence vector; pure.

    Args:
      states: (B, L, d) float32 of the last layer.
      tokens: (B, L) bool, False at padding only, which is at the end.
      pool: over all tokens, special ones included.
      marks: numbers of special tokens before and behind a text.
    """
    words = states * tokens[..., None]
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    length = tokens.sum(axis=1, keepdims=True)
    is_special = (place < marks[0]) | (place >= length - marks[1])
    return TextOutput(words=words, mask=tokens & ~is_special, sentence=normalize(_pooled(states, tokens, pool)))


def _pooled(states: jax.Array, tokens: jax.Array, pool: Pool) -> jax.Array:
    if pool == "mean":
        return masked_mean(states, tokens)
    if pool == "cls":
        return states[:, 0]
    # a sum over the one token: converters know no gather with an index of its own in each row
    behind = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    return (states * (tokens & ~behind)[..., None]).sum(axis=1)
