"""One split through the student: vectors, ranks, and the parts of a run's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.picture import Queries
from cl2cm_jax.evaluation.report import Group, Protocol
from cl2cm_jax.evaluation.retrieval import Ranks, metrics, retrieval_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.embed_step import Embedder

HEADLINE = "headline"


class Embedded(NamedTuple):
    """A corpus (of one group of pictures) as vectors: vision (N, D) and, by language, its captions."""

    corpus: Corpus
    vision: np.ndarray
    queries: dict[str, Queries]


def embed_corpus(embedder: Embedder, student: Params, corpus: Corpus, *, languages: Sequence[str]) -> Embedded:
    """Embeds all pictures, and all captions of the languages that have any."""
    queries = {}
    for language in languages:
        rows = corpus.captions_of(language)
        if len(rows):
            vectors = embedder.text(student, corpus.text, rows)
            queries[language] = Queries([corpus.caption_text[row] for row in rows], vectors, corpus.caption_image[rows])
    return Embedded(corpus, embedder.vision(student, corpus.vision, corpus.vision_mask), queries)


def rank_all(embedded: Embedded, config: ConfigDict) -> dict[str, Ranks]:
    """Ranks of every language in both directions."""
    c = config.evaluation
    return {
        language: retrieval_ranks(
            queries.vectors,
            embedded.vision,
            text_image=queries.image,
            captions_per_image=c.captions_per_image,
            block=c.block,
        )
        for language, queries in embedded.queries.items()
    }


def headline(corpus: Corpus) -> Corpus:
    """The pictures that count: the group "headline"; the others are reported apart."""
    return corpus.select_images(corpus.groups == HEADLINE)


def measure(ranks: dict[str, Ranks], languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Named metrics of the given languages."""
    return {language: metrics(ranks[language]) for language in languages if language in ranks}


def mean_sum_recall(ranks: dict[str, Ranks], targets: Sequence[str]) -> float:
    """Mean target SumR: what model selection looks at."""
    return float(np.mean([metrics(ranks[target])["SumR"] for target in targets]))


def protocol(embedded: Embedded, ranks: dict[str, Ranks], languages: Sequence[str], config: ConfigDict) -> Protocol:
    """How the numbers of these languages were measured."""
    return Protocol(
        split=embedded.corpus.name,
        images=len(embedded.vision),
        captions={language: len(ranks[language].text_to_vision) for language in languages if language in ranks},
        captions_per_image=config.evaluation.captions_per_image,
    )


def groups_apart(
    embedder: Embedder,
    student: Params,
    test: Corpus,
    headline_ranks: tuple[Embedded, dict[str, Ranks]],
    config: ConfigDict,
) -> dict[str, Group]:
    """Languages (`data.reported`) and groups of pictures that stay out of the headline."""
    embedded, ranks = headline_ranks
    c = config.data
    apart = {}
    if c.reported:
        name = f"languages {', '.join(c.reported)}"
        apart[name] = Group(measure(ranks, c.reported), protocol(embedded, ranks, c.reported, config))
    for group in sorted(set(test.groups) - {HEADLINE}):
        languages = (c.source, *c.targets, *c.reported)
        other = embed_corpus(embedder, student, test.select_images(test.groups == group), languages=languages)
        other_ranks = rank_all(other, config)
        apart[f"pictures {group}"] = Group(
            measure(other_ranks, languages), protocol(other, other_ranks, languages, config)
        )
    return apart
