"""Ragged words and the selection of images."""

from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import padded_frames


def test_padded_words() -> None:
    words = Ragged(
        np.arange(1, 7, dtype=np.float16)[:, None], np.array([0, 3, 3, 6]), np.array([0, 1, 1, 1, 1, 0], bool)
    )
    values, mask = words.padded(np.array([2, 1, 0]), max_words=2)
    assert values[..., 0].tolist() == [[4, 5], [0, 0], [1, 2]]
    assert mask.tolist() == [[True, True], [False, False], [False, True]]
    values, mask = words.padded(np.array([0]), max_words=5)
    assert values[0, :, 0].tolist() == [1, 2, 3, 0, 0]
    assert mask.tolist() == [[False, True, True, False, False]]


def test_selected_words_are_the_same_words(corpus: Corpus) -> None:
    rows = np.array([5, 0, 7])
    selected = corpus.words.select(rows)
    assert len(selected) == 3
    for left, right in zip(
        selected.padded(np.arange(3), max_words=4), corpus.words.padded(rows, max_words=4), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_select_images_keeps_captions_with_their_images(corpus: Corpus) -> None:
    headline = corpus.select_images(corpus.groups == "flags")
    assert headline.image_ids.tolist() == ["image8", "image9"]
    for row, text in enumerate(headline.caption_text):
        before = corpus.caption_text.index(text)
        assert headline.image_ids[headline.caption_image[row]] == corpus.image_ids[corpus.caption_image[before]]
        np.testing.assert_array_equal(headline.sentences[row], corpus.sentences[before])
    assert len(headline.caption_text) == 6


def test_captions_of(corpus: Corpus) -> None:
    assert len(corpus.captions_of("fr")) == 9
    with pytest.raises(UserError, match="'xx' is not in the data, which has en, de, fr"):
        corpus.captions_of("xx")


def test_clips_of_different_lengths_are_padded() -> None:
    clips = [np.full((frames, 4), frames, np.float32) for frames in (2, 3, 1)]
    joined, frames = padded_frames(clips)
    assert joined.shape == (3, 3, 4) and joined.dtype == np.float32
    assert frames.tolist() == [2, 3, 1]
    assert (joined.sum((1, 2)) == [16, 36, 4]).all()
