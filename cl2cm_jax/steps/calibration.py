"""Fits the pair confidence (maths/confidence.py) to a teacher, the training set and the validation set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.maths.confidence import Calibration, calibrate, standard_scores
from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.embed_step import Embedder

CHUNK = 256  # pairs scored against each other, about a training batch


def calibration(
    embedder: Embedder, teacher: Params, *, train: Corpus, validation: Corpus, source: str, heads: int
) -> Calibration:
    """Fits one mixture for each of `train.languages`; the source language keeps weight 1.

    Args:
      embedder: runs the teacher.
      teacher: its parameters; a pair is scored by the head that did not train on it.
      train: the pairs to weight.
      validation: pairs taken to be correct: evaluation text is never machine-translated.
      source: the language that the others are paired with.
      heads: number of the teacher's.
    """
    training, right, wrong = [], [], []
    for language in train.languages:
        pairs = mismatched = correct = np.zeros(0, np.float32)
        if language != source:
            pairs, mismatched = _scores(embedder, teacher, train, source, language, heads)
            correct, _ = _scores(embedder, teacher, validation, source, language, heads)
        training, right, wrong = [*training, pairs], [*right, correct], [*wrong, mismatched]
    return calibrate(training=training, right=right, wrong=wrong)


def _scores(
    embedder: Embedder, teacher: Params, corpus: Corpus, source: str, language: str, heads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Standard scores of a language's pairs, and of the same captions paired with source captions of other images."""
    source_rows, target_rows, images = aligned_pairs(corpus, source, language)
    head = images % heads
    s = embedder.teacher(teacher, corpus.text, source_rows)[np.arange(len(head)), head]
    t = embedder.teacher(teacher, corpus.text, target_rows)[np.arange(len(head)), head]
    pairs, mismatched = [], []
    for fold in range(heads):
        for rows in _chunks(np.flatnonzero(head == fold)):
            pairs.append(_standard(s[rows], t[rows]))
            mismatched.append(_standard(s[rows], np.roll(t[rows], len(rows) // 2, axis=0)))
    nothing = [np.zeros(0, np.float32)]
    return np.concatenate(pairs or nothing), np.concatenate(mismatched or nothing)


def aligned_pairs(corpus: Corpus, source: str, language: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every caption in `language` with the first source caption of its image: rows (m,), rows (m,), images (m,)."""
    first = corpus.first_captions_of(source)
    targets = corpus.captions_of(language)
    images = corpus.caption_image[targets]
    has_source = first[images] >= 0
    return first[images][has_source], targets[has_source], images[has_source]


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    """Pieces of about `CHUNK` rows, each spread over the corpus, so that adjacent rows are not in one piece."""
    pieces = max(1, round(len(rows) / CHUNK))
    return [rows[start::pieces] for start in range(pieces) if len(rows[start::pieces]) > 2]


def _standard(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`standard_scores`, padded to one shape, so that it is compiled once."""
    size = 2 * CHUNK
    padded = [np.pad(x, ((0, size - len(x)), (0, 0))) for x in (source, target)]
    scores = _jitted(*map(jnp.asarray, padded), is_valid=jnp.arange(size) < len(source))
    return np.asarray(scores)[: len(source)]


_jitted = jax.jit(standard_scores)
