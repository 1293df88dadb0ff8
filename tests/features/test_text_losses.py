"""What a text encoder does not read of a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import pytest

from cl2cm_jax.features.caption_counts import (
    CAPTION_COUNTS,
    EXAMINED,
    count_captions,
    lost_captions,
    spelt_captions,
)
from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models.backbone import TextBackbone, TextOutput
from cl2cm_jax.models.tokenizers import TokenBatch, padded
from cl2cm_jax.trained.student import _notice

KNOWN = ["a", "red", "green", "dog", "query"]


class Words:
    """A piece for each word; the words of `KNOWN` are known."""

    unknown = 3

    def __init__(self, max_tokens: int) -> None:
        self.limit = max_tokens - 2

    def words(self, text: str) -> list[str]:
        return text.split()[: self.limit]

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        ids = [[4 + KNOWN.index(word) if word in KNOWN else 3 for word in self.words(text)] for text in texts]
        return padded([[1, *row, 2] for row in ids])


class Plain(Words):
    """As of a backbone of one's own: without an id for unknown pieces."""

    unknown = None


class Spelt(Words):
    """A piece for each letter but of known words; all are known."""

    def words(self, text: str) -> list[str]:
        pieces = (["▁" + word] if word in KNOWN else list(word) for word in text.split())
        return [piece for word in pieces for piece in word][: self.limit]

    def __call__(self, texts: Sequence[str]) -> TokenBatch:
        return padded([[1, *map(len, self.words(text)), 2] for text in texts])

    unknown = 99


def encoder(tokenizer: type[Words] = Words, prompt: str = "", max_tokens: int = 6) -> TextEncoder:
    def apply(params, ids, mask):  # noqa: ANN001, ANN202
        return TextOutput(words=jnp.zeros((*ids.shape, 2)), mask=mask, sentence=jnp.zeros((len(ids), 2)))

    backbone = TextBackbone(dim=2, params={}, apply=apply, tokenizer=tokenizer)
    return TextEncoder(backbone, max_tokens=max_tokens, prompt=prompt)


def test_texts_that_are_cut_are_those_that_are_longer() -> None:
    texts = ["", "a red dog", "a red dog a", "a red dog a dog", "a " * 1000]
    one = encoder()
    assert one.losses(texts, one.tokens(texts)).is_cut.tolist() == [False, False, False, True, True]
    assert encoder(prompt="query ").losses(texts[2:3], encoder(prompt="query ").tokens(texts[2:3])).is_cut.tolist() == [
        True
    ]


def test_share_of_unknown_pieces() -> None:
    texts = ["a red dog", "a blue dog", "ein Hund", ""]
    one = encoder()
    assert one.losses(texts, one.tokens(texts)).unknown.tolist() == pytest.approx([0, 1 / 3, 1, 0])
    plain = encoder(Plain)
    assert plain.losses(texts, plain.tokens(texts)).unknown.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("query", "notice"),
    [
        ("a red dog", ""),
        ("a green dog a dog", "only the first 4 word pieces are read"),
        ("ein roter dog", "does not know 67% of the word pieces, and probably not the language"),
        ("a red green cat", ""),
    ],
)
def test_the_notice_of_a_query(query: str, notice: str) -> None:
    found = _notice(encoder(), query)
    assert notice in found and bool(notice) == bool(found)


@pytest.mark.parametrize(
    ("query", "notice"),
    [
        ("μήλο red", "reads 80% letter by letter, and probably does not know the language"),
        (
            "μήλο " * 20,
            "reads 100% letter by letter, and probably does not know the language; only the first 62 word pieces",
        ),
        ("red green dog abc", ""),
        ("Ωμέ", ""),  # of few pieces
        ("二匹の犬が走る", ""),  # pieces of one letter, as they are
        ("개두마리가 달린다", ""),
    ],
)
def test_the_notice_of_a_query_that_is_spelt(query: str, notice: str) -> None:
    found = _notice(encoder(Spelt, max_tokens=64), query)
    assert notice in found and bool(notice) == bool(found)


def test_a_language_that_is_read_letter_by_letter_is_named(tmp_path: Path) -> None:
    one = encoder(Spelt, max_tokens=64)
    read = ["el"] * 150 + ["en"] * 3
    texts = ["μήλο red"] * 150 + ["a red dog", "abcde", "a green dog"]
    spelt = list(spelt_captions(one, read, texts))
    assert Counter(spelt) == {"el": EXAMINED, "en": 1}
    counts = count_captions(read, one.losses(texts, one.tokens(texts)), left_out=[], spelt=spelt)
    (tmp_path / "done.json").write_text(json.dumps({CAPTION_COUNTS: {"train": counts._asdict()}}))
    (line,) = lost_captions(tmp_path, max_tokens=64, backbone="mine")
    assert line.startswith("captions that config.text.backbone='mine' reads letter by letter")
    assert line.endswith(": el 100 of 100 examined")  # and not English, of which one of three is
