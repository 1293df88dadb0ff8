"""Ragged words and the selection of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cl2cm_jax.config import defaults
from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.cache import Corpora, shape_of
from cl2cm_jax.features.encoders import padded_frames


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


def translated(corpus: Corpus, images: list[int]) -> Corpus:
    """The corpus with a caption in "en2de" for each entry of `images`, in that order."""
    count = len(images)
    return replace(
        corpus,
        languages=(*corpus.languages, "en2de"),
        caption_text=[*corpus.caption_text, *(f"translation {place}" for place in range(count))],
        caption_image=np.concatenate([corpus.caption_image, np.array(images, np.int32)]),
        caption_language=np.concatenate([corpus.caption_language, np.full(count, 3, np.int32)]),
    )


def test_translations_stand_in_the_order_of_their_captions(corpus: Corpus) -> None:
    own = corpus.captions_of("en")
    images = corpus.caption_image[own][::-1].tolist()  # image by image, but backwards
    found = translated(corpus, images)
    rows = found.translations_of("en", "de")
    assert sorted(rows) == found.captions_of("en2de").tolist()
    np.testing.assert_array_equal(found.caption_image[rows], found.caption_image[own])
    first, second = rows[:2]  # both of image 0
    assert first < second
    assert [found.caption_text[row] for row in (first, second)] == ["translation 16", "translation 17"]


def test_a_caption_without_its_translation_is_named(corpus: Corpus) -> None:
    images = corpus.caption_image[corpus.captions_of("en")].tolist()
    with pytest.raises(UserError, match="the train split, image 'image4': 2 captions in 'en' but 1 in 'en2de'"):
        translated(corpus, [image for place, image in enumerate(images) if place != 8]).translations_of("en", "de")
    with pytest.raises(UserError, match="image 'image4': 2 captions in 'en' but 3 in 'en2de'"):
        translated(corpus, [*images, 4]).translations_of("en", "de")


def test_clips_of_different_lengths_are_padded() -> None:
    clips = [np.full((frames, 4), frames, np.float32) for frames in (2, 3, 1)]
    joined, frames = padded_frames(clips)
    assert joined.shape == (3, 3, 4) and joined.dtype == np.float32
    assert frames.tolist() == [2, 3, 1]
    assert (joined.sum((1, 2)) == [16, 36, 4]).all()


def test_networks_have_room_for_the_longest_clip_of_any_split(corpus: Corpus) -> None:
    longer = replace(corpus, vision=np.zeros((10, 5, 3), np.float32), vision_mask=np.ones((10, 5), bool))
    shape = shape_of(defaults(), Corpora(corpus, longer, corpus))
    assert (shape.max_frames, shape.vision, shape.text) == (5, 3, 5)
