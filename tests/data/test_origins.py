"""Which captions are read: by who wrote them in training, by people in evaluation, and on a share of the pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cl2cm_jax.data import batches as pipeline
from cl2cm_jax.data.corpus import LEFT_OUT, Corpus, evaluated_on, trained_on
from cl2cm_jax.data.noise import swap_translations
from cl2cm_jax.errors import UserError

TARGETS = ("de", "fr")


@pytest.fixture
def mixed(corpus: Corpus) -> Corpus:
    """German by machine on images of even number, French by machine throughout, English by a machine in one place."""
    even = (corpus.caption_language == 1) & (corpus.caption_image % 2 == 0)
    machine = even | (corpus.caption_language == 2) | (np.arange(len(even)) == 0)
    return replace(corpus, caption_origin=np.where(machine, "machine", "human"))


def images(corpus: Corpus, language: str) -> list[int]:
    return corpus.caption_image[corpus.captions_of(language)].tolist()


@pytest.mark.parametrize(("origin", "expected"), [("machine", [0, 2, 4, 6, 8]), ("any", list(range(10)))])
def test_training_captions_by_origin(mixed: Corpus, origin: str, expected: list[int]) -> None:
    chosen = trained_on(mixed, origin=origin, targets=TARGETS, share=1.0)
    assert images(chosen, "de") == expected
    assert images(chosen, "fr") == images(mixed, "fr")
    assert images(chosen, "en") == images(mixed, "en"), "the source is left as it is"
    assert chosen.sentences is mixed.sentences and chosen.vision is mixed.vision and chosen.words is mixed.words


def test_a_language_without_captions_of_the_origin(mixed: Corpus) -> None:
    said = "train_origin='human': the train split has no such caption in 'fr', but machine; add human captions"
    with pytest.raises(UserError, match=said):
        trained_on(mixed, origin="human", targets=TARGETS, share=1.0)
    assert images(trained_on(mixed, origin="human", targets=("de",), share=1.0), "de") == [1, 3, 5, 7, 9]


def test_people_are_evaluated_where_there_are_any(mixed: Corpus) -> None:
    chosen = evaluated_on(mixed, targets=TARGETS)
    assert images(chosen, "de") == [1, 3, 5, 7, 9]
    assert images(chosen, "fr") == images(mixed, "fr"), "machine translations count where there are no others"
    assert images(chosen, "en") == images(mixed, "en")
    assert (chosen.first_captions_of("de")[::2] == -1).all()
    assert evaluated_on(chosen, targets=TARGETS) is chosen


@pytest.mark.parametrize("targets_per_image", [1, 2, -1])
def test_batches_never_bring_what_is_left_out(mixed: Corpus, targets_per_image: int) -> None:
    pytest.importorskip("tensorflow")
    chosen = trained_on(mixed, origin="machine", targets=TARGETS, share=1.0)
    batches = pipeline.batches(
        chosen,
        batch_size=4,
        seed=0,
        start_step=0,
        source="en",
        targets=TARGETS,
        targets_per_image=targets_per_image,
        with_words=True,
        max_words=4,
    )
    seen = set()
    for _, batch in zip(range(20), batches, strict=False):
        rows = batch["target_caption"][batch["target_is_valid"]]
        assert (chosen.caption_origin[rows] == "machine").all()
        np.testing.assert_array_equal(chosen.caption_language[rows], batch["target_language"][batch["target_is_valid"]])
        seen.update(rows.tolist())
    has_source = np.isin(chosen.caption_image, pipeline.trainable_images(chosen, source="en"))
    wanted = np.flatnonzero((chosen.caption_language > 0) & has_source)
    assert seen == set(wanted.tolist())


def test_left_out_captions_stay_left_out(mixed: Corpus) -> None:
    chosen = trained_on(mixed, origin="machine", targets=TARGETS, share=1.0)
    part = chosen.select_images(np.arange(10) < 5)
    assert images(part, "de") == [0, 2, 4] and (part.caption_language == LEFT_OUT).sum() == 2
    noisy = swap_translations(chosen, share=1.0, seed=0, source="en")
    left_out = chosen.caption_language == LEFT_OUT
    np.testing.assert_array_equal(noisy.caption_image[left_out], chosen.caption_image[left_out])


def test_a_share_of_the_pictures(corpus: Corpus) -> None:
    smaller, larger = (trained_on(corpus, origin="any", targets=TARGETS, share=share) for share in (0.3, 0.6))
    assert len(set(images(smaller, "de"))) == 3 and len(set(images(larger, "de"))) == 6
    assert set(images(smaller, "de")) < set(images(larger, "de"))
    order = np.random.default_rng(0).permutation(10)
    again = replace(corpus, image_ids=corpus.image_ids[order])
    named = {
        str(again.image_ids[row]) for row in images(trained_on(again, origin="any", targets=("de",), share=0.3), "de")
    }
    assert named == {str(corpus.image_ids[row]) for row in images(smaller, "de")}, "by the ids alone"
    assert len(trained_on(corpus, origin="any", targets=("de",), share=1e-6).captions_of("de")) == 1


def test_a_share_without_a_language(corpus: Corpus) -> None:
    smallest = trained_on(corpus, origin="any", targets=("de",), share=0.1)
    (row,) = images(smallest, "de")
    language = corpus.caption_language.copy()
    language[(corpus.caption_image == row) & (language == 2)] = 1
    with pytest.raises(UserError, match=r"config.data.train_share=0.1: .* has a caption in 'fr'; raise it"):
        trained_on(replace(corpus, caption_language=language), origin="any", targets=TARGETS, share=0.1)
