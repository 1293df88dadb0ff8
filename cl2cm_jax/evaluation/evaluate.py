"""Evaluation of the student on a split: vectors, ranks, and the parts of a run's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.captions import HEADLINE
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.picture import Queries
from cl2cm_jax.evaluation.report import REPORTED, Group, Protocol
from cl2cm_jax.evaluation.retrieval import Query, Ranks, fuse_queries, metrics, retrieval_ranks
from cl2cm_jax.models.functional import Params
from cl2cm_jax.steps.embed_step import Embedder

NOT_FUSED = "queries in their own language alone"


class Embedded(NamedTuple):
    """A corpus as vectors: vision (N, D) and the captions of each language.

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
    return Embedded(corpus, embedder.images(student, corpus), queries, translated)


def check_translations(corpus: Corpus, config: ConfigDict) -> None:
    """Raises UserError if queries are to be fused and a caption of a target language has no translation."""
    if config.evaluation.query == "fused":
        for language in (*config.data.targets, *config.data.reported):
            corpus.translations_of(language, config.data.source)


def rank_all(embedded: Embedded, config: ConfigDict, *, query: Query | None = None) -> dict[str, Ranks]:
    """Ranks of every language in both directions; `query` overrides `config.evaluation.query`."""
    c, ranks = config.evaluation, {}
    for language, queries in embedded.queries.items():
        vectors = queries.vectors
        if (query or c.query) == "fused" and language in embedded.translated:  # the source needs no translation
            vectors = fuse_queries(vectors, embedded.translated[language], weight=c.fusion_weight)
        ranks[language] = retrieval_ranks(
            vectors,
            embedded.vision,
            text_image=queries.image,
            captions_per_image=c.captions_per_image,
            block=c.block,
        )
    return ranks


def headline(corpus: Corpus) -> Corpus:
    """The pictures of the group "headline"; the others are reported apart."""
    mine = corpus.groups == HEADLINE
    return corpus if mine.all() else corpus.select_images(mine)


def measure(ranks: Mapping[str, Ranks], languages: Sequence[str]) -> dict[str, dict[str, float]]:
    """Metrics of the given languages."""
    return {language: metrics(ranks[language]) for language in languages if language in ranks}


def mean_sum_recall(ranks: dict[str, Ranks], targets: Sequence[str]) -> float:
    """Mean SumR of the target languages, for model selection."""
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
    c, used = config.evaluation, query or config.evaluation.query
    return Protocol(
        split=embedded.corpus.name,
        images=len(embedded.vision),
        captions={language: len(ranks[language].text_to_vision) for language in languages if language in ranks},
        captions_per_image=c.captions_per_image,
        query=used,
        fusion_weight=c.fusion_weight if used == "fused" else None,
    )


def groups_apart(
    embedder: Embedder,
    student: Params,
    test: Corpus,
    headline_ranks: tuple[Embedded, dict[str, Ranks]],
    config: ConfigDict,
) -> dict[str, Group]:
    """Numbers outside the headline: `data.reported` languages, other groups of pictures, queries without fusion."""
    embedded, ranks = headline_ranks
    c, apart = config.data, {}
    every = (c.source, *c.targets, *c.reported)
    if config.evaluation.query == "fused":  # the same model and captions, so both protocols come from one run
        plain, languages = rank_all(embedded, config, query="target"), (c.source, *c.targets)
        how = protocol(embedded, plain, languages, config, query="target")
        apart[NOT_FUSED] = Group(measure(plain, languages), how)
    if c.reported:
        how = protocol(embedded, ranks, c.reported, config)
        apart[f"{REPORTED}{', '.join(c.reported)}"] = Group(measure(ranks, c.reported), how)
    for name in sorted(set(test.groups) - {HEADLINE}):
        pictures = test.select_images(test.groups == name)
        other = embed_corpus(embedder, student, pictures, languages=every, config=config)
        other_ranks = rank_all(other, config)
        how = protocol(other, other_ranks, every, config)
        apart[f"pictures {name}"] = Group(measure(other_ranks, every), how)
    return apart
