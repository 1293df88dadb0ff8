"""The score of a trial: retrieval in the target languages, minus a penalty for losses in the source language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALLOWED = 1.0  # SumR that the source language may lose against the baseline without a penalty


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
