"""Queries against a gallery: embed the texts, rank the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery
from cl2cm_jax.maths.ranking import top as best_items
from cl2cm_jax.trained.encoder import Encoder


@dataclass(frozen=True)
class Result:
    """One picture found: rank from 1, cosine score, and what the gallery knows of it."""

    rank: int
    id: str
    score: float
    caption: str
    path: str


@dataclass(frozen=True)
class Answer:
    """A query with its results, best first."""

    query: str
    results: tuple[Result, ...]

    def as_dict(self) -> dict[str, Any]:
        """{"query": ..., "results": [{"rank", "id", "score", "caption", "path"}, ...]}, the form of `--json`."""
        return asdict(self)


def check_queries(queries: Sequence[str]) -> None:
    """Raises a UserError if there is no query, or one is empty or not Unicode text."""
    if not queries:
        raise UserError(
            'no query given; write one or more, as in "a red apple", or - to read lines from standard input'
        )
    for number, query in enumerate(queries, start=1):
        if not query.strip():
            raise UserError(f"query {number} is empty; write what the picture shows")
        if any("\ud800" <= char <= "\udfff" for char in query):
            raise UserError(f"query {number} is not valid UTF-8; set the terminal's encoding to UTF-8")


def check_top(top: int) -> None:
    """Raises a UserError unless `top` is 1 or more."""
    if top < 1:
        raise UserError(f"--top={top} asks for no picture; use 1 or more")


def search(queries: Sequence[str], gallery: Gallery, encoder: Encoder, *, top: int = 5) -> list[Answer]:
    """The `top` pictures of the gallery for each query, all if it has fewer; equal scores stand in its order.

    Raises:
        UserError: no query, an empty one, `top` below 1, or a gallery made by another model.
    """
    check_queries(queries)
    check_top(top)
    vectors = encoder.text(queries)
    gallery.check(weights=encoder.weights, dim=vectors.shape[1])
    scores, rows = best_items(vectors, gallery.embeddings, min(top, len(gallery)))
    return [
        Answer(
            query, tuple(_result(gallery, rank, *found) for rank, found in enumerate(zip(*both, strict=True), start=1))
        )
        for query, *both in zip(queries, scores, rows, strict=True)
    ]


def _result(gallery: Gallery, rank: int, score: float, row: int) -> Result:
    return Result(rank, gallery.ids[row], round(float(score), 6), gallery.captions[row], gallery.paths[row])
