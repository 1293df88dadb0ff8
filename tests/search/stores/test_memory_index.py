"""The index in memory: exact order, also between equal scores."""

from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.search.entry import Entry, id_of
from cl2cm_jax.search.stores.memory import MemoryIndex
from cl2cm_jax.search.stores.milvus import Manifest


@pytest.mark.parametrize("seed", range(5))
def test_entries_with_equal_scores_are_in_entry_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, 60).astype(np.float32)  # many are equal
    entries = [Entry(id=id_of(f"{n}.png"), path=f"{n}.png") for n in range(len(scores))]
    index = MemoryIndex(entries, scores[:, None], Manifest(weights="w", model="m", dim=1, images=""))
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    for top in (1, 7, 30, 60, 100):
        (found,) = index.search(np.ones((1, 1)), top=top)
        assert [entry.entry.path for entry in found] == [f"{row}.png" for row in expected[:top]]
