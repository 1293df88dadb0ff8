"""Report of the word alignment: word_level.md, with retrieval of sentences and quality of plans, and the chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cl2cm_jax.evaluation.evaluate import mean_sum_recall
from cl2cm_jax.evaluation.retrieval import RECALL_AT, load_ranks, metrics
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.models.pretrained import read_npz
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.bootstrap import RunRanks, format_difference, paired_difference, spread
from cl2cm_jax.studies.word_alignment import plans
from cl2cm_jax.studies.word_alignment.plan_chart import ShownPair, draw_plans
from cl2cm_jax.studies.word_alignment.plans import Quality
from cl2cm_jax.studies.word_alignment.runs import BASELINE, BEFORE, PLANS_FILE, RANKS_FILE, Experiment, read_results

_DIRECTIONS = {"vision_to_text": "{source}-{language}", "text_to_vision": "{language}-{source}"}
QUALITY = {
    "linked": "share of the IBM links (model 1 of the training text, both directions agree, without words that a "
    "sentence repeats) whose source word sends most of its mass to the linked word; percent, as all below",
    "mass": "share of the mass of these words that arrives at the linked word",
    "same": "share of numbers, marks and long words that occur once in both sentences, unchanged, that send most of "
    "their mass to their equal",
    "mutual": "share of source words that receive most from the word that they send most to",
    "alike": "mean cosine of two words of a source sentence, times 100; at 100 all words are equal and a plan is "
    "meaningless",
}


class RowRuns(NamedTuple):
    """All runs of one row, one per seed."""

    ranks: Sequence[RunRanks]  # on the test split
    validation: Sequence[float]  # mean SumR at the selected step
    step: Sequence[int]  # the selected one
    quality: Mapping[str, Sequence[Quality]]  # of the plans, by language


def report(experiment: Experiment, *, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Prints the tables and writes word_level.md."""
    source, languages = experiment.config.data.source, list(experiment.pairs)
    rows = {name: _read_runs(experiment, name, seeds) for name in names}
    sentences = len(experiment.corpora.test.captions_of(source))
    tables = [difference_table(rows, languages, baseline=BASELINE)]
    tables += [retrieval_table(rows, language, source=source, sentences=sentences) for language in languages]
    for language, pairs in experiment.pairs.items():
        diagonal = plans.plan_quality(plans.diagonal_plans(pairs), [], pairs)
        tables.append(quality_table(rows, diagonal, language, links=sum(map(len, pairs.linked))))
    notes = [
        f"Recalls in percent, mean over seeds ({len(seeds)}); std: over seeds. Every test sentence is a query against "
        "all of the other language; pessimistic ties. The step is selected on validation.",
        *(f"{name}: {text}." for name, text in QUALITY.items()),
    ]
    print("\n\n".join(table.text() for table in tables), *notes, sep="\n")
    listed = "\n".join(f"- {note}" for note in notes)
    write_text(experiment.workdir / "word_level.md", "\n\n".join([*(t.markdown() for t in tables), listed]) + "\n")


def draw(experiment: Experiment, *, rows: Sequence[str]) -> None:
    """Draws the plans of the first seed before training and of these rows."""
    stored = {
        caption: read_npz(experiment.folder(name, 0) / PLANS_FILE)
        for caption, name in {"before": BEFORE, **{name: name for name in rows}}.items()
    }
    pairs = []
    for i, (language, row) in enumerate(experiment.shown):
        own = experiment.pairs[language]
        maps = {caption: arrays[str(i)] for caption, arrays in stored.items()}
        pairs.append(ShownPair(language, own.source[row], own.target[row], maps, own.linked[row]))
    notes = (
        "Rows are pieces of the source caption; the darker a cell, the more of its mass goes there. The first "
        f"{len(pairs)} test captions of {plans.MIN_WORDS} to {plans.MAX_WORDS} words.",
        "First map: words of the frozen backbone; the others: of trained teachers. Framed: links by IBM model 1, which "
        "counts words in the training text.",
    )
    path = experiment.workdir / "transport_plans.png"
    draw_plans(path, pairs, title="Where words go in a translation", notes=notes)


def _read_runs(experiment: Experiment, name: str, seeds: Sequence[int]) -> RowRuns:
    """The finished runs of a row; raises UserError if results are damaged."""
    folders = [experiment.folder(name, seed) for seed in seeds]
    results = [read_results(folder) for folder in folders]
    return RowRuns(
        ranks=[RunRanks(seed, load_ranks(folder / RANKS_FILE)) for seed, folder in zip(seeds, folders, strict=True)],
        validation=[result["validation"] for result in results],
        step=[result["step"] for result in results],
        quality={
            language: [Quality.from_json(result["quality"][language]) for result in results]
            for language in experiment.pairs
        },
    )


def retrieval_table(rows: Mapping[str, RowRuns], language: str, *, source: str, sentences: int) -> Table:
    """Recalls of one language in both directions, means over seeds."""
    names = [form.format(source=source, language=language) for form in _DIRECTIONS.values()]
    body = []
    for name, row in rows.items():
        of_runs = [metrics(run.languages[language]) for run in row.ranks]
        recalls = [_mean([m[f"{direction}/R@{k}"] for m in of_runs]) for direction in _DIRECTIONS for k in RECALL_AT]
        total = spread([m["SumR"] for m in of_runs])
        body.append((name, *recalls, f"{total.mean:.1f}", "-" if total.std is None else f"{total.std:.1f}"))
    columns = ("row", *(f"{name} R@{k}" for name in names for k in RECALL_AT), "SumR", "std")
    return Table(f"Retrieval of {sentences:,} test sentences, {source} and {language}", columns, tuple(body))


def difference_table(rows: Mapping[str, RowRuns], languages: Sequence[str], *, baseline: str) -> Table:
    """SumR against the baseline row, paired by seed and test sentence, for each language and their mean."""
    groups = {language: [language] for language in languages}
    if len(languages) > 1:
        groups[f"mean of {len(languages)}"] = list(languages)
    body = []
    for name, row in rows.items():
        if name == baseline:
            cells = [_mean([mean_sum_recall(run.languages, group) for run in row.ranks]) for group in groups.values()]
        else:
            pair = row.ranks, rows[baseline].ranks
            cells = [format_difference(paired_difference(*pair, languages=group)) for group in groups.values()]
        body.append((name, *cells, _mean(row.validation), "/".join(map(str, row.step))))
    notes = (
        f"SumR of {baseline!r}; the other rows: difference to it, paired by seed and test sentence, with a 95 % "
        "interval by bootstrap over seeds and sentences; * marks one that excludes 0",
        "validation: mean SumR on the validation split, which selects the step; step: selected, by seed",
    )
    return Table("SumR on test (at most 600)", ("row", *groups, "validation", "step"), tuple(body), notes)


def quality_table(rows: Mapping[str, RowRuns], diagonal: Quality, language: str, *, links: int) -> Table:
    """Quality of the plans of one language's test pairs, means over seeds; the first line is that of diagonal plans."""
    body: list[tuple[str, ...]] = [("same place in the sentence", *map(_percent, diagonal[:4]), "-")]
    for name, row in rows.items():
        body.append((name, *(_percent(float(np.mean(values))) for values in zip(*row.quality[language], strict=True))))
    return Table(f"Plans of words, {language}, {links:,} counted links", ("row", *QUALITY), tuple(body))


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f}"
