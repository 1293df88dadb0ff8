"""Tables and chart of the finished word-alignment runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.word_alignment import plans
from cl2cm_jax.studies.word_alignment.plan_chart import ShownPair, draw_plans
from cl2cm_jax.studies.word_alignment.runs import BASELINE, BEFORE, PLANS_FILE, Experiment, read_runs
from cl2cm_jax.studies.word_alignment.tables import QUALITY, difference_table, quality_table, retrieval_table


def report(experiment: Experiment, *, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Prints the tables and writes word_level.md."""
    source, languages = experiment.config.data.source, list(experiment.pairs)
    rows = {name: read_runs(experiment, name, seeds) for name in names}
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
        caption: np.load(experiment.folder(name, 0) / PLANS_FILE, allow_pickle=False)
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
