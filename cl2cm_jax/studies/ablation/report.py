"""Report of the ablation: its rows from finished runs, their tables, sentences and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.evaluation.report import Protocol, few_images, to_json
from cl2cm_jax.evaluation.retrieval import metrics
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies import bootstrap
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.variants import BASELINE, CEILING, DEFAULT, PROBE
from cl2cm_jax.studies.bootstrap import MARK, MIN_HEADROOM, Estimate, RunRanks, format_difference, paired_difference

UNDEFINED = "not defined"
HEADROOM = "headroom won back [95 %]"


class LanguageResult(NamedTuple):
    """SumR of one language, one value per seed, and its difference to the baseline (None for the baseline itself)."""

    sum_recall: tuple[float, ...]
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One row at one level of translation noise; values per seed are in the order of `seeds`."""

    name: str
    seeds: tuple[int, ...]
    source: str
    targets: tuple[str, ...]
    languages: Mapping[str, LanguageResult]  # source, targets and reported ones, if the row has queries in them
    validation: tuple[float, ...] = ()  # mean target SumR on the validation split at the selected step
    difference: Estimate | None = None  # of mean target SumR to the baseline; None for the baseline itself
    share: Estimate | None = None  # of the headroom between baseline and ceiling; None if undefined

    def mean(self, language: str) -> float:
        """SumR of one language, averaged over seeds."""
        return float(np.mean(self.languages[language].sum_recall))

    @property
    def mean_target(self) -> bootstrap.Spread:
        """Mean target SumR: mean and standard deviation over seeds."""
        values = [self.languages[target].sum_recall for target in self.targets]
        return bootstrap.spread([float(np.mean(of_seed)) for of_seed in zip(*values, strict=True)])

    @property
    def language_gap(self) -> float:
        """Source SumR minus mean target SumR, averaged over seeds."""
        return self.mean(self.source) - self.mean_target.mean


def report(ablation: Ablation) -> None:
    """Prints one table per level of noise and writes ablation.md and ablation.json."""
    markdown, content = [], []
    for noise in ablation.noises:
        names, absent = ablation.rows(noise), ablation.absent[noise]
        runs = {name: ablation.test_ranks(name, noise=noise) for name in names}
        ceiling = CEILING if CEILING in names else ""
        rows = {
            name: ablation_row(
                name, runs, config=ablation.config, ceiling=ceiling, validation=ablation.validation(name, noise=noise)
            )
            for name in names
        }
        protocol = protocol_of(ablation.config, runs[BASELINE][0], folds=ablation.folds)
        every = list(rows.values())
        table = ablation_table(every, noise=noise, protocol=protocol.notes, ceiling=ceiling, folds=ablation.folds)
        sentences = [verdict(row) for row in every if row.difference is not None]
        sentences += [f"{name}: left out: {reason}." for name, reason in absent.items()]
        if PROBE in rows and DEFAULT in rows:
            sentences.append(comparison(rows[DEFAULT], rows[PROBE]))
        by_language = language_table(every, noise=noise, images=protocol.images)
        print(table.text(), *sentences, "", by_language.text(), "", sep="\n")
        listed = "\n".join(f"- {sentence}" for sentence in sentences)
        markdown.append(f"{table.markdown()}\n\n{listed}\n\n{by_language.markdown()}")
        content.append(ablation_json(every, noise=noise, protocol=protocol.as_dict(), ceiling=ceiling, absent=absent))
    write_text(ablation.workdir / "ablation.md", "\n\n".join(markdown) + "\n")
    write_text(ablation.workdir / "ablation.json", to_json(content))


def protocol_of(config: ConfigDict, run: RunRanks, *, folds: int = 0) -> Protocol:
    """How the runs of an ablation are evaluated; sizes are those of one of them."""
    headline = (config.data.source, *config.data.targets)
    return Protocol(
        split="test",
        images=int(max(ranks.text_image.max() for ranks in run.languages.values())) + 1,
        captions={language: len(run.languages[language].text_to_vision) for language in headline},
        captions_per_image=config.evaluation.captions_per_image,
        query=config.evaluation.query,
        fusion_weight=config.evaluation.fusion_weight if config.evaluation.query == "fused" else None,
        folds=folds,
    )


def ablation_row(
    name: str, runs: dict[str, list[RunRanks]], *, config: ConfigDict, ceiling: str, validation: tuple[float, ...]
) -> AblationRow:
    """One row from the finished runs of all rows, one run per seed; `ceiling` is "" if there is none."""
    d, own, baseline = config.data, runs[name], runs[BASELINE]
    is_baseline = name == BASELINE

    def result(language: str) -> LanguageResult:
        values = tuple(metrics(run.languages[language])["SumR"] for run in own)
        return LanguageResult(values, None if is_baseline else paired_difference(own, baseline, languages=[language]))

    has_share = ceiling and name not in (BASELINE, CEILING)
    return AblationRow(
        name=name,
        seeds=tuple(run.seed for run in own),
        source=d.source,
        targets=tuple(d.targets),
        languages={
            language: result(language)
            for language in (d.source, *d.targets, *d.reported)
            if language in own[0].languages
        },
        validation=validation,
        difference=None if is_baseline else paired_difference(own, baseline, languages=d.targets),
        share=bootstrap.headroom_share(own, baseline, runs[ceiling], languages=d.targets) if has_share else None,
    )


def ablation_table(
    rows: Sequence[AblationRow], *, noise: float, protocol: Sequence[str], ceiling: str = "", folds: int = 0
) -> Table:
    """SumR per target language, their mean, its spread over seeds and the difference to the baseline.

    `ceiling` is the row that the headroom is measured to ("": no such column), `folds` is 0 for the test split.
    """
    source, targets = rows[0].source, rows[0].targets
    columns = (
        "row", *targets, "mean target", "std", "difference [95 %]", *([HEADROOM] if ceiling else []), source,
        f"{source} difference [95 %]", "gap", "validation",
    )  # fmt: skip
    body = tuple(
        (
            row.name,
            *(f"{row.mean(target):.1f}" for target in targets),
            f"{row.mean_target.mean:.1f}",
            "-" if row.mean_target.std is None else f"{row.mean_target.std:.1f}",
            format_difference(row.difference),
            *([format_share(row, ceiling=ceiling)] if ceiling else []),
            f"{row.mean(source):.1f}",
            format_difference(row.languages[source].difference),
            f"{row.language_gap:.1f}",
            f"{np.mean(row.validation):.1f}" if row.validation else "-",
        )
        for row in rows
    )
    notes = [
        f"SumR (at most 600), mean of {_seeds(rows)}; std: over seeds, of the mean target SumR; "
        f"gap: {source} - mean target; validation: mean target SumR on the validation split at the selected step",
        f"difference: to the baseline, paired by seed and test image; {MARK} marks an interval that excludes 0 "
        f"(bootstrap over seeds and images{' of all folds' * (folds > 0)})",
    ]
    if ceiling:
        notes.append(
            f"headroom won back: (row - baseline) / (ceiling - baseline) of mean target SumR, seeds and images drawn "
            f"jointly for the three; {UNDEFINED} where the interval of ceiling - baseline contains 0 or it is less "
            f"than {MIN_HEADROOM:g} SumR"
        )
    return Table(f"Ablation, {noise:.0%} of the training translations wrong", columns, body, (*notes, *protocol))


def language_table(rows: Sequence[AblationRow], *, noise: float, images: int) -> Table:
    """SumR of each language, also of those in `data.reported`, with its difference to the baseline.

    With few `images` a line says that the numbers say little.
    """

    def cell(row: AblationRow, language: str) -> str:
        if language not in row.languages:
            return "-"
        mean, difference = f"{row.mean(language):.1f}", row.languages[language].difference
        return mean if difference is None else f"{mean}: {format_difference(difference)}"

    languages = list(dict.fromkeys(name for row in rows for name in row.languages))
    return Table(
        f"By language, {noise:.0%} of the training translations wrong",
        ("row", *languages),
        tuple((row.name, *(cell(row, name) for name in languages)) for row in rows),
        (f"SumR, mean of {_seeds(rows)}: difference to the baseline [95 %]", *few_images(images)),
    )


def _seeds(rows: Sequence[AblationRow]) -> str:
    count = len(rows[0].seeds)
    return f"{count} seed{'s' * (count != 1)}"


def comparison(row: AblationRow, other: AblationRow) -> str:
    """A sentence: whether one row is above another in every language, by means over seeds."""
    gains = {name: row.mean(name) - other.mean(name) for name in (row.source, *row.targets)}
    smallest = min(gains, key=lambda name: gains[name])
    above = "above" if gains[smallest] > 0 else "not above"
    return f"{row.name}: {above} {other.name!r} in every language (smallest: {smallest}, {gains[smallest]:+.1f} SumR)."


def verdict(row: AblationRow) -> str:
    """A sentence: whether a row helps, hurts, or neither is measurable."""
    assert row.difference is not None
    mean, low, high = row.difference
    interval = f"{mean:+.1f} mean target SumR, 95 % interval [{low:+.1f}, {high:+.1f}]"
    if row.difference.excludes_zero:
        sentence = f"{row.name}: {'helps' if low > 0 else 'hurts'} ({interval})."
    else:
        sentence = f"{row.name}: no measurable effect ({interval} contains 0)."
    source = row.languages[row.source].difference
    if source is not None and source.high < 0:
        sentence += f" {row.source} gets worse ({source.mean:+.1f} SumR)."
    return sentence


def format_share(row: AblationRow, *, ceiling: str) -> str:
    """`31 % [+12, +50]`, or a dash for the baseline and the ceiling themselves."""
    if row.difference is None or row.name == ceiling:
        return "-"
    if row.share is None:
        return UNDEFINED
    mean, low, high = (100 * value for value in row.share)
    return f"{mean:.0f} % [{low:+.0f}, {high:+.0f}]"


def ablation_json(
    rows: Sequence[AblationRow],
    *,
    noise: float,
    protocol: Mapping[str, Any],
    ceiling: str = "",
    absent: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The same numbers for ablation.json, with every seed's value; `absent` has the reason for each missing row."""
    return {
        "noise": noise,
        "source": rows[0].source,
        "protocol": dict(protocol),
        "ceiling": ceiling or None,
        "absent": dict(absent or {}),
        "rows": [_row_json(row) for row in rows],
    }


def _row_json(row: AblationRow) -> dict[str, Any]:
    values = {language: list(result.sum_recall) for language, result in row.languages.items()}
    differences = {language: _difference_json(result.difference) for language, result in row.languages.items()}
    return {
        "name": row.name,
        "seeds": list(row.seeds),
        "source_sum_recall": values[row.source],
        "target_sum_recall": {target: values[target] for target in row.targets},
        "mean_target": row.mean_target._asdict(),
        "language_gap": row.language_gap,
        "validation": list(row.validation),
        "difference": _difference_json(row.difference),
        "source_difference": differences[row.source],
        "headroom_share": row.share and row.share._asdict(),
        "by_language": {
            language: {"sum_recall": values[language], "difference": differences[language]} for language in values
        },
    }


def _difference_json(difference: Estimate | None) -> dict[str, Any] | None:
    return difference and {**difference._asdict(), "excludes_zero": difference.excludes_zero}
