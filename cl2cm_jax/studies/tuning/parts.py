"""The parts that each trial is measured on: folds of the training split, or the validation split, with seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.folds import deal
from cl2cm_jax.data.records import HEADLINE
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.cache import Corpora, concepts

FOLDS, VALIDATION = "folds", "validation"


class Part(NamedTuple):
    """One run of every trial."""

    name: str  # of its folder
    seed: int  # config.seed of the run
    corpora: Corpora  # for training and for selecting the step; `corpora.test` is the part to score on


def parts_of(
    config: ConfigDict, train: Corpus, validation: Corpus, *, score: str, folds: int, seeds: int
) -> list[Part]:
    """The runs of a trial.

    Args:
      config: `config.seed` is the first seed.
      train: the training split.
      validation: the validation split, which selects the step of every run.
      score: `FOLDS`: one run per fold of the training split, scored on it and trained on the others. `VALIDATION`:
        trained on the whole training split, scored on the validation split.
      folds: number of folds.
      seeds: number of runs of each part.

    Raises:
      UserError: a part to score on has no images, a language without captions, or no translated queries.
    """
    numbers = range(config.seed, config.seed + seeds)
    if score == VALIDATION:
        _check(validation, config, what="the validation split", fix=f"use --score={FOLDS}")
        return [Part(f"seed-{seed}", seed, Corpora(train, validation, validation)) for seed in numbers]
    if config.evaluation.query == "fused":
        raise UserError(
            "config.evaluation.query='fused': the training split has no translated queries; use "
            f"--score={VALIDATION}, or --config.evaluation.query=target"
        )
    fold = fold_of(concepts(config, ["train"])["train"], folds=folds)
    split = [Corpora(train.select_images(fold != k), validation, train.select_images(fold == k)) for k in range(folds)]
    for number, corpora in enumerate(split):
        _check(corpora.test, config, what=f"fold {number} of the training split", fix="use fewer --folds")
    return [
        Part(f"fold-{number}-seed-{seed}", seed, corpora) for seed in numbers for number, corpora in enumerate(split)
    ]


def fold_of(concept_of: Sequence[str], *, folds: int) -> np.ndarray:
    """The fold (n,) of each image by its concept, see `cl2cm_jax.data.folds.deal`.

    Raises:
      UserError: there are fewer concepts than folds.
    """
    if (count := len(set(concept_of))) < folds:
        raise UserError(f"--folds={folds}: the training split has {count} concepts; use fewer folds")
    return deal(concept_of, folds=folds)


def machine_share(part: Part, config: ConfigDict) -> float:
    """Share of machine translations among the target captions that a part is scored by."""
    corpus = part.corpora.test
    rows = np.concatenate([corpus.captions_of(language) for language in config.data.targets])
    return float(np.mean(corpus.caption_origin[rows] == "machine"))


def _check(corpus: Corpus, config: ConfigDict, *, what: str, fix: str) -> None:
    """Checks that a part can be scored, and only by captions that training may see."""
    scored = corpus.groups[corpus.caption_image] == HEADLINE
    for language in (config.data.source, *config.data.targets):
        if not scored[corpus.captions_of(language)].any():
            raise UserError(f"{what} has no caption in {language!r} to score a trial by; {fix}")
    origin = config.data.train_origin
    if corpus.name == "train" and origin != "any":
        for language in config.data.targets:
            assert (corpus.caption_origin[corpus.captions_of(language)] == origin).all(), (language, origin)
