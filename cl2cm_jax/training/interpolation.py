"""Interpolation of the trained weights with those before training, chosen on validation.

Source: WiSE-FT (arXiv 2109.01903): the weights in between often keep what the model could do, and what it learned.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import jax

from cl2cm_jax.models.functional import Params
from cl2cm_jax.training.experiment import Run
from cl2cm_jax.training.validation import selection_score, validate


class Interpolated(NamedTuple):
    """Weights between the start and the end of a training.

    Attributes:
      student: parameters.
      share: of the trained weights; 0: the start, 1: the trained ones.
    """

    student: Params
    share: float


def interpolated(run: Run, start: Params, trained: Params, *, sum_recall: Mapping[str, float]) -> Interpolated:
    """The best of `train.interpolations` + 1 evenly spaced shares on validation; of equals that of the largest share.

    Args:
      run: with the validation split.
      start: the student's parameters before training.
      trained: those after it.
      sum_recall: SumR on validation at the start by language, see `selection_score`.
    """
    count, scores = run.config.train.interpolations, {}
    for part in range(count + 1):
        share = part / count
        found = validate(run, _mix(start, trained, share), reported=True)
        scores[share] = selection_score(run, found, sum_recall, what=f"share {share:g} of the trained weights")
    best = max(scores, key=lambda share: (scores[share], share))
    listed = ", ".join(f"{share:g}: {score:.1f}" for share, score in scores.items())
    logging.info("interpolation with the start, score on validation by share of the trained weights: %s", listed)
    logging.info("interpolation with the start: share %g of the trained weights is kept", best)
    return Interpolated(_mix(start, trained, best), best)


@jax.jit
def _mix(start: Params, trained: Params, share: float) -> Params:
    return jax.tree.map(lambda a, b: (1 - share) * a + share * b, start, trained)
