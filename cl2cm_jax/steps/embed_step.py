"""Embeds whole corpora with one network: what evaluation, calibration and search read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.pipeline import evaluation_batches
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.models.towers import Text
from cl2cm_jax.steps.embeddings import teach


class Embedder:
    """Jitted encoders of one configuration; every batch has one shape, the last one padded.

    Args:
      networks: student and teacher.
      batch_size: rows a call.
      max_words: L of the words handed to the networks; 0 where they read sentences alone.
    """

    def __init__(self, networks: Networks, *, batch_size: int, max_words: int):
        self.batch_size = batch_size
        self.max_words = max_words
        self._vision = jax.jit(lambda params, *x: networks.student.bind(params).encode_vision(*x))
        self._text = jax.jit(lambda params, *x: networks.student.bind(params).encode_text(Text(*x)))
        self._teacher = jax.jit(lambda params, *x: teach(networks, params, Text(*x)).sentence)

    def vision(self, student: Params, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Student vectors (n, D) of pictures with features (n, F, d) and mask (n, F)."""
        return self._by_batch(len(features), lambda rows: self._vision(student, features[rows], mask[rows]))

    def text(self, student: Params, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        """Student vectors (m, D) of the captions `rows` (m,)."""
        return self._by_batch(len(rows), lambda places: self._text(student, *self._captions(corpus, rows[places])))

    def teacher(self, teacher: Params, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        """Teacher vectors (m, F, D) of the captions `rows` (m,), by each of its F heads."""

        def of(places: np.ndarray) -> jax.Array:
            return self._teacher(teacher, *self._captions(corpus, rows[places])).swapaxes(0, 1)

        return self._by_batch(len(rows), of)

    def _captions(self, corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        sentences = np.asarray(corpus.sentences[rows])
        return (sentences, *corpus.words.padded(rows, max_words=self.max_words)) if self.max_words else (sentences,)

    def _by_batch(self, count: int, embed: Callable[[np.ndarray], Any]) -> np.ndarray:
        batches = evaluation_batches(count, batch_size=self.batch_size)
        return np.concatenate([np.asarray(embed(batch.rows))[batch.is_valid] for batch in batches])
