from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cl2cm_jax.maths.ranking import ABSENT, average_precision_of, competitors, ranks, top

# Three queries against three gallery items with these scores; the other direction has other ranks.
SCORES = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.1], [0.3, 0.4, 0.2]], np.float32)
IDS = np.array([10, 20, 30])
BLOCKS = [1, 2, 3, 1024]


def random_case(m: int, n: int, images: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(m, 8)), rng.normal(size=(n, 8))
    gallery_image = np.concatenate([np.arange(images), rng.integers(0, images, n - images)])
    return (
        queries.astype(np.float32),
        gallery.astype(np.float32),
        rng.integers(0, images, m),
        rng.permutation(gallery_image),
    )


def naive_rank(score: np.ndarray, positive: np.ndarray) -> int:
    return 1 + int((score[~positive] >= score[positive].max()).sum())


def average_precision(queries: np.ndarray, gallery: np.ndarray, **arguments: Any) -> np.ndarray:
    """As the evaluation gets it, from the counts that the ranks come from too."""
    return average_precision_of(competitors(queries, gallery, **arguments)[0])


def naive_average_precision(score: np.ndarray, positive: np.ndarray) -> float:
    order = np.lexsort((positive, -score))  # falling, with the positives last among equals
    hits = positive[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


@pytest.mark.parametrize("block", BLOCKS)
def test_ranks_of_a_table_made_by_hand_in_both_directions(block):
    forward = ranks(SCORES, np.eye(3), query_image=IDS, gallery_image=IDS, block=block)
    backward = ranks(SCORES.T, np.eye(3), query_image=IDS, gallery_image=IDS, block=block)
    np.testing.assert_array_equal(forward, [1, 2, 3])
    np.testing.assert_array_equal(backward, [1, 2, 2])


@pytest.mark.parametrize("n", [5, 37, 130])
@pytest.mark.parametrize("block", [16, 1024])
def test_equal_embeddings_get_the_worst_rank(n, block):
    vector = np.random.default_rng(n).normal(size=(1, 96)).astype(np.float32)
    everyone = np.repeat(vector / np.linalg.norm(vector), n, axis=0)
    found = ranks(everyone, everyone, query_image=np.arange(n), gallery_image=np.arange(n), block=block)
    np.testing.assert_array_equal(found, n)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["query", "gallery"])
def test_vectors_that_are_not_finite_are_an_error(value, where):
    spoiled = np.eye(3, dtype=np.float32)
    spoiled[1, 2] = value
    pair = (spoiled, np.eye(3)) if where == "query" else (np.eye(3), spoiled)
    with pytest.raises(ValueError, match=f"1 {where} vectors hold NaN or infinity, the first in row 1"):
        ranks(*pair, query_image=IDS, gallery_image=IDS)
    with pytest.raises(ValueError, match=where):
        top(*pair, k=1)


def test_a_query_without_a_positive_and_an_empty_gallery_are_errors():
    with pytest.raises(ValueError, match="1 queries have no positive in the gallery, the first is row 2"):
        ranks(np.eye(3), np.eye(3), query_image=[10, 20, 40], gallery_image=IDS)
    with pytest.raises(ValueError, match="no gallery vectors"):
        ranks(np.eye(3), np.zeros((0, 3)), query_image=IDS, gallery_image=[])


def test_the_order_of_the_gallery_does_not_matter():
    queries, gallery, query_image, gallery_image = random_case(20, 33, 9)
    order = np.random.default_rng(1).permutation(33)
    for measure in (ranks, average_precision):
        want = measure(queries, gallery, query_image=query_image, gallery_image=gallery_image, block=16)
        got = measure(queries, gallery[order], query_image=query_image, gallery_image=gallery_image[order], block=16)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("block", [5, 16, 1024])
@pytest.mark.parametrize("tied", [False, True])
def test_ranks_and_average_precision_equal_a_naive_count(block, tied):
    queries, gallery, query_image, gallery_image = random_case(23, 41, 7)
    if tied:  # small integers: scores are exact and often equal
        queries, gallery = np.round(queries), np.round(gallery)
    score, positive = queries @ gallery.T, query_image[:, None] == gallery_image
    arguments: dict[str, Any] = dict(query_image=query_image, gallery_image=gallery_image, block=block)
    np.testing.assert_array_equal(
        ranks(queries, gallery, **arguments), [naive_rank(s, p) for s, p in zip(score, positive, strict=True)]
    )
    np.testing.assert_allclose(
        average_precision(queries, gallery, **arguments),
        [naive_average_precision(s, p) for s, p in zip(score, positive, strict=True)],
    )


def test_other_positives_are_no_competitors():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    arguments: dict[str, Any] = dict(query_image=[1], gallery_image=[1, 0, 1, 1])
    np.testing.assert_array_equal(competitors(scores, np.eye(4), **arguments)[0], [[0, 1, 1]])
    np.testing.assert_array_equal(ranks(scores, np.eye(4), **arguments), [1])
    np.testing.assert_allclose(average_precision(scores, np.eye(4), **arguments), [(1 + 2 / 3 + 3 / 4) / 3])


@pytest.mark.parametrize("block", BLOCKS)
def test_top_gives_the_best_with_ties_by_index(block):
    queries = np.array([[0.1, 0.7, 0.7, 0.9, 0.7], [0.5, 0.5, 0.5, 0.5, 0.5]], np.float32)
    score, index = top(queries, np.eye(5), k=3, block=block)
    np.testing.assert_array_equal(index, [[3, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(score, [[0.9, 0.7, 0.7], [0.5, 0.5, 0.5]], rtol=1e-6)


def test_top_of_a_small_gallery_gives_all_of_it():
    score, index = top(-np.eye(3), np.eye(3), k=10, block=2)
    assert score.shape == (3, 3)
    np.testing.assert_array_equal(index, [[1, 2, 0], [0, 2, 1], [0, 1, 2]])


@pytest.mark.parametrize("block", [4, 7, 1024])
def test_one_sweep_counts_for_both_directions_what_two_count(block):
    queries, gallery, query_image, gallery_image = random_case(23, 41, 7)
    queries, gallery = np.round(queries), np.round(gallery)  # often equal
    images = {"query_image": query_image, "gallery_image": gallery_image}
    of_queries, of_items = competitors(queries, gallery, **images, block=block)
    np.testing.assert_array_equal(of_queries, competitors(queries, gallery, **images)[0])
    asked = np.isin(gallery_image, query_image)
    back, _ = competitors(gallery[asked], queries, query_image=gallery_image[asked], gallery_image=query_image)
    np.testing.assert_array_equal(of_items[asked], back)
    np.testing.assert_array_equal(of_items[~asked], ABSENT)


def many(queries: int, items: int, *, tied: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    draw = (lambda n: random.integers(-1, 2, (n, 6))) if tied else (lambda n: random.normal(size=(n, 6)))
    return draw(queries).astype(np.float32), draw(items).astype(np.float32)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("items", "k"), [(1000, 1), (1000, 10), (997, 10), (64, 10), (1000, 400)])
def test_top_equals_a_stable_sort_over_several_tiles(items, k, tied):
    queries, gallery = many(9, items, tied=tied)
    score = queries @ gallery.T
    want = np.argsort(-score, axis=1, kind="stable")[:, :k]
    found, index = top(queries, gallery, k, block=64)  # tiles of up to 256 items, so of 16 groups
    np.testing.assert_array_equal(index, want[:, : min(k, items)])
    np.testing.assert_allclose(found, np.take_along_axis(score, want, axis=1), rtol=1e-5)


def test_top_finds_the_best_wherever_they_stand_in_a_tile():
    gallery = np.full((512, 1), -5, np.float32)
    for place in (0, 15, 16, 255, 256, 511):
        gallery[:] = -5
        gallery[place] = -1
        assert top(np.ones((1, 1)), gallery, 1, block=128)[1].item() == place


@pytest.mark.parametrize("tied", [False, True])
def test_top_when_few_rows_find_better_in_a_later_tile(tied):
    """Most rows have their best in the first tile, where the others are not looked at again."""
    queries, gallery = many(64, 2000, tied=tied)
    gallery[256:] /= 4
    gallery[1500:1510] = 8 * queries[:10]
    score = queries @ gallery.T
    np.testing.assert_array_equal(
        top(queries, gallery, 7, block=64)[1], np.argsort(-score, axis=1, kind="stable")[:, :7]
    )


def test_top_takes_no_padding_for_items_however_low_the_scores():
    gallery = -np.arange(1, 301, dtype=np.float32)[:, None]  # a second tile of 106 places with no item behind 44
    index = top(np.ones((5, 1)), gallery, 300, block=64)[1]
    np.testing.assert_array_equal(index, np.tile(np.arange(300), (5, 1)))
