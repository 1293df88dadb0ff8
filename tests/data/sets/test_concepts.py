"""Near-duplicates are of one concept, and a concept is in one split."""

from __future__ import annotations

import pytest

pytest.importorskip("emoji")

from collections import Counter

from cl2cm_jax.data.sets.pictograms.concepts import concepts_of, family_of, name_key, split_of, structure_key
from cl2cm_jax.data.sets.pictograms.drawings import Drawing, drawings


@pytest.fixture(scope="module")
def by_name() -> dict[str, Drawing]:
    return {drawing.rows[0].caption: drawing for drawing in drawings()}


@pytest.mark.parametrize(
    "twins",
    [
        ("firefighter", "man firefighter", "woman firefighter"),
        ("one o’clock", "three-thirty", "twelve o’clock"),
        ("red heart", "blue heart", "broken heart"),
        ("up arrow", "right arrow", "left-right arrow"),
        ("red circle", "blue circle"),
        ("black large square", "green square"),
        ("full moon", "waning gibbous moon", "new moon face"),
        ("keycap 1", "keycap #"),
        ("A button (blood type)", "O button (blood type)", "play button"),
        ("man walking", "woman walking facing right"),
        ("man red hair", "woman bald", "person", "girl"),
        ("couple with heart woman man", "family man woman boy", "men holding hands"),
        ("mermaid", "merman", "merperson"),
        ("prince", "princess"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("cat", "black cat", "cat face", "grinning cat"),
        ("dog", "dog face"),
        ("bear", "polar bear"),
        ("bus", "oncoming bus"),
        ("grinning face", "grinning face with smiling eyes"),
        ("Aries", "Pisces"),
        ("globe showing Americas", "globe showing Asia-Australia"),
    ],
)
def test_near_duplicates_share_a_concept(by_name: dict[str, Drawing], twins: tuple[str, ...]) -> None:
    assert len({by_name[name].rows[0].concept for name in twins}) == 1


@pytest.mark.parametrize(
    "others",
    [
        ("firefighter", "fire engine", "pilot"),
        ("anatomical heart", "red heart"),
        ("bow and arrow", "up arrow"),
        ("hot dog", "dog"),
        ("red circle", "red square", "red heart"),
        ("rolling on the floor laughing", "sleeping face"),
        ("moon cake", "full moon"),
        ("pineapple", "red apple"),
    ],
)
def test_different_things_stay_apart(by_name: dict[str, Drawing], others: tuple[str, ...]) -> None:
    assert len({by_name[name].rows[0].concept for name in others}) == len(others)


def test_equal_structure_never_straddles_a_split(by_name: dict[str, Drawing]) -> None:
    splits: dict[str, set[str]] = {}
    for drawing in by_name.values():
        splits.setdefault(structure_key(drawing.emoji), set()).add(drawing.rows[0].split)
    assert all(len(found) == 1 for found in splits.values())


def test_equal_english_captions_never_straddle_a_split(by_name: dict[str, Drawing]) -> None:
    splits: dict[str, set[str]] = {}
    for drawing in by_name.values():
        for row in drawing.rows:
            if row.language == "en":
                splits.setdefault(row.caption.lower(), set()).add(drawing.rows[0].split)
    assert all(len(found) == 1 for found in splits.values())


def test_no_concept_swallows_the_set(by_name: dict[str, Drawing]) -> None:
    sizes = Counter(drawing.rows[0].concept for drawing in by_name.values())
    assert len(sizes) > 1200
    assert max(sizes.values()) <= 60


def test_shares_of_the_splits(by_name: dict[str, Drawing]) -> None:
    for group in ("headline", "flags"):
        splits = Counter(drawing.rows[0].split for drawing in by_name.values() if drawing.rows[0].group == group)
        total = sum(splits.values())
        print(group, dict(splits))
        assert splits["train"] / total == pytest.approx(0.70, abs=0.05)
        assert splits["validation"] / total == pytest.approx(0.15, abs=0.05)


def test_split_is_a_fixed_hash() -> None:
    # Literal values: a change of the salt or of the hash would move every published number.
    assert [split_of(concept) for concept in ("apple", "heart", "moon")] == ["train", "validation", "test"]


def test_keys() -> None:
    assert structure_key("\U0001f468\u200d\U0001f692") == structure_key("\U0001f469\u200d\U0001f692") == "1F9D1-1F692"
    assert structure_key("\U0001f6b6\u200d\u2642\ufe0f\u200d\u27a1\ufe0f") == structure_key("\U0001f6b6")
    assert name_key("woman running facing right") == "running"
    assert family_of("eleven-thirty") == "clock face"
    assert family_of("pear") is None


def test_shared_caption_joins_concepts() -> None:
    assert concepts_of(["a", "b", "c"], [["x y"], ["z", "X Y"], ["w"]]) == ["z", "z", "w"]
