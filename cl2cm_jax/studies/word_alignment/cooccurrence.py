"""Word alignments that know no vectors: which pieces stand in sentences that say the same, and nothing else.

IBM model 1 in both directions, and the links that both agree on. They are no gold standard, but they owe nothing to the
networks that are measured with them.

Source: Brown et al. 1993 (the model); ours that plans are compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 5
_NOTHING = -1  # the source word of what translates no word
_BASE = 1 << 32

Sentences = Sequence[np.ndarray]  # the ids of each sentence's pieces


class Table(NamedTuple):
    """Probability of each target piece given a source piece; pairs that never met have none."""

    pairs: np.ndarray  # (p,) int64, sorted: source * _BASE + target
    probability: np.ndarray  # (p,) float64

    def of(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Probabilities (M + 1, N) of a sentence pair; the last row is that of no word."""
        keys = _keys(np.append(source, _NOTHING)[:, None], target)
        places = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.where(self.pairs[places] == keys, self.probability[places], 0.0)


def learn(source: Sentences, target: Sentences, *, rounds: int = ROUNDS) -> Table:
    """Expectation maximisation over all sentence pairs, from equal probabilities.

    Args:
      source: n sentences.
      target: their translations.
      rounds: of estimation.
    """
    words, keys, start = [], [], 0
    for s, t in zip(source, target, strict=True):
        keys.append(_keys(np.append(s, _NOTHING)[:, None], t).ravel())
        words.append(np.tile(np.arange(start, start + len(t)), len(s) + 1))
        start += len(t)
    pairs, cell = np.unique(np.concatenate(keys), return_inverse=True)
    word = np.concatenate(words)  # which target word a cell explains
    _, owner = np.unique(pairs // _BASE, return_inverse=True)
    probability = np.ones(len(pairs))
    for _ in range(rounds):
        p = probability[cell]
        share = p / np.bincount(word, p)[word]
        count = np.bincount(cell, share, minlength=len(pairs))
        probability = count / np.bincount(owner, count)[owner]
    return Table(pairs, probability)


def links(forward: Table, backward: Table, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The pairs (k, 2) of places in two sentences (M,) and (N,) that both directions choose.

    Pieces that a sentence repeats are left out: the model does not know one from the other.

    Args:
      forward: target given source.
      backward: source given target.
      source: ids of one sentence's pieces.
      target: ids of its translation's.
    """
    to_target = _chosen(forward.of(source, target))  # (M, N)
    to_source = _chosen(backward.of(target, source)).T
    return np.argwhere(to_target & to_source & once(source)[:, None] & once(target))


def once(words: np.ndarray) -> np.ndarray:
    """(M,) bool: what stands in a sentence (M,) once."""
    _, place, count = np.unique(words, return_inverse=True, return_counts=True)
    return count[place] == 1


def _chosen(probability: np.ndarray) -> np.ndarray:
    """(M, N) bool from (M + 1, N): each column's most probable row, if it is a word and possible at all."""
    best = probability.argmax(axis=0)
    possible = probability.max(axis=0) > 0
    return (np.arange(len(probability))[:, None] == best)[:-1] & possible


def _keys(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return source.astype(np.int64) * _BASE + target
