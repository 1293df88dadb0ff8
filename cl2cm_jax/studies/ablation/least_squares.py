"""Least-squares map over a model trained on the source language alone, a baseline for frozen encoders.

A target caption's vector is mapped into the space of the source captions and searches there; neither tower sees a
target caption in training. METAL and uCLIP map the vectors of a multilingual text encoder to those of an English
vision-language model in this way. Here both vectors come from one tower, so this form is a ridge regression towards the
identity: an infinite ridge is the model without a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.evaluate import Embedded
from cl2cm_jax.evaluation.retrieval import Ranks, metrics
from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.embed_step import Embedder

RIDGES = (0.1, 1.0, 10.0, 100.0)  # of the mean eigenvalue of the targets' second moments
WITHOUT_VALIDATION = 1.0


class Mapped(NamedTuple):
    """Ranks of the mapped queries by split ("validation", "test") and language, and the ridge of each language."""

    ranks: dict[str, dict[str, Ranks]]
    ridges: dict[str, float]


def mapped_ranks(
    embedder: Embedder, student: Params, train: Corpus, embedded: Mapping[str, Embedded], config: ConfigDict
) -> Mapped:
    """Ranks of both evaluation splits with every target's queries mapped to the source.

    The student was trained on the source alone; the maps are fitted on `train` with its translation noise; `embedded`
    has the headline images of "validation" and "test".
    """
    source = config.data.source
    rows = train.captions_of(source)
    sources, images = embedder.text(student, train.text, rows), train.caption_image[rows]
    ranks = {split: dict(evaluate.rank_all(some, config)) for split, some in embedded.items()}
    ridges: dict[str, float] = {}
    for language in (*config.data.targets, *config.data.reported):
        rows = train.captions_of(language)
        if not len(rows) or language not in embedded["test"].queries:
            continue
        targets = embedder.text(student, train.text, rows)
        pair = most_similar(targets, train.caption_image[rows], sources, images)
        maps = ridge_maps(targets[pair >= 0], sources[pair[pair >= 0]], RIDGES)
        ridges[language], matrix = _chosen(maps, embedded["validation"], language, config)
        for split, of_split in embedded.items():
            if language in of_split.queries:
                ranks[split][language] = _ranks(of_split, language, matrix, config)
    return Mapped(ranks, ridges)


def _chosen(
    maps: Iterable[tuple[float, np.ndarray]], validation: Embedded, language: str, config: ConfigDict
) -> tuple[float, np.ndarray]:
    """The ridge and map with the best SumR on validation."""
    if language not in validation.queries:
        return next((ridge, matrix) for ridge, matrix in maps if ridge == WITHOUT_VALIDATION)
    return max(maps, key=lambda pair: metrics(_ranks(validation, language, pair[1], config))["SumR"])


def _ranks(embedded: Embedded, language: str, matrix: np.ndarray, config: ConfigDict) -> Ranks:
    """Ranks of one language's queries, each mapped by `matrix` (D, D)."""
    queries = embedded.queries[language]
    vectors = queries.vectors @ matrix
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    alone = embedded._replace(queries={language: queries._replace(vectors=vectors)})
    return evaluate.rank_all(alone, config)[language]


def most_similar(
    targets: np.ndarray, target_image: np.ndarray, sources: np.ndarray, source_image: np.ndarray
) -> np.ndarray:
    """For each target the most similar source caption of its image: rows (m,) of `sources`, -1 where there is none.

    Captions are unit vectors, (m, D) and (k, D), each with the number of its image, (m,) and (k,) int.
    """
    order = np.argsort(source_image, kind="stable")
    first, last = (np.searchsorted(source_image[order], target_image, side) for side in ("left", "right"))
    best, score = np.full(len(targets), -1), np.full(len(targets), -np.inf, np.float32)
    for place in range(int((last - first).max(initial=0))):
        here = np.flatnonzero(first + place < last)
        candidate = order[first[here] + place]
        similarity = np.einsum("md,md->m", targets[here], sources[candidate])
        better = similarity > score[here]
        best[here[better]], score[here[better]] = candidate[better], similarity[better]
    return best


def ridge_maps(x: np.ndarray, y: np.ndarray, ridges: Iterable[float]) -> Iterable[tuple[float, np.ndarray]]:
    """The matrix W (D, D) that minimises |x W - y|^2 + r * |W - I|^2, for each ridge.

    x and y (n, D) are unit vectors; r is in units of the mean eigenvalue of x^T x, which is n / D.
    """
    dim = x.shape[1]
    moments, rest = (x.T @ x).astype(np.float64), (x.T @ (y - x)).astype(np.float64)
    for ridge in ridges:
        strength = ridge * max(len(x), 1) / dim
        change = np.linalg.solve(moments + strength * np.eye(dim), rest)
        yield ridge, (np.eye(dim) + change).astype(np.float32)
