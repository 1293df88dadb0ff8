"""The tables of word_level.md: retrieval of sentences, and what the words' plans are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cl2cm_jax.evaluation.retrieval import RECALL_AT, metrics
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.studies.ablation.table import format_difference
from cl2cm_jax.studies.bootstrap import RunHits, mean_sum_recall, paired_difference, spread
from cl2cm_jax.studies.word_alignment.plans import Quality

_WAYS = {"vision_to_text": "{source}-{language}", "text_to_vision": "{language}-{source}"}


class RowRuns(NamedTuple):
    """All runs of one row.

    Attributes:
      hits: ranks on test, by seed.
      validation: mean SumR that chose the step, by run.
      step: chosen, by run.
      quality: by language, by run.
    """

    hits: Sequence[RunHits]
    validation: Sequence[float]
    step: Sequence[int]
    quality: Mapping[str, Sequence[Quality]]


def retrieval_table(rows: Mapping[str, RowRuns], language: str, *, source: str, sentences: int) -> Table:
    """Recalls of one language in both directions, means over seeds."""
    ways = [form.format(source=source, language=language) for form in _WAYS.values()]
    lines = []
    for name, row in rows.items():
        of_runs = [metrics(run.languages[language]) for run in row.hits]
        recalls = [_mean([m[f"{way}/R@{k}"] for m in of_runs]) for way in _WAYS for k in RECALL_AT]
        total = spread([m["SumR"] for m in of_runs])
        lines.append((name, *recalls, f"{total.mean:.1f}", "-" if total.std is None else f"{total.std:.1f}"))
    columns = ("row", *(f"{way} R@{k}" for way in ways for k in RECALL_AT), "SumR", "std")
    return Table(f"Retrieval of {sentences:,} test sentences, {source} and {language}", columns, tuple(lines))


def difference_table(rows: Mapping[str, RowRuns], languages: Sequence[str], *, baseline: str) -> Table:
    """SumR against the baseline row, paired by seed and test sentence, for each language and their mean."""
    groups = [*([language] for language in languages), *([list(languages)] if len(languages) > 1 else [])]
    lines = []
    for name, row in rows.items():
        cells = []
        for group in groups:
            if name == baseline:
                cells.append(_mean([mean_sum_recall(run, languages=group) for run in row.hits]))
                continue
            cells.append(format_difference(paired_difference(row.hits, rows[baseline].hits, languages=group)))
        lines.append((name, *cells, _mean(row.validation), "/".join(map(str, row.step))))
    names = [" ".join(group) if len(group) == 1 else f"mean of {len(group)}" for group in groups]
    notes = (
        f"SumR of {baseline!r}; the other rows: difference to it, paired by seed and test sentence, with a 95 % "
        "interval by bootstrap over seeds and sentences; * marks one that excludes 0",
        "validation: mean SumR on the validation split, which chooses the step; step: chosen, by seed",
    )
    return Table("SumR on test (at most 600)", ("row", *names, "validation", "step"), tuple(lines), notes)


def quality_table(rows: Mapping[str, RowRuns], by_place: Mapping[str, Quality], language: str, *, links: int) -> Table:
    """How the plans of one language's test pairs are, means over seeds; the first line knows nothing."""
    lines: list[tuple[str, ...]] = [("same place in the sentence", *map(_percent, by_place[language][:4]), "-")]
    for name, row in rows.items():
        lines.append((name, *(_percent(float(np.mean(values))) for values in zip(*row.quality[language], strict=True))))
    return Table(f"Plans of words, {language}, {links:,} counted links", ("row", *QUALITY), tuple(lines))


QUALITY = {
    "linked": "of the words that counting links (IBM model 1 on the training text, both directions agree, no word that "
    "a sentence repeats), those that send more to their partner than to any other word; percent, as all below",
    "mass": "of the mass of these words, what arrives at their partner",
    "same": "of numbers, marks and long words that stand once in both sentences as they are, those that send more to "
    "their equal than to any other word",
    "mutual": "of all source words, those that receive most from the word that they send most to",
    "alike": "mean cosine of two words of a source sentence, times 100; at 100 all words are one, and a plan means "
    "nothing",
}


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}"
