"""Concepts are dealt into folds: no variant straddles two, every picture is tested once, people's captions alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.folds import Folds, deal, joined
from cl2cm_jax.errors import UserError

FOLDS = 3


def parts_of(corpus: Corpus) -> list[Corpus]:
    """Three splits with images of their own: 10 headline or flag pictures each."""
    names = ("train", "validation", "test")
    return [replace(corpus, name=n, image_ids=np.array([f"{n}{i}" for i in range(10)])) for n in names]


def concepts_of() -> list[list[str]]:
    """Pictures of one number are variants of one concept, over all splits; flags (8, 9) are of their own."""
    return [[f"concept {i // 2}" for i in range(8)] + ["flag", "concept 0"] for _ in range(3)]


def make(corpus: Corpus, **changes: object) -> Folds:
    arguments = {"folds": FOLDS, "source": "en", "languages": ("en", "de", "fr"), **changes}
    return Folds(parts_of(corpus), concepts_of(), **arguments)  # type: ignore[arg-type]


def test_concepts_are_dealt_evenly_and_whole() -> None:
    concepts = [f"c{i % 40}" for i in range(100)] + ["large"] * 30
    fold = deal(concepts, folds=4)
    assert np.bincount(fold).tolist() == pytest.approx([32.5] * 4, abs=2)
    assert all(len(set(fold[np.array(concepts) == concept])) == 1 for concept in set(concepts))
    again = deal(concepts[::-1], folds=4)[::-1]
    assert again.tolist() == fold.tolist()  # the order of the pictures plays no part


def test_variants_stay_on_one_side_and_every_picture_is_tested_once(corpus: Corpus) -> None:
    folds, tested = make(corpus), []
    by_image = {
        image: concept
        for split, concepts in zip(parts_of(corpus), concepts_of(), strict=True)
        for image, concept in zip(split.image_ids.tolist(), concepts, strict=True)
    }
    for fold in range(FOLDS):
        splits = folds.of(fold)
        seen = [{by_image[image] for image in split.image_ids.tolist()} for split in splits]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        assert [split.name for split in splits] == ["train", "validation", "test"]
        assert set(splits[2].groups) == set(splits[1].groups) == {"headline"}
        assert splits[1].image_ids.tolist() == folds.of((fold + 1) % FOLDS)[2].image_ids.tolist()
        tested += splits[2].image_ids.tolist()
    headline = [f"{name}{i}" for name in ("train", "validation", "test") for i in range(8)]
    assert sorted(tested) == sorted(headline)


def test_pictures_reported_apart_are_trained_on_unless_their_concept_is_held_out(corpus: Corpus) -> None:
    folds = make(corpus)
    for fold in range(FOLDS):
        train, validation, test = folds.of(fold)
        held_out = {by for split in (validation, test) for by in split.image_ids.tolist()}
        assert "train8" in train.image_ids  # a flag
        assert ("train9" in train.image_ids) is not ("train0" in held_out)  # of the concept of picture 0
        assert not {"validation8", "test8"} & set(train.image_ids.tolist())


def test_captions_stay_with_their_pictures(corpus: Corpus) -> None:
    train, _, test = make(corpus).of(0)
    for split in (train, test):
        for row in range(0, len(split.caption_text), 3):
            image = int(str(split.image_ids[split.caption_image[row]])[-1])
            original = int(split.caption_text[row].split()[1])
            assert corpus.caption_image[original] == image
            assert corpus.sentences[original].tolist() == split.sentences[row].tolist()
            words = split.words.padded(np.array([row]), max_words=4)[0]
            assert words.tolist() == corpus.words.padded(np.array([original]), max_words=4)[0].tolist()


def test_evaluation_reads_captions_by_people_alone(corpus: Corpus) -> None:
    splits = parts_of(corpus)
    both = joined([splits[0], splits[0]], name="train")  # every caption twice, the second time by a machine
    origin = np.repeat(["human", "machine"], len(corpus.caption_text))
    splits[0] = replace(
        both.select_images(np.arange(20) < 10),
        caption_text=both.caption_text,
        caption_image=np.concatenate([corpus.caption_image] * 2),
        caption_language=both.caption_language,
        caption_origin=origin,
        sentences=both.sentences,
        words=both.words,
    )
    folds = Folds(splits, concepts_of(), folds=FOLDS, source="en", languages=corpus.languages)
    train, validation, test = folds.of(0)
    assert "machine" in train.caption_origin
    for split in (validation, test):
        origins = split.caption_origin[split.caption_language != 0]
        assert set(origins) == {"human"}


def test_what_cannot_be_tested_is_one_line(corpus: Corpus) -> None:
    for folds in (2, 5):
        with pytest.raises(UserError, match=f"--folds={folds} must be 0 .* or between 3 and 4"):
            make(corpus, folds=folds)
    splits = parts_of(corpus)
    splits[0] = replace(splits[0], caption_origin=np.array(["machine"] * len(corpus.caption_text)))
    with pytest.raises(UserError, match="8 of 24 have only machine translations in 'de'"):
        Folds(splits, concepts_of(), folds=FOLDS, source="en", languages=corpus.languages)
