"""Towers: from a backbone's outputs to one unit vector of the shared space. Parameters and unit vectors are fp32.

Source: NRCCR for the attention tower.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.config import reads_words
from cl2cm_jax.maths.masking import masked_mean
from cl2cm_jax.maths.similarity import normalize


class Text(NamedTuple):
    """Text features.

    Attributes:
      sentence: (B, s) fp32, one vector per caption.
      words: (B, L, d); None where nothing reads words.
      mask: (B, L) bool, True at words; None with `words`.
      states: (B, L, d) of the frozen part of the backbone, for networks that train layers of it, or ids (B, L, 1).
      tokens: (B, L) bool, True at the tokens of `states`.
    """

    sentence: jax.Array
    words: jax.Array | None = None
    mask: jax.Array | None = None
    states: jax.Array | None = None
    tokens: jax.Array | None = None


class TowerSize(NamedTuple):
    """Sizes of a tower.

    Attributes:
      features: d of the input, of a text that of its sentence vector.
      hidden, heads: of the attention block.
      dim: D of the output.
      max_length: the longest sequence.
      dtype: of the matrix products.
      words: d of a text's words; 0: as `features`.
    """

    features: int
    hidden: int
    heads: int
    dim: int
    max_length: int
    dtype: str = "float32"
    words: int = 0


class AttentionBlock(nnx.Module):
    """One pre-norm transformer block: self-attention over the unmasked positions, then an MLP."""

    def __init__(self, hidden: int, heads: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.heads = heads
        self.attention_norm = nnx.LayerNorm(hidden, dtype=dtype, rngs=rngs)
        self.qkv = nnx.Linear(hidden, 3 * hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(hidden, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(hidden, 2 * hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(2 * hidden, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps x (B, L, h) under mask (B, L) to (B, L, h)."""
        batch, length, hidden = x.shape
        split = (batch, length, self.heads, hidden // self.heads)
        q, k, v = (part.reshape(split) for part in jnp.split(self.qkv(self.attention_norm(x)), 3, axis=-1))
        # a row without words attends to everything, to stay finite; its mean over no words is 0
        visible = mask | ~mask.any(axis=-1, keepdims=True)
        attended = jax.nn.dot_product_attention(q, k, v, mask=visible[:, None, None, :])
        x = x + self.out(attended.reshape(batch, length, hidden))
        return x + self.down(jax.nn.gelu(self.up(self.mlp_norm(x))))


class SequenceEncoder(nnx.Module):
    """LayerNorm, linear, learned positions, one attention block: (B, L, d) -> (B, L, hidden)."""

    def __init__(self, size: TowerSize, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(size.features, dtype=size.dtype, rngs=rngs)
        self.project = nnx.Linear(size.features, size.hidden, dtype=size.dtype, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (size.max_length, size.hidden)))
        self.block = AttentionBlock(size.hidden, size.heads, dtype=size.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        h, table = self.project(self.norm(x)), jnp.asarray(self.positions[...])
        known = isinstance(x.shape[1], int)  # otherwise exported for any length, which cannot be sliced
        positions = table[: x.shape[1]] if known else table[jax.lax.broadcasted_iota(jnp.int32, x.shape[:2], 1)]
        return self.block(h + positions.astype(h.dtype), mask)


class TextTower(nnx.Module):
    """One set of weights for source and target captions.

    Args:
      size: of the tower.
      kind: "linear" or "attention" (over the words).
      pool: "backbone" (its sentence vector), "mean" (of the words) or "both" (their sum).
      residual: start at the backbone's own sentence vector; needs dim == features.
    """

    def __init__(self, size: TowerSize, *, kind: str, pool: str, residual: bool = False, rngs: nnx.Rngs):
        self.pool = pool
        of_words = size._replace(features=size.words or size.features)
        self.encode_words = SequenceEncoder(of_words, rngs=rngs) if kind == "attention" else None
        width = size.hidden if kind == "attention" else of_words.features
        words, sentence = reads_words(kind, pool), pool != "mean"
        self.project_words = nnx.Linear(width, size.dim, dtype=size.dtype, rngs=rngs) if words else None
        self.project_sentence = (
            nnx.Linear(size.features, size.dim, kernel_init=_kernel(residual), dtype=size.dtype, rngs=rngs)
            if sentence
            else None
        )
        self.words_scale = nnx.Param(jnp.zeros(())) if residual and pool == "both" else None

    def __call__(self, text: Text, *, narrow: nnx.Linear | None = None) -> Text:
        """Returns unit sentences (B, D) and, if the tower reads words, words (B, L, D).

        `narrow` is a linear map of the words without a bias to w dimensions. They are (B, L, w) then, computed without
        those of D dimensions.
        """
        words, parts = None, []
        if self.project_words is not None and text.words is not None and text.mask is not None:
            hidden = text.words if self.encode_words is None else self.encode_words(text.words, text.mask)
            if narrow is None:
                words = self.project_words(hidden)
                mean = masked_mean(words, text.mask)
            else:
                words = _composed(self.project_words, narrow, hidden)
                any_word = jnp.any(text.mask, axis=-1, keepdims=True)
                mean = jnp.where(any_word, self.project_words(masked_mean(hidden, text.mask)), 0)
            if self.pool != "backbone":
                scale = 1.0 if self.words_scale is None else self.words_scale[...]
                parts.append(scale * mean)
        if self.project_sentence is not None:
            parts.append(self.project_sentence(text.sentence))
        return Text(normalize(sum(parts[1:], parts[0])), words, text.mask)


def _composed(first: nnx.Linear, then: nnx.Linear, x: jax.Array) -> jax.Array:
    """Returns then(first(x)) by the product of the two maps, which is cheaper if `then` is narrow."""
    kernel = jnp.dot(first.kernel[...], then.kernel[...])
    made = jnp.dot(x.astype(first.dtype), kernel.astype(first.dtype))
    return made if first.bias is None else made + jnp.dot(first.bias[...], then.kernel[...])


class VisionTower(nnx.Module):
    """Backbone features or frames (B, F, d) under mask (B, F) -> unit vectors (B, D).

    Args:
      size: of the tower.
      kind: "linear" or "attention" (over the frames).
      residual: start at the mean of the features itself, without a norm, which would change it; needs dim == features
        and a linear tower.
    """

    def __init__(self, size: TowerSize, *, kind: str, residual: bool = False, rngs: nnx.Rngs):
        self.encode_frames = SequenceEncoder(size, rngs=rngs) if kind == "attention" else None
        width = size.hidden if kind == "attention" else size.features
        self.norm = None if residual else nnx.LayerNorm(width, dtype=size.dtype, rngs=rngs)
        self.project = nnx.Linear(width, size.dim, kernel_init=_kernel(residual), dtype=size.dtype, rngs=rngs)

    def __call__(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = features if self.encode_frames is None else self.encode_frames(features, mask)
        mean = masked_mean(hidden, mask)
        return normalize(self.project(mean if self.norm is None else self.norm(mean)))


def _kernel(residual: bool) -> nnx.Initializer:
    """How the map to the shared space begins: as the identity, or at random."""
    return (lambda _, shape, dtype: jnp.eye(*shape, dtype=dtype)) if residual else nnx.initializers.lecun_normal()
