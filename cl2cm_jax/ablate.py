"""What each part of the method is worth, measured: one row a variant, several seeds, with and without noise.

python -m cl2cm_jax.ablate --config=configs/emoji.py --workdir=runs/ablation --seeds=5 --noise=0,0.4 [--rows=...]

The rows share every field of the config but those named in `ROWS`. Parameters are selected on validation; the test
split is read once a run. A killed ablation goes on where it was; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax import finish, train
from cl2cm_jax.atomic import write_text
from cl2cm_jax.command_line import Arguments, resume_command, split_flags
from cl2cm_jax.config import override_all, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.ablation_table import (
    AblationRow,
    ablation_json,
    ablation_table,
    comparison,
    language_table,
    verdicts,
)
from cl2cm_jax.evaluation.bootstrap import Difference, RunHits, paired_difference
from cl2cm_jax.evaluation.report import Protocol, to_json
from cl2cm_jax.evaluation.retrieval import load_ranks, metrics, save_ranks
from cl2cm_jax.evaluation.rows import named_rows, run_folder
from cl2cm_jax.features import Corpora, all_corpora, chosen
from cl2cm_jax.run import SELECTION, build, check_workdir, claim
from cl2cm_jax.runtime.metrics import read_rows
from cl2cm_jax.runtime.start import start_jax

PROBE = "probe: two linear maps, English only"
BASELINE = "+ V-T (baseline)"
DEFAULT = "default: the config as it is"  # configs/emoji.py: cross-fitted + confidence, posterior

# The transfer's weight and temperature, and the teacher's steps, are the config's.
_TRANSFER = {
    "transfer.relations": "cross",
    "confidence.kind": "none",
    "contrastive.labels": "uniform",
    "train.targets_per_image": "1",
    "teacher.head": "none",
    "teacher.update": "frozen",
    "teacher.pool": "backbone",
    "teacher.folds": "1",
    "weights.word": "0.0",
}
_PLAIN = _TRANSFER | {"weights.transfer": "0.0"}
_SENTENCE = _TRANSFER | {"teacher.head": "linear"}
_CROSS_FITTED = _SENTENCE | {"teacher.folds": "2"}
_MANY = {"train.targets_per_image": "2"}

# row: fields that differ from the config. Rows above the baseline have less than it, rows below have more.
ROWS: dict[str, dict[str, str]] = {
    PROBE: _PLAIN | {"weights.target": "0.0", "student.dropout": "0.0"},
    "source only": _PLAIN | {"weights.target": "0.0"},
    BASELINE: _PLAIN,
    "+ transfer, backbone's own vectors": _TRANSFER,
    "+ transfer, trained sentence teacher": _SENTENCE,
    "+ transfer, cross-fitted sentence teacher": _CROSS_FITTED,
    "+ word level (full CL2CM)": _CROSS_FITTED | {"teacher.pool": "both", "weights.word": "1.0"},
    "cross-fitted + intra relations": _CROSS_FITTED | {"transfer.relations": "cross,intra_target,intra_vision"},
    "cross-fitted + confidence, softmax": _CROSS_FITTED | {"confidence.kind": "softmax"},
    "cross-fitted + 1-to-K (K=2)": _CROSS_FITTED | _MANY,
    "cross-fitted + posterior + K=2, soft labels": _CROSS_FITTED
    | _MANY
    | {"confidence.kind": "posterior", "contrastive.labels": "soft"},
    DEFAULT: {},
}


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
        prog=f"python -m cl2cm_jax.{command}",
        description=about,
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=5, help="config.seed 0 .. SEEDS-1 (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="start elsewhere than at 0")
    parser.add_argument("--noise", default="0,0.4", help="shares of wrong translations (default: %(default)s)")
    parser.add_argument("--rows", default="", help="names of rows, separated by ';'; all without it")
    options = parser.parse_args(rest)
    if options.seeds < 1:
        raise UserError(f"--seeds={options.seeds} must be 1 or more")
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
    trained = train_missing(arguments, command="ablate", parse=parse)
    if trained is None:
        return
    report(trained.config, trained.workdir, **trained.runs)
    print(f"seconds: {time.perf_counter() - start:.0f}; tables: {trained.workdir}/ablation.md, ablation.json")


class Trained(NamedTuple):
    """Runs that are all in the workdir, and what `report` needs to find them: its noises, seeds and names."""

    config: ConfigDict
    workdir: Path
    runs: dict[str, list]


def train_missing(
    arguments: Sequence[str] | None,
    *,
    command: str,
    parse: Callable[[Sequence[str]], tuple[argparse.Namespace, dict[str, str]]],
) -> Trained | None:
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
    runs = {"noises": options.noise, "seeds": seeds, "names": options.rows}
    if not train_all(config, options.workdir, **runs):
        print(f"stopped and saved; resume with: {resume_command(command, arguments)}")
        return None
    return Trained(config, options.workdir, runs)


def train_all(config: ConfigDict, workdir: Path, *, noises: list[float], seeds: list[int], names: list[str]) -> bool:
    """Trains the runs that are not in the workdir yet; False if a signal asked to stop."""
    data = all_corpora(config)  # each row chooses of them
    if not len(data.test.captions_of(config.data.source)):
        raise UserError(
            f"config.data.source={config.data.source!r}: the test split has no caption in it, and the ablation shows "
            "what each row does to it; give the set such captions"
        )
    jobs = [(noise, seed, name) for seed in seeds for noise in noises for name in names]
    for number, (noise, seed, name) in enumerate(jobs, start=1):
        began = time.perf_counter()
        changed = variant(config, name, noise=noise, seed=seed)
        trained = run_once(changed, chosen(data, changed), _folder(workdir, noise, seed, name))
        if trained is None:
            return False
        if trained:
            done = f"{number}/{len(jobs)} noise {noise:g} seed {seed} {name}: {time.perf_counter() - began:.0f} s"
            print(done, file=sys.stderr, flush=True)
    return True


def found(workdir: Path, name: str, *, noise: float, seeds: list[int]) -> list[RunHits]:
    """What the finished runs of a row found on the test split, one a seed."""
    return [RunHits(seed, load_ranks(_folder(workdir, noise, seed, name) / finish.RANKS_FILE)) for seed in seeds]


def variant(config: ConfigDict, name: str, *, noise: float, seed: int) -> ConfigDict:
    """The config of one run."""
    changed = config.copy_and_resolve_references()
    changed.seed, changed.data.translation_noise = seed, noise
    return override_all(changed, ROWS[name])


def report(config: ConfigDict, workdir: Path, *, noises: list[float], seeds: list[int], names: list[str]) -> None:
    """Prints one table for each level of noise and writes ablation.md and ablation.json."""
    markdown, content = [], []
    for noise in noises:
        folders = {name: [_folder(workdir, noise, seed, name) for seed in seeds] for name in names}
        hits = {name: found(workdir, name, noise=noise, seeds=seeds) for name in names}
        rows = [_row(name, hits[name], hits[BASELINE], config, folders[name]) for name in names]
        protocol = protocol_of(config, hits[BASELINE][0])
        table = ablation_table(rows, source=config.data.source, noise=noise, protocol=protocol.line)
        sentences = verdicts(rows, source=config.data.source)
        by_name = {row.name: row for row in rows}
        if PROBE in by_name and DEFAULT in by_name:
            sentences.append(comparison(by_name[DEFAULT], by_name[PROBE], source=config.data.source))
        by_language = language_table(rows, noise=noise, seeds=len(seeds))
        print(table.text(), *sentences, "", by_language.text(), "", sep="\n")
        listed = "\n".join(f"- {sentence}" for sentence in sentences)
        markdown.append(f"{table.markdown()}\n\n{listed}\n\n{by_language.markdown()}")
        content.append(ablation_json(rows, source=config.data.source, noise=noise, protocol=protocol.as_dict()))
    write_text(workdir / "ablation.md", "\n\n".join(markdown) + "\n")
    write_text(workdir / "ablation.json", to_json(content))


def protocol_of(config: ConfigDict, run: RunHits) -> Protocol:
    """How the runs of an ablation are evaluated, read off one of them."""
    headline = (config.data.source, *config.data.targets)
    return Protocol(
        split="test",
        images=int(max(ranks.text_image.max() for ranks in run.languages.values())) + 1,
        captions={language: len(run.languages[language].text_to_vision) for language in headline},
        captions_per_image=config.evaluation.captions_per_image,
        query=config.evaluation.query,
        fusion_weight=config.evaluation.fusion_weight if config.evaluation.query == "fused" else None,
    )


def run_once(config: ConfigDict, data: Corpora, folder: Path) -> bool | None:
    """Trains one run unless it is there; False if it was, None if a signal asked to stop.

    What is kept: config, metrics and the ranks on `data.test`.
    """
    if (folder / finish.RANKS_FILE).exists():
        check_workdir(folder, config)  # finished, but with this configuration?
        return False
    with claim(folder, config), (folder / "log.txt").open("a", encoding="utf-8") as log:
        built = build(config, data)
        if train.train(built, folder, stream=log) is None:
            return None
        selected = finish.select(built, folder)
        save_ranks(folder / finish.RANKS_FILE, selected.ranks["test"])
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _folder(workdir: Path, noise: float, seed: int, name: str) -> Path:
    return run_folder(workdir / f"noise-{noise:g}", name, seed)


def _validation(folder: Path, config: ConfigDict) -> float:
    """The validation SumR of the parameters that were selected, from the run's metrics."""
    rows = read_rows(folder / "metrics.jsonl")
    values = [row[f"validation/{SELECTION}"] for row in rows if f"validation/{SELECTION}" in row]
    return max(values) if config.train.select == "best" else values[-1]


def _row(
    name: str, runs: list[RunHits], baseline: list[RunHits], config: ConfigDict, folders: list[Path]
) -> AblationRow:
    d = config.data

    def sum_recalls(language: str) -> tuple[float, ...]:
        return tuple(metrics(run.languages[language])["SumR"] for run in runs)

    def difference(*languages: str) -> Difference | None:
        return None if name == BASELINE else paired_difference(runs, baseline, languages=list(languages))

    return AblationRow(
        name=name,
        seeds=tuple(run.seed for run in runs),
        source_sum_recall=sum_recalls(d.source),
        target_sum_recall={target: sum_recalls(target) for target in d.targets},
        validation=tuple(_validation(folder, config) for folder in folders),
        difference=difference(*d.targets),
        source_difference=difference(d.source),
        by_language={
            language: (sum_recalls(language), difference(language)) for language in (d.source, *d.targets, *d.reported)
        },
    )


if __name__ == "__main__":
    exit_cleanly(main)
