"""Evaluators: what is measured on a split, chosen by name with `evaluation.evaluators`.

An evaluator is a module with one function `evaluate(split, ranks, config)`: of the embedded split and of the exact
ranks of each language it returns numbers by language and metric, `{"de": {"SumR": 312.5}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ml_collections import ConfigDict

from cl2cm_jax.config.plugins import load_plugin
from cl2cm_jax.evaluation.evaluate import Embedded
from cl2cm_jax.evaluation.report import PerLanguage
from cl2cm_jax.evaluation.retrieval import Ranks

RETRIEVAL = "retrieval"  # always among them: selects the parameters and is the headline of the results


class Evaluator(Protocol):
    """The function `evaluate` of an evaluator's module."""

    def __call__(self, split: Embedded, ranks: Mapping[str, Ranks], config: ConfigDict) -> PerLanguage: ...


def load_evaluators(config: ConfigDict) -> dict[str, Evaluator]:
    """The configured evaluators by name.

    Raises:
      UserError: one is not a module, or lacks `evaluate`.
    """
    names, field = config.evaluation.evaluators, "config.evaluation.evaluators"
    return {name: load_plugin(__name__, name, "evaluate", field=field) for name in names}


def run_evaluators(
    evaluators: Mapping[str, Evaluator], split: Embedded, ranks: Mapping[str, Ranks], config: ConfigDict
) -> tuple[PerLanguage, dict[str, PerLanguage]]:
    """The metrics of `retrieval`, and those of the other evaluators by their name."""
    numbers = {name: evaluate(split, ranks, config) for name, evaluate in evaluators.items()}
    return numbers.pop(RETRIEVAL), numbers
