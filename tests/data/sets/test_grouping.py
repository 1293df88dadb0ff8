"""Groups by shared keys, and the split by a hash."""

from __future__ import annotations

from collections import Counter

import pytest

from cl2cm_jax.data.sets.pictograms.grouping import grouped, hashed_split


def test_items_that_share_a_key_directly_or_through_others_are_one_group() -> None:
    assert grouped([["a"], ["b"], ["b", "c"], ["d"], ["c", "e"], ["e", "a"]]) == [0, 0, 0, 3, 0, 0]
    assert grouped([[], [], ["x"]]) == [0, 1, 2]


def test_the_hash_decides_alone_and_in_the_asked_shares() -> None:
    splits = [hashed_split(f"concept {n}", salt="s", train=0.7, validation=0.2) for n in range(5000)]
    counts = Counter(splits)
    assert counts["train"] / 5000 == pytest.approx(0.7, abs=0.03)
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.03)
    assert splits[7] == hashed_split("concept 7", salt="s", train=0.7, validation=0.2)
    assert splits != [hashed_split(f"concept {n}", salt="t", train=0.7, validation=0.2) for n in range(5000)]
