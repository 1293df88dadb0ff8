"""The score of a trial: retrieval in the target languages, less what the source language has lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALLOWED = 1.0  # SumR that the source language may lie below the baseline's for nothing


class Measured(NamedTuple):
    """SumR of one run on its part, in the source language and in each target."""

    source: float
    targets: dict[str, float]

    @property
    def mean(self) -> float:
        """Of the targets."""
        return float(np.mean(list(self.targets.values())))


class Score(NamedTuple):
    """Means over the runs of a trial: the score, SumR of the targets' mean and of the source."""

    score: float
    targets: float
    source: float


def score_of(runs: Sequence[Measured], baseline: Sequence[Measured]) -> Score:
    """The score of a trial whose first runs are done.

    score = targets - max(0, source of the baseline - 1 - source), all as means over the same parts.

    Args:
      runs: one or more.
      baseline: the baseline's runs on these parts, in the same order, and perhaps on more.
    """
    targets, source = (float(np.mean(values)) for values in ([r.mean for r in runs], [r.source for r in runs]))
    reference = float(np.mean([run.source for run in baseline[: len(runs)]]))
    return Score(targets - max(0.0, reference - ALLOWED - source), targets, source)
