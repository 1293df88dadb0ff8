"""k folds over concepts: every image of a small set is tested once, and near-duplicates are never in two folds.

All images of a concept (`Caption.concept`) are in one fold. Run k is tested on fold k, selects its parameters on fold
k + 1 and trains on all others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cl2cm_jax.data.captions import HEADLINE
from cl2cm_jax.data.corpus import Corpus, Ragged
from cl2cm_jax.errors import UserError

FOLD_SALT = "cl2cm_jax/folds/1"
MIN_FOLDS = 3  # one to test, one to select, one to train
MACHINE = "machine"


def deal(concepts: Sequence[str], *, folds: int) -> np.ndarray:
    """The fold (n,) of each of n images, by their concepts.

    Concepts are assigned from the largest to the smallest, those of one size in the order of a fixed hash, each to the
    fold with the fewest images, so that folds are of about one size and independent of a run's seed.
    """
    sizes = Counter(concepts)
    digest = {concept: hashlib.sha256(f"{FOLD_SALT}/{concept}".encode()).digest() for concept in sizes}
    pictures, fold_of = np.zeros(folds, np.int64), {}
    for concept in sorted(sizes, key=lambda concept: (-sizes[concept], digest[concept])):
        fold_of[concept] = int(pictures.argmin())
        pictures[fold_of[concept]] += sizes[concept]
    return np.array([fold_of[concept] for concept in concepts])


class Folds:
    """The splits of each fold, made on demand.

    The headline images of all three splits are pooled and assigned to folds. Images of other groups are left out,
    except those of the training split, which every fold trains on unless their concept is validated or tested on there.
    Validation and test keep human captions only, where the set's own test split has them.

    Args:
      splits: training, validation and test split of a set.
      concepts: of the images of each split.
      folds: their number.
      source: the source language; its captions of any origin stay.
      languages: of training; evaluation may have translated queries as further ones.

    Raises:
      UserError: fewer than three folds or more than concepts, or an image would be tested on machine translations.
    """

    def __init__(
        self,
        splits: Sequence[Corpus],
        concepts: Sequence[Sequence[str]],
        *,
        folds: int,
        source: str,
        languages: tuple[str, ...],
    ):
        train, _, test = splits
        self._languages = languages
        kept = [corpus.groups == HEADLINE for corpus in splits]
        pool = joined([corpus.select_images(mask) for corpus, mask in zip(splits, kept, strict=True)], name="pool")
        self._concepts = np.concatenate([np.asarray(names)[mask] for names, mask in zip(concepts, kept, strict=True)])
        self._extra, self._extra_concepts = train.select_images(~kept[0]), np.asarray(concepts[0])[~kept[0]]
        count = len(set(self._concepts.tolist()))
        if not MIN_FOLDS <= folds <= count:
            raise UserError(
                f"--folds={folds} must be 0 (the set's own split) or between {MIN_FOLDS} and {count}, the concepts"
            )
        self._pool, self._tested = pool, _without_machine(pool, test, source=source, folds=folds)
        self._fold = deal(self._concepts.tolist(), folds=folds)
        self.sizes = np.bincount(self._fold, minlength=folds)

    def of(self, fold: int) -> tuple[Corpus, Corpus, Corpus]:
        """Training, validation and test split of a fold."""
        is_test, is_validation = self._fold == fold, self._fold == (fold + 1) % len(self.sizes)
        held_out = set(self._concepts[is_test | is_validation].tolist())
        extra = self._extra.select_images(np.array([name not in held_out for name in self._extra_concepts], bool))
        trained = joined([self._pool.select_images(~(is_test | is_validation)), extra], name="train")
        trained = trained.select_captions(trained.caption_language < len(self._languages))  # no translated queries
        return (
            replace(trained, languages=self._languages),
            replace(self._tested.select_images(is_validation), name="validation"),
            replace(self._tested.select_images(is_test), name="test"),
        )


def _without_machine(pool: Corpus, test: Corpus, *, source: str, folds: int) -> Corpus:
    """The pool for evaluation: without machine translations into languages that have human captions in `test`."""
    is_machine, dropped = pool.caption_origin == MACHINE, np.zeros(len(pool.caption_text), bool)
    for index, language in enumerate(pool.languages):
        by_people = (test.caption_language == index) & (test.caption_origin != MACHINE)
        if language == source or not by_people.any():
            continue
        here = pool.caption_language == index
        dropped |= here & is_machine
        captioned, tested = (set(pool.caption_image[rows].tolist()) for rows in (here, here & ~is_machine))
        if captioned != tested:
            raise UserError(
                f"--folds={folds} tests on every image, and {len(captioned - tested)} of {len(captioned)} have only "
                f"machine translations in {language!r}; give them human captions too, or leave --folds out"
            )
    return pool.select_captions(~dropped) if dropped.any() else pool


def joined(corpora: Sequence[Corpus], *, name: str) -> Corpus:
    """Several corpora as one, in memory; the languages of each are a prefix of the longest list."""
    starts = np.cumsum([0, *(len(corpus.image_ids) for corpus in corpora)])
    frames = max(corpus.vision.shape[1] for corpus in corpora)

    def padded(array: np.ndarray) -> np.ndarray:
        """(n, F, ...) padded to the largest F."""
        return np.pad(array, [(0, 0), (0, frames - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    states = [corpus.states for corpus in corpora if corpus.states is not None]
    return Corpus(
        name=name,
        languages=max((corpus.languages for corpus in corpora), key=len),
        image_ids=np.concatenate([corpus.image_ids for corpus in corpora]),
        groups=np.concatenate([corpus.groups for corpus in corpora]),
        paths=[path for corpus in corpora for path in corpus.paths],
        vision=np.concatenate([padded(corpus.vision) for corpus in corpora]),
        vision_mask=np.concatenate([padded(corpus.vision_mask) for corpus in corpora]),
        caption_text=[text for corpus in corpora for text in corpus.caption_text],
        caption_image=np.concatenate(
            [corpus.caption_image + start for corpus, start in zip(corpora, starts, strict=False)]
        ).astype(np.int32),
        caption_language=np.concatenate([corpus.caption_language for corpus in corpora]),
        caption_origin=np.concatenate([corpus.caption_origin for corpus in corpora]),
        sentences=np.concatenate([corpus.sentences for corpus in corpora]),
        words=Ragged.joined([corpus.words for corpus in corpora]),
        states=Ragged.joined(states) if states else None,
        content="-".join(corpus.content for corpus in corpora).strip("-"),
    )
