"""Retrieval metrics with the bounds that any rule for ties can reach."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cl2cm_jax.evaluation.retrieval import Ranks, metrics, retrieval_ranks
from cl2cm_jax.maths.ranking import ABSENT, average_precision_of, ranks_of
from cl2cm_jax.studies.external_eval.captioned import Captioned, TwoTowers

TIED = 1e-6  # scores this close are equal: the vector of one input differs by about 1e-7 between batches
_BLOCK = 1024  # queries whose scores are in memory at once


class TieBounds(NamedTuple):
    """Metrics by name: ours, and with pessimistic (`worst`) or optimistic (`best`) ties."""

    ours: dict[str, float]
    worst: dict[str, float]
    best: dict[str, float]


def own_metrics(model: TwoTowers, data: Captioned) -> dict[str, TieBounds]:
    """Our metrics of each language, with the bounds of ties."""
    vision = model.encode_image(data.images)
    return {
        language: tie_bounds(model.encode_text(captions.texts), vision, text_image=captions.image)
        for language, captions in data.captions.items()
    }


def tie_bounds(text: np.ndarray, vision: np.ndarray, *, text_image: np.ndarray, tied: float = TIED) -> TieBounds:
    """Our metrics of one language, and the bounds for all rules for ties; scores within `tied` count as equal.

    text (M, D) and vision (N, D) are float32 vectors; text_image (M,) is the row of each caption's image in `vision`.
    """
    captioned = np.unique(text_image)
    places = np.arange(len(vision))
    to_vision = _competitors(text, vision, positive=text_image[:, None] == places, tied=tied)
    to_text = _competitors(vision[captioned], text, positive=captioned[:, None] == text_image, tied=tied)
    worst, best = (
        metrics(
            Ranks(
                text_to_vision=ranks_of(of_text),
                vision_to_text=ranks_of(of_vision),
                text_image=text_image,
                vision_image=captioned,
                text_to_vision_ap=average_precision_of(of_text),
                vision_to_text_ap=average_precision_of(of_vision),
            )
        )
        for of_text, of_vision in zip(to_vision, to_text, strict=True)
    )
    return TieBounds(metrics(retrieval_ranks(text, vision, text_image=text_image)), worst, best)


def _competitors(
    queries: np.ndarray, gallery: np.ndarray, *, positive: np.ndarray, tied: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `maths.ranking.competitors`, (M, P), with ties counted as higher, and with ties counted as lower.

    `positive` (M, N) bool marks the positives of each query in the gallery.
    """
    shape = len(queries), int(positive.sum(axis=1).max())
    worst, best = (np.full(shape, ABSENT, np.int64) for _ in range(2))
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ gallery.T
        for row, (score, hit) in enumerate(zip(scores, positive[start : start + _BLOCK], strict=True), start):
            others, positives = np.sort(score[~hit]), np.sort(score[hit])[::-1]
            worst[row, : len(positives)] = len(others) - np.searchsorted(others, positives - tied, "left")
            best[row, : len(positives)] = len(others) - np.searchsorted(others, positives + tied, "right")
    return worst, best
