"""Metrics of the validation split, and what of them selects parameters.

A run that starts at a model (`starts_aligned`, `--init`) is measured before its first step too. A step at which a
language has lost more than `train.max_forgetting` of its SumR at the start is not selected: the start itself can be.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from cl2cm_jax.evaluation import evaluate
from cl2cm_jax.evaluation.evaluators import run_evaluators
from cl2cm_jax.evaluation.report import Group
from cl2cm_jax.models.functional import Params
from cl2cm_jax.training.experiment import SELECTION, TARGETS_METRIC, Run

_BELOW_ALL = 600.0  # the largest SumR; taken off the score of a step that lost too much, which then is below all others


class Validation(NamedTuple):
    """What was measured of a student on the validation split.

    Attributes:
      metrics: by name, as they are logged; `SELECTION` is the score that selects parameters.
      retrieval: by language, and how it was measured.
    """

    metrics: dict[str, float]
    retrieval: Group

    @property
    def sum_recall(self) -> dict[str, float]:
        """SumR by language."""
        return {language: metrics["SumR"] for language, metrics in self.retrieval.per_language.items()}


def validate(run: Run, student: Params, *, reported: bool = False) -> Validation:
    """Measures a student on the headline pictures of the validation split.

    Args:
      run: with the split.
      student: its parameters.
      reported: also in the languages of `data.reported`, which select nothing.

    Raises:
      ValueError: its vectors are not finite.
    """
    c, d = run.config, run.config.data
    languages = (d.source, *d.targets, *(d.reported if reported else ()))
    embedded = evaluate.embed_corpus(run.embedder, student, run.validation, languages=languages, config=c)
    ranks = evaluate.rank_all(embedded, c)
    retrieval, others = run_evaluators(run.evaluators, embedded, ranks, c)
    by_language = {f"{language}/SumR": metrics["SumR"] for language, metrics in retrieval.items()}
    targets = evaluate.mean_sum_recall(ranks, d.targets)
    for name, numbers in others.items():
        for language, metrics in numbers.items():
            by_language |= {f"{name}/{language}/{metric}": float(value) for metric, value in metrics.items()}
    # the source counts as much as all targets together, so that a gain in these at its expense is not the best
    scores = [targets] if d.source not in ranks else [targets, by_language[f"{d.source}/SumR"]]
    metrics = {SELECTION: sum(scores) / len(scores), TARGETS_METRIC: targets, **by_language}
    return Validation(metrics, Group(retrieval, evaluate.protocol(embedded, ranks, languages, c)))


def lost(found: Mapping[str, float], start: Mapping[str, float], *, limit: float) -> dict[str, tuple[float, float]]:
    """The languages that have lost more than a share of their SumR: (at the start, now)."""
    pairs = {language: (start[language], found[language]) for language in start if language in found}
    return {language: (then, now) for language, (then, now) in pairs.items() if now < (1 - limit) * then}


def selection_score(run: Run, found: Validation, start: Mapping[str, float], *, what: str) -> float:
    """The score that selects parameters; lower than any other where a language has lost too much, with a warning.

    Args:
      run: with the limit.
      found: of these parameters.
      start: SumR before training by language; empty for a run that does not start at a model.
      what: names the parameters, for the warning.
    """
    limit, score = run.config.train.max_forgetting, found.metrics[SELECTION]
    fallen = lost(found.sum_recall, start, limit=limit)
    if not fallen:
        return score
    listed = ", ".join(f"{language} (SumR {then:.1f} to {now:.1f})" for language, (then, now) in fallen.items())
    logging.warning(
        "%s: lost since the start: %s, more than config.train.max_forgetting=%g of it; not selected",
        what,
        listed,
        limit,
    )
    return score - _BELOW_ALL
