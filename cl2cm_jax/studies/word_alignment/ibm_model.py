"""Word alignment by IBM model 1: counts which words occur in sentences and their translations, without any vectors.

Links that both directions agree on are compared with transport plans. They are not a gold standard, but they are
independent of the networks that are measured.

Source: Brown et al. 1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 5
_NULL = -1  # the source word of target words that translate none
_BASE = 1 << 32

Sentences = Sequence[np.ndarray]  # ids of each sentence's pieces


class TranslationTable(NamedTuple):
    """Probability of each target piece given a source piece; 0 for pairs that never occurred together."""

    pairs: np.ndarray  # (p,) int64, sorted: source * _BASE + target
    probability: np.ndarray  # (p,) float64

    def of(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Probabilities (M + 1, N) of a sentence pair; the last row is that of the null word."""
        keys = _keys(np.append(source, _NULL)[:, None], target)
        places = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.where(self.pairs[places] == keys, self.probability[places], 0.0)


def fit(source: Sentences, target: Sentences, *, rounds: int = ROUNDS) -> TranslationTable:
    """Expectation maximisation over n sentences and their translations, from equal probabilities."""
    words, keys, start = [], [], 0
    for s, t in zip(source, target, strict=True):
        keys.append(_keys(np.append(s, _NULL)[:, None], t).ravel())
        words.append(np.tile(np.arange(start, start + len(t)), len(s) + 1))
        start += len(t)
    pairs, cell = np.unique(np.concatenate(keys), return_inverse=True)
    word = np.concatenate(words)  # the target word that a cell explains
    _, owner = np.unique(pairs // _BASE, return_inverse=True)
    probability = np.ones(len(pairs))
    for _ in range(rounds):
        p = probability[cell]
        share = p / np.bincount(word, p)[word]
        count = np.bincount(cell, share, minlength=len(pairs))
        probability = count / np.bincount(owner, count)[owner]
    return TranslationTable(pairs, probability)


def links(forward: TranslationTable, backward: TranslationTable, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pairs (k, 2) of places in two sentences of piece ids, (M,) and (N,), that both directions choose.

    `forward` is target given source, `backward` source given target. Pieces that a sentence repeats are left out,
    because the model does not distinguish them.
    """
    to_target = _most_probable(forward.of(source, target))  # (M, N)
    to_source = _most_probable(backward.of(target, source)).T
    return np.argwhere(to_target & to_source & is_unique(source)[:, None] & is_unique(target))


def is_unique(words: np.ndarray) -> np.ndarray:
    """(M,) bool: which words of a sentence (M,) occur once."""
    _, place, count = np.unique(words, return_inverse=True, return_counts=True)
    return count[place] == 1


def _most_probable(probability: np.ndarray) -> np.ndarray:
    """(M, N) bool from (M + 1, N): each column's most probable row, if that is a word of probability above 0."""
    best = probability.argmax(axis=0)
    possible = probability.max(axis=0) > 0
    return (np.arange(len(probability))[:, None] == best)[:-1] & possible


def _keys(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return source.astype(np.int64) * _BASE + target
