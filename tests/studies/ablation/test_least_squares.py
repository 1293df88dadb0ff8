"""The ridge map and its pairs, against naive forms."""

from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.studies.ablation.least_squares import most_similar, ridge_maps


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_map_that_is_there_is_found() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    x = unit(200, 8, 1)
    ((_, weak), (_, strong)) = ridge_maps(x, x @ turn, (1e-6, 1e6))
    assert weak == pytest.approx(turn, abs=1e-4)
    assert strong == pytest.approx(np.eye(8), abs=1e-4)  # the model without a map


def test_the_ridge_is_that_of_its_definition() -> None:
    x, y, ridge = unit(30, 5, 2), unit(30, 5, 3), 0.7
    ((_, found),) = ridge_maps(x, y, (ridge,))

    def loss(matrix: np.ndarray) -> float:
        return float(((x @ matrix - y) ** 2).sum() + ridge * 30 / 5 * ((matrix - np.eye(5)) ** 2).sum())

    for seed in range(5):
        assert loss(found) < loss(found + 1e-2 * np.random.default_rng(seed).normal(size=(5, 5)))


def test_a_caption_is_paired_with_the_most_similar_source_of_its_image() -> None:
    random = np.random.default_rng(4)
    sources, source_image = unit(12, 6, 5), random.integers(4, size=12)
    targets, target_image = unit(20, 6, 6), random.integers(5, size=20)  # image 4 has no source
    found = most_similar(targets, target_image, sources, source_image)
    for row in range(20):
        mine = np.flatnonzero(source_image == target_image[row])
        expected = mine[np.argmax(sources[mine] @ targets[row])] if len(mine) else -1
        assert found[row] == expected
