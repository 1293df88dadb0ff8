"""What a trial is measured on: folds of the training split, or the validation split, each with its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.captions import HEADLINE
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.folds import deal
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.cache import Corpora, concepts

FOLDS, VALIDATION = "folds", "validation"


class Part(NamedTuple):
    """One run of every trial.

    Attributes:
      name: of its folder.
      seed: config.seed of the run.
      corpora: what it trains on, what chooses its step, and in the place of the test split what it is scored on.
    """

    name: str
    seed: int
    corpora: Corpora


def parts_of(
    config: ConfigDict, train: Corpus, validation: Corpus, *, score: str, folds: int, seeds: int
) -> list[Part]:
    """The runs of a trial.

    Args:
      config: whose seed is the first.
      train: the training split, and
      validation: the validation split; the test split is not asked for.
      score: `FOLDS`: a run for each fold of the training split, which it is scored on, its step chosen by the
        validation split as in every other run. `VALIDATION`: trained on the whole training split, and scored on the
        validation split.
      folds: K, of `FOLDS`.
      seeds: runs of each.

    Raises:
      UserError: a part to score on lacks pictures, a language or translations.
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
    split = [
        Corpora(train.select_images(fold != held), validation, train.select_images(fold == held))
        for held in range(folds)
    ]
    for number, corpora in enumerate(split):
        _check(corpora.test, config, what=f"fold {number} of the training split", fix="use fewer --folds")
    return [
        Part(f"fold-{number}-seed-{seed}", seed, corpora) for seed in numbers for number, corpora in enumerate(split)
    ]


def fold_of(of_pictures: Sequence[str], *, folds: int) -> np.ndarray:
    """The fold (n,) of each picture by its concept, see `cl2cm_jax.data.folds.deal`.

    Raises:
      UserError: there are fewer concepts than folds.
    """
    count = len(set(of_pictures))
    if count < folds:
        raise UserError(f"--folds={folds}: the training split has {count} concepts; use fewer folds")
    return deal(of_pictures, folds=folds)


def machine_share(part: Part, config: ConfigDict) -> float:
    """The share of the target captions of a part, those that it is scored by, that a machine wrote."""
    corpus = part.corpora.test
    rows = np.concatenate([corpus.captions_of(language) for language in config.data.targets])
    return float(np.mean(corpus.caption_origin[rows] == "machine"))


def _check(corpus: Corpus, config: ConfigDict, *, what: str, fix: str) -> None:
    """Says before anything is trained that a part can be scored, by captions that the training may see."""
    shown = corpus.groups[corpus.caption_image] == HEADLINE
    for language in (config.data.source, *config.data.targets):
        if not shown[corpus.captions_of(language)].any():
            raise UserError(f"{what} has no caption in {language!r} to score a trial by; {fix}")
    wanted = config.data.train_origin  # targets of the training split by another hand are not for tuning
    if corpus.name == "train" and wanted != "any":
        for language in config.data.targets:
            assert (corpus.caption_origin[corpus.captions_of(language)] == wanted).all(), (language, wanted)
