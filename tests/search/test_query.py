from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from support.colour_encoder import ColourEncoder

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.tokenizers import SentencePieceTokenizer
from cl2cm_jax.search.query import query_texts, search, warn_of_unread


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


def test_queries_are_prepared_before_they_are_encoded(colours, gallery) -> None:
    seen: list[str] = []

    def text(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return colours.text(texts)

    encoder = dataclasses.replace(colours.encoder, text=text)
    written = ["red dog", "\u202ared\u00a0dog\u202c ", "RED DOG", "Red Dog", "rEd dog", "re\u00add\u200b dog"]
    answers = search(written, gallery, encoder)
    assert seen == ["red dog"] * 6
    assert [answer.query for answer in answers] == written
    assert len({answer.results for answer in answers}) == 1
    with pytest.raises(UserError, match="query 1 is empty"):
        search(["\u200b\u202a"], gallery, encoder)


def test_what_is_not_read_of_a_query_is_said_in_a_bounded_number_of_lines(colours, caplog) -> None:
    encoder = dataclasses.replace(colours.encoder, notice=lambda text: "it is cut" if "long" in text else "")
    warn_of_unread(encoder, ["red", "long", *(f"LONG {number}" for number in range(100))])
    assert [record.getMessage() for record in caplog.records][:2] == [
        "query 'long': it is cut",
        "query 'LONG 0': it is cut",
    ]
    assert caplog.records[-1].getMessage() == "96 more queries are not read as a whole"
    assert len(caplog.records) == 6


VOCABULARY = {"kırmızı", "bir", "elma", "groß", "Wasser", "ein", "in", "a", "apple", "Apple"}


def pieces(words: Sequence[str]) -> list[int]:
    """As a tokenizer whose vocabulary has these words whole."""
    return [1 if word in VOCABULARY else len(word) for word in words]


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("bir kırmızı elma", "bir kırmızı elma"),
        ("kirmizi", "kırmızı"),
        ("ein groß Wasser", "ein groß Wasser"),
        ("an Apple", "an apple"),
        ("σκύλος in οδός", "σκύλος in οδός"),
        ("сидящий кот", "сидящий кот"),
        ("电视 TV", "电视 tv"),
        ("گربه", "گربه"),
    ],
)
def test_capitals_change_no_text_that_is_encoded(colours: ColourEncoder, typed: str, text: str) -> None:
    encoder = dataclasses.replace(colours.encoder, pieces=pieces)
    mixed = "".join(letter.upper() if place % 2 else letter for place, letter in enumerate(typed))
    cased = [typed, typed.upper(), typed.title(), typed.capitalize(), typed.swapcase(), mixed]
    assert query_texts(encoder, cased) == [text] * len(cased)


def test_a_word_of_equal_pieces_is_spelt_as_in_most_languages(colours: ColourEncoder) -> None:
    assert query_texts(colours.encoder, ["KIRMIZI WASSER", ""]) == ["kirmizi wasser", ""]
    assert query_texts(colours.encoder, []) == []


@pytest.mark.parametrize(
    ("capitals", "text"),
    [
        ("KIRMIZI ELMA", "kırmızı elma"),
        ("İSTANBUL", "Istanbul"),
        ("A RED TAXI", "a red taxi"),
        ("DREI HUNDE AUF DER WIESE", "drei Hunde auf der wiese"),
        ("ΚΌΚΚΙΝΟΣ ΣΚΎΛΟΣ", "κόκκινος σκύλος"),
    ],
)
def test_words_are_spelt_as_in_the_vocabulary_of_the_demo(colours: ColourEncoder, capitals: str, text: str) -> None:
    tokenizer = SentencePieceTokenizer()
    encoder = dataclasses.replace(colours.encoder, pieces=lambda words: tokenizer(words).mask.sum(1).tolist())
    assert query_texts(encoder, [capitals, capitals.title(), capitals.lower()]) == [text] * 3
