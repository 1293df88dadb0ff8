"""Queries alone and fused with their translation, ranked in both directions."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from cl2cm_jax import config as configuration
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.evaluation.evaluate import Embedded, protocol, rank_all
from cl2cm_jax.evaluation.picture import Queries

IMAGE = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 4])


class NamedCorpus:
    """All of a corpus that the protocol reads."""

    name = "test"


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def embedded() -> Embedded:
    """Five pictures, two captions each in en and de."""
    queries = {name: Queries([""] * 10, unit(10, seed), IMAGE) for name, seed in (("en", 1), ("de", 2))}
    return Embedded(cast(Corpus, NamedCorpus()), unit(5, 0), queries, {"de": unit(10, 3)})


def fused_config(weight: str = "0.25"):
    changes = {"evaluation.query": "fused", "evaluation.fusion_weight": weight}
    return configuration.override_all(configuration.defaults(), changes)


def naive_ranks(score: np.ndarray, right: np.ndarray) -> list[int]:
    """The rank of each row's best right item, from a whole matrix of scores."""
    return [1 + int((row[~hit] >= row[hit].max()).sum()) for row, hit in zip(score, right, strict=True)]


def test_fused_ranks_are_those_of_weighted_scores_both_ways(embedded: Embedded) -> None:
    ranks = rank_all(embedded, fused_config())["de"]
    own, translated = embedded.queries["de"].vectors, embedded.translated["de"]
    score = 0.25 * translated @ embedded.vision.T + 0.75 * own @ embedded.vision.T
    right = IMAGE[:, None] == np.arange(5)
    assert ranks.text_to_vision.tolist() == naive_ranks(score, right)
    assert ranks.vision_to_text.tolist() == naive_ranks(score.T, right.T)


def test_the_weight_is_that_of_the_translation(embedded: Embedded) -> None:
    plain = rank_all(embedded, configuration.defaults())["de"]
    none, whole = (rank_all(embedded, fused_config(weight))["de"] for weight in ("0", "1"))
    swapped = embedded._replace(queries={"de": embedded.queries["de"]._replace(vectors=embedded.translated["de"])})
    translated = rank_all(swapped, configuration.defaults())["de"]
    assert none.text_to_vision.tolist() == plain.text_to_vision.tolist()
    assert whole.text_to_vision.tolist() == translated.text_to_vision.tolist() != plain.text_to_vision.tolist()


def test_the_source_is_never_fused_and_a_target_only_on_request(embedded: Embedded) -> None:
    plain, fused = rank_all(embedded, configuration.defaults()), rank_all(embedded, fused_config())
    assert plain["en"].text_to_vision.tolist() == fused["en"].text_to_vision.tolist()
    assert plain["de"].text_to_vision.tolist() != fused["de"].text_to_vision.tolist()
    again = rank_all(embedded, fused_config(), query="target")
    assert again["de"].text_to_vision.tolist() == plain["de"].text_to_vision.tolist()


def test_the_protocol_names_the_kind_of_query(embedded: Embedded) -> None:
    config = fused_config()
    ranks = rank_all(embedded, config)
    fused = protocol(embedded, ranks, ("en", "de"), config)
    assert (fused.query, fused.fusion_weight, fused.captions) == ("fused", 0.25, {"en": 10, "de": 10})
    target = protocol(embedded, ranks, ("en", "de"), config, query="target")
    assert (target.query, target.fusion_weight) == ("target", None)


@pytest.mark.parametrize("query", ["target", "fused"])
def test_the_first_caption_alone_counts_both_ways(embedded: Embedded, query: str) -> None:
    changes = {"evaluation.query": query, "evaluation.captions_per_image": "first"}
    config = configuration.override_all(configuration.defaults(), changes)
    ranks = rank_all(embedded, config)
    assert len(ranks["de"].text_to_vision) == len(ranks["de"].vision_to_text) == 5
    halved = {name: Queries([""] * 5, vectors[:5], IMAGE[:5]) for name, (_, vectors, _) in embedded.queries.items()}
    every = configuration.override_all(configuration.defaults(), {"evaluation.query": query})
    want = rank_all(embedded._replace(queries=halved, translated={"de": embedded.translated["de"][:5]}), every)
    assert ranks["de"].text_to_vision.tolist() == want["de"].text_to_vision.tolist()
    assert ranks["de"].vision_to_text.tolist() == want["de"].vision_to_text.tolist()
    assert protocol(embedded, ranks, ("de",), config).captions_per_image == "first"
