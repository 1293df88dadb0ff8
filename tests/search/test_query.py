from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.query import search


def test_equal_queries_in_three_languages_find_the_same(colours, gallery) -> None:
    answers = search(["red dog", "rot", "赤"], gallery, colours.encoder, top=2)
    assert [answer.query for answer in answers] == ["red dog", "rot", "赤"]
    for answer in answers:
        assert [(r.rank, r.id, r.score) for r in answer.results] == [(1, "犬", 1.0), (2, "olive", pytest.approx(0.6))]


def test_form_of_an_answer(colours, gallery) -> None:
    (answer,) = search(["red"], gallery, colours.encoder, top=1)
    assert dataclasses.asdict(answer) == {
        "query": "red",
        "results": ({"rank": 1, "id": "犬", "score": 1.0, "caption": "a red dog", "path": ""},),
    }


def test_ties_are_in_gallery_order(colours, gallery) -> None:
    level = dataclasses.replace(gallery, embeddings=np.ones((4, 3), np.float32))
    (answer,) = search(["red"], level, colours.encoder, top=9)  # more than there are: all
    assert [result.id for result in answer.results] == list(gallery.ids)


@pytest.mark.parametrize(
    ("queries", "top", "message"),
    [
        ([], 1, "no query"),
        (["red", "  \t"], 1, "query 2 is empty"),
        (["\udcff"], 1, "not valid UTF-8"),
        (["red"], 0, "--top=0"),
    ],
)
def test_wrong_queries(colours, gallery, queries, top, message) -> None:
    with pytest.raises(UserError, match=message):
        search(queries, gallery, colours.encoder, top=top)


def test_vectors_of_other_weights_are_never_compared(colours, gallery) -> None:
    with pytest.raises(UserError, match="'step 9'.*'step 10'"):
        search(["red"], dataclasses.replace(gallery, weights="step 9"), colours.encoder, top=1)


def test_vectors_of_another_size_are_refused(colours, gallery) -> None:
    narrow = dataclasses.replace(gallery, embeddings=gallery.embeddings[:, :2])
    with pytest.raises(UserError, match="vectors have 2 numbers, but the model's have 3; run --mode=evaluate"):
        search(["red"], narrow, colours.encoder, top=1)
