"""The parts that each trial is measured on (folds or the validation split, times seeds), and its score."""

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
ALLOWED = 1.0  # SumR that the source language may lose against the baseline without a penalty


class Part(NamedTuple):
    """One run of every trial."""

    name: str  # name of its folder
    seed: int  # config.seed of the run
    corpora: Corpora  # for training and for selecting the step; `corpora.test` is the part to score on


def parts_of(
    config: ConfigDict, train: Corpus, validation: Corpus, *, score: str, folds: int, seeds: int
) -> list[Part]:
    """The runs of a trial, with `seeds` seeds from `config.seed` on; the validation split selects the step of each.

    With `score=FOLDS` there is one run per fold of the training split, scored on it and trained on the others. With
    `VALIDATION` they train on the whole training split and are scored on the validation split.

    Raises:
      UserError: a part to score on has no images, a language without captions, or no translated queries.
    """
    if score == VALIDATION:
        _check(validation, config, what="the validation split", fix=f"use --score={FOLDS}")
        named = {"": Corpora(train, validation, validation)}
    elif config.evaluation.query == "fused":
        raise UserError(
            "config.evaluation.query='fused': the training split has no translated queries; use "
            f"--score={VALIDATION}, or --config.evaluation.query=target"
        )
    else:
        fold, named = fold_of(concepts(config, ["train"])["train"], folds=folds), {}
        for k in range(folds):
            held_out = train.select_images(fold == k)
            _check(held_out, config, what=f"fold {k} of the training split", fix="use fewer --folds")
            named[f"fold-{k}-"] = Corpora(train.select_images(fold != k), validation, held_out)
    numbers = range(config.seed, config.seed + seeds)
    return [Part(f"{name}seed-{seed}", seed, corpora) for seed in numbers for name, corpora in named.items()]


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


def scored_images(parts: Sequence[Part]) -> int:
    """Number of the headline images that a trial is scored on, those of several seeds once."""
    return sum(int((part.corpora.test.groups == HEADLINE).sum()) for part in parts if part.seed == parts[0].seed)


class Measured(NamedTuple):
    """SumR of one run on its part, in the source language and in each target language."""

    source: float
    targets: dict[str, float]

    @property
    def mean(self) -> float:
        """Over the target languages."""
        return float(np.mean(list(self.targets.values())))


class Score(NamedTuple):
    """Means over the runs of a trial: the score, SumR over the targets, SumR in the source language."""

    score: float
    targets: float
    source: float


def score_of(runs: Sequence[Measured], baseline: Sequence[Measured]) -> Score:
    """Scores a trial by its finished runs: targets - max(0, source of the baseline - `ALLOWED` - source).

    Args:
      runs: one or more.
      baseline: runs on the same parts in the same order; may have more parts, which are not used.
    """
    targets, source = (float(np.mean(values)) for values in ([r.mean for r in runs], [r.source for r in runs]))
    reference = float(np.mean([run.source for run in baseline[: len(runs)]]))
    return Score(targets - max(0.0, reference - ALLOWED - source), targets, source)


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
