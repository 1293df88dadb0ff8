"""Swapped translations: exact share, always wrong, everything else untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.noise import NOISED, swap_translations
from cl2cm_jax.errors import UserError


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_share_is_exact_and_all_of_it_is_wrong(corpus: Corpus, share: float) -> None:
    noisy = swap_translations(corpus, share=share, seed=0, source="en")
    for language in ("de", "fr"):
        rows = corpus.captions_of(language)
        moved = noisy.caption_image[rows] != corpus.caption_image[rows]
        assert moved.sum() == round(share * len(rows))
        np.testing.assert_array_equal(moved, noisy.caption_origin[rows] == NOISED)
        assert sorted(noisy.caption_image[rows]) == sorted(corpus.caption_image[rows])


def test_source_and_vectors_stay(corpus: Corpus) -> None:
    noisy = swap_translations(corpus, share=1.0, seed=0, source="en")
    rows = corpus.captions_of("en")
    np.testing.assert_array_equal(noisy.caption_image[rows], corpus.caption_image[rows])
    assert (noisy.caption_origin[rows] == "human").all()
    assert noisy.sentences is corpus.sentences and noisy.caption_text is corpus.caption_text


def test_deterministic_and_seeded(corpus: Corpus) -> None:
    first, again, other = (
        swap_translations(corpus, share=0.5, seed=seed, source="en").caption_image for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_noise_is_no_change(corpus: Corpus) -> None:
    noisy = swap_translations(corpus, share=0.0, seed=0, source="en")
    np.testing.assert_array_equal(noisy.caption_image, corpus.caption_image)
    assert (noisy.caption_origin == "human").all()


def test_several_captions_of_an_image_all_move_to_others(corpus: Corpus) -> None:
    noisy = swap_translations(corpus, share=1.0, seed=3, source="de")  # now the doubled English captions are targets
    rows = corpus.captions_of("en")
    assert (noisy.caption_image[rows] != corpus.caption_image[rows]).all()


def test_refuses_what_cannot_be(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        swap_translations(corpus, share=1.1, seed=0, source="en")
    one_image = replace(corpus, caption_image=np.zeros_like(corpus.caption_image))
    with pytest.raises(UserError, match="belong to one image"):
        swap_translations(one_image, share=1.0, seed=0, source="en")
