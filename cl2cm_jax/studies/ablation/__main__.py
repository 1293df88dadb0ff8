"""What each part of the method is worth, measured: one row a variant, several seeds, with and without noise.

cl2cm ablate --config=configs/emoji.py --workdir=runs/ablation --seeds=5 --noise=0,0.4 [--rows=...]
cl2cm ablate --config=configs/emoji.py --workdir=runs/ablation --seeds=1 --folds=7

The rows share every field of the config but those named in `ROWS`. Parameters are selected on validation; the test
split is read once a run. With folds every picture is tested once, which a small set needs for short intervals. A killed
ablation goes on where it was; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.report import Protocol, to_json
from cl2cm_jax.evaluation.retrieval import metrics
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.command_line import Arguments, resume_command, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.studies.ablation.row_names import named_rows
from cl2cm_jax.studies.ablation.runs import Ablation
from cl2cm_jax.studies.ablation.table import (
    AblationRow,
    ablation_json,
    ablation_table,
    comparison,
    language_table,
    verdicts,
)
from cl2cm_jax.studies.ablation.variants import BASELINE, CEILING, DEFAULT, PROBE, ROWS, variant
from cl2cm_jax.studies.bootstrap import Difference, RunHits, headroom_share, paired_difference

__all__ = [
    "BASELINE",
    "CEILING",
    "DEFAULT",
    "PROBE",
    "ROWS",
    "main",
    "parse",
    "protocol_of",
    "train_missing",
    "variant",
]


def parse(
    arguments: Sequence[str], *, command: str = "ablate", about: str | None = __doc__
) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes in every row.

    Args:
      arguments: as typed.
      command: whose command line it is, and
      about: its description for --help.
    """
    rest, overrides = split_flags(list(arguments))
    parser = Arguments(
        prog=f"cl2cm {command}",
        description=about,
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=5, help="config.seed 0 .. SEEDS-1 (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="start elsewhere than at 0")
    parser.add_argument("--noise", default="0,0.4", help="shares of wrong translations (default: %(default)s)")
    parser.add_argument("--rows", default="", help="names of rows, separated by ';'; all without it")
    parser.add_argument(
        "--folds", type=int, default=0, help="test every picture once, in FOLDS folds over concepts (0: the test split)"
    )
    options = parser.parse_args(rest)
    if options.seeds < 1:
        raise UserError(f"--seeds={options.seeds} must be 1 or more")
    if options.folds < 0:
        raise UserError(f"--folds={options.folds} must be 0 (the set's own split) or 3 or more")
    options.folds = 0 if options.folds == 1 else options.folds
    try:
        options.noise = [float(share) for share in options.noise.split(",")]
    except ValueError as error:
        raise UserError(f"--noise={options.noise!r} must be shares such as 0,0.4") from error
    options.rows = named_rows(options.rows, list(ROWS), flag="rows") or list(ROWS)
    if BASELINE not in options.rows:
        options.rows.insert(0, BASELINE)
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, then prints and writes the tables."""
    start = time.perf_counter()
    ablation = train_missing(arguments, command="ablate", parse=parse)
    if ablation is None:
        return
    report(ablation)
    print(f"seconds: {time.perf_counter() - start:.0f}; tables: {ablation.workdir}/ablation.md, ablation.json")


def train_missing(
    arguments: Sequence[str] | None,
    *,
    command: str,
    parse: Callable[[Sequence[str]], tuple[argparse.Namespace, dict[str, str]]],
) -> Ablation | None:
    """Trains what a command over the ablation's runs asks for; None if a signal asked to stop, which is said.

    Args:
      arguments: as typed; None: those of the process.
      command: its name.
      parse: its command line.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr, force=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = read(options.config, overrides)
    start_jax(Path(config.data.dir))
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    for noise in options.noise:  # a share that is none is said before anything is read
        variant(config, BASELINE, noise=noise, seed=options.first_seed)
    ablation = Ablation(
        config, options.workdir, noises=options.noise, seeds=seeds, names=options.rows, folds=options.folds
    )
    if not ablation.train_all():
        print(f"stopped and saved; resume with: {resume_command(command, arguments)}")
        return None
    return ablation


def report(ablation: Ablation) -> None:
    """Prints one table for each level of noise and writes ablation.md and ablation.json."""
    markdown, content, source = [], [], ablation.config.data.source
    for noise in ablation.noises:
        rows, protocol, ceiling = _rows(ablation, noise)
        absent = ablation.absent[noise]
        shared = {"source": source, "noise": noise, "ceiling": ceiling}
        table = ablation_table(rows, **shared, protocol=protocol.line, folds=ablation.folds)
        sentences = verdicts(rows, source=source) + [f"{name}: left out: {why}." for name, why in absent.items()]
        by_name = {row.name: row for row in rows}
        if PROBE in by_name and DEFAULT in by_name:
            sentences.append(comparison(by_name[DEFAULT], by_name[PROBE], source=source))
        by_language = language_table(rows, noise=noise, seeds=len(ablation.seeds))
        print(table.text(), *sentences, "", by_language.text(), "", sep="\n")
        listed = "\n".join(f"- {sentence}" for sentence in sentences)
        markdown.append(f"{table.markdown()}\n\n{listed}\n\n{by_language.markdown()}")
        content.append(ablation_json(rows, **shared, protocol=protocol.as_dict(), absent=absent))
    write_text(ablation.workdir / "ablation.md", "\n\n".join(markdown) + "\n")
    write_text(ablation.workdir / "ablation.json", to_json(content))


def _rows(ablation: Ablation, noise: float) -> tuple[list[AblationRow], Protocol, str]:
    """The rows at a level of noise, the protocol of their numbers, and the ceiling's name, "" where there is none."""
    names = ablation.rows(noise)
    hits = {name: ablation.found(name, noise=noise) for name in names}
    ceiling = CEILING if CEILING in names else ""
    rows = [
        _row(
            name,
            hits[name],
            hits[BASELINE],
            ablation.config,
            ceiling=hits.get(ceiling),
            validation=ablation.validation(name, noise=noise),
        )
        for name in names
    ]
    return rows, protocol_of(ablation.config, hits[BASELINE][0], folds=ablation.folds), ceiling


def protocol_of(config: ConfigDict, run: RunHits, *, folds: int = 0) -> Protocol:
    """How the runs of an ablation are evaluated, read off one of them."""
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


def _row(
    name: str,
    runs: list[RunHits],
    baseline: list[RunHits],
    config: ConfigDict,
    *,
    ceiling: list[RunHits] | None,
    validation: tuple[float, ...],
) -> AblationRow:
    d = config.data

    def sum_recalls(language: str) -> tuple[float, ...]:
        return tuple(metrics(run.languages[language])["SumR"] for run in runs)

    def difference(*languages: str) -> Difference | None:
        return None if name == BASELINE else paired_difference(runs, baseline, languages=list(languages))

    share = None
    if ceiling is not None and name not in (BASELINE, CEILING):
        share = headroom_share(runs, baseline, ceiling, languages=d.targets)
    there = [language for language in (d.source, *d.targets, *d.reported) if language in runs[0].languages]
    return AblationRow(
        name=name,
        seeds=tuple(run.seed for run in runs),
        source_sum_recall=sum_recalls(d.source),
        target_sum_recall={target: sum_recalls(target) for target in d.targets},
        validation=validation,
        difference=difference(*d.targets),
        source_difference=difference(d.source),
        by_language={language: (sum_recalls(language), difference(language)) for language in there},
        share=share,
    )


if __name__ == "__main__":
    exit_cleanly(main)
