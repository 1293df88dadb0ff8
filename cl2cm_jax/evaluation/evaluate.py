"""One split through the student: vectors, ranks, and the parts of a run's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.captions import HEADLINE
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.picture import Queries
from cl2cm_jax.evaluation.report import Group, Protocol
from cl2cm_jax.evaluation.retrieval import Query, Ranks, fuse_queries, metrics, retrieval_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.embed_step import Embedder

NOT_FUSED = "queries in their own language alone"


class Embedded(NamedTuple):
    """A corpus (of one group of pictures) as vectors: vision (N, D) and, by language, its captions.

    `translated` has, where queries are fused, the vectors (M, D) of a target's captions translated to the source.
    """

    corpus: Corpus
    vision: np.ndarray
    queries: dict[str, Queries]
    translated: dict[str, np.ndarray]


def embed_corpus(
    embedder: Embedder, student: Params, corpus: Corpus, *, languages: Sequence[str], config: ConfigDict
) -> Embedded:
    """Embeds all pictures, and all captions of the languages that have any.

    Raises:
      UserError: queries are fused, and a caption has no translation.
    """
    source, fused = config.data.source, config.evaluation.query == "fused"
    queries, translated = {}, {}
    for language in languages:
        rows = corpus.captions_of(language)
        if len(rows):
            vectors = embedder.text(student, corpus.text, rows)
            queries[language] = Queries([corpus.caption_text[row] for row in rows], vectors, corpus.caption_image[rows])
            if fused and language != source:
                translated[language] = embedder.text(student, corpus.text, corpus.translations_of(language, source))
    return Embedded(corpus, embedder.pictures(student, corpus), queries, translated)


def check_translations(corpus: Corpus, config: ConfigDict) -> None:
    """Says before anything is trained whether queries can be fused.

    Raises:
      UserError: a caption of a target language has no translation.
    """
    if config.evaluation.query == "fused":
        for language in (*config.data.targets, *config.data.reported):
            corpus.translations_of(language, config.data.source)


def rank_all(embedded: Embedded, config: ConfigDict, *, query: Query | None = None) -> dict[str, Ranks]:
    """Ranks of every language in both directions. `query` stands in for `config.evaluation.query`."""
    c = config.evaluation

    def vectors(language: str) -> np.ndarray:
        own = embedded.queries[language].vectors
        if (query or c.query) == "target" or language not in embedded.translated:
            return own  # the source language needs no translation
        return fuse_queries(own, embedded.translated[language], weight=c.fusion_weight)

    return {
        language: retrieval_ranks(
            vectors(language),
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


def protocol(
    embedded: Embedded,
    ranks: dict[str, Ranks],
    languages: Sequence[str],
    config: ConfigDict,
    *,
    query: Query | None = None,
) -> Protocol:
    """How the numbers of these languages were measured; `query` as in `rank_all`."""
    asked: str = query or config.evaluation.query
    return Protocol(
        split=embedded.corpus.name,
        images=len(embedded.vision),
        captions={language: len(ranks[language].text_to_vision) for language in languages if language in ranks},
        captions_per_image=config.evaluation.captions_per_image,
        query=asked,
        fusion_weight=config.evaluation.fusion_weight if asked == "fused" else None,
    )


def groups_apart(
    embedder: Embedder,
    student: Params,
    test: Corpus,
    headline_ranks: tuple[Embedded, dict[str, Ranks]],
    config: ConfigDict,
) -> dict[str, Group]:
    """What stays out of the headline: languages (`data.reported`), groups of pictures, queries that are not fused."""
    embedded, ranks = headline_ranks
    c = config.data
    apart = {}
    if config.evaluation.query == "fused":  # the same model and captions, so both protocols come from one run
        plain, languages = rank_all(embedded, config, query="target"), (c.source, *c.targets)
        apart[NOT_FUSED] = Group(
            measure(plain, languages), protocol(embedded, plain, languages, config, query="target")
        )
    if c.reported:
        name = f"languages {', '.join(c.reported)}"
        apart[name] = Group(measure(ranks, c.reported), protocol(embedded, ranks, c.reported, config))
    for group in sorted(set(test.groups) - {HEADLINE}):
        languages = (c.source, *c.targets, *c.reported)
        other = embed_corpus(
            embedder, student, test.select_images(test.groups == group), languages=languages, config=config
        )
        other_ranks = rank_all(other, config)
        apart[f"pictures {group}"] = Group(
            measure(other_ranks, languages), protocol(other, other_ranks, languages, config)
        )
    return apart
