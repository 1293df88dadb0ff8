"""Results of finished ablation runs: rows with paired differences, and the files that hold them."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.evaluation.report import Protocol, to_json
from cl2cm_jax.evaluation.retrieval import metrics
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.table import (
    AblationRow,
    LanguageResult,
    ablation_json,
    ablation_table,
    comparison,
    language_table,
    verdict,
)
from cl2cm_jax.studies.ablation.variants import BASELINE, CEILING, DEFAULT, PROBE
from cl2cm_jax.studies.bootstrap import RunRanks, headroom_share, paired_difference


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
        table = ablation_table(every, noise=noise, protocol=protocol.line, ceiling=ceiling, folds=ablation.folds)
        sentences = [verdict(row) for row in every if row.difference is not None]
        sentences += [f"{name}: left out: {reason}." for name, reason in absent.items()]
        if PROBE in rows and DEFAULT in rows:
            sentences.append(comparison(rows[DEFAULT], rows[PROBE]))
        by_language = language_table(every, noise=noise)
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
        share=headroom_share(own, baseline, runs[ceiling], languages=d.targets) if has_share else None,
    )
