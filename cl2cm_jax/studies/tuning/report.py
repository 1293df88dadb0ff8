"""The result of a study as files: a table (tune.md), data (tune.json) and the best config (best.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.report import few_images, to_json
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.tuning.scoring import ALLOWED, Measured, Score, score_of
from cl2cm_jax.studies.tuning.space import Dimension
from cl2cm_jax.studies.tuning.study import CUT, DONE, FAILED, TrialResult

FILES = ("tune.md", "tune.json", "best.py")
FORMULA = f"score = targets - max(0, source of the baseline - {ALLOWED:g} - source), in SumR"


class StudyInfo(NamedTuple):
    """What the files state about the study."""

    command: str
    date: str  # of the report
    config: str  # the config file, as typed
    changes: Mapping[str, str]  # config fields that the command line overrides
    data: str  # name of the data set
    scored: str  # description of the parts that a trial is scored on
    images: int  # of all parts that a trial is scored on, each once
    parts: Sequence[str]  # names of a trial's runs
    source: str  # source language
    targets: Sequence[str]  # target languages


class TuningResult(NamedTuple):
    """The trials of a study, the baseline's runs on the same parts, and the importance of each field."""

    space: Sequence[Dimension]
    baseline: Sequence[Measured]
    trials: Sequence[TrialResult]
    importances: Mapping[str, float]
    seconds: float

    @property
    def ranked(self) -> list[tuple[TrialResult, Score]]:
        """The complete trials and their scores, best first; of equal scores the earliest first."""
        done = [(trial, trial.score) for trial in self.trials if trial.state == DONE and trial.score]
        return sorted(done, key=lambda pair: -pair[1].score)

    @property
    def best(self) -> tuple[TrialResult, Score] | None:
        """The best complete trial and its score."""
        return next(iter(self.ranked), None)

    @property
    def reference(self) -> Score:
        """The baseline's score."""
        return score_of(self.baseline, self.baseline)

    @property
    def beats_baseline(self) -> bool:
        """Whether the best trial scores above the baseline."""
        return self.best is not None and self.best[1].score > self.reference.score


def write(workdir: Path, info: StudyInfo, result: TuningResult) -> None:
    """Writes the files atomically; best.py if a trial is complete."""
    notes = "\n".join(f"- {sentence}" for sentence in sentences(result))
    write_text(workdir / FILES[0], f"{table(info, result).markdown()}\n\n{notes}\n\nCommand: `{info.command}`\n")
    write_text(workdir / FILES[1], to_json(as_data(info, result)))
    if result.best is not None:
        write_text(workdir / FILES[2], best_config(workdir, info, result, *result.best))


def table(info: StudyInfo, result: TuningResult) -> Table:
    """All trials: the complete ones, best first, then the others by number."""
    fields = [dimension.field for dimension in result.space]
    reference, ranked = result.reference, [trial for trial, _ in result.ranked]
    first = ("baseline", f"{reference.score:.1f}", f"{reference.targets:.1f}", f"{reference.source:.1f}")
    rows: list[tuple[str, ...]] = [(*first, *("" for _ in fields), "", "reference")]
    for trial in [*ranked, *(trial for trial in result.trials if trial not in ranked)]:
        name = "0: the config" if trial.number == 0 else str(trial.number)
        scores = [f"{value:.1f}" for value in trial.score] if trial.score else ["", "", ""]
        rows.append((name, *scores, *(trial.values[field] for field in fields), f"{trial.seconds:.0f}", trial.state))
    count = f"{len(result.trials)} trial{'s' * (len(result.trials) != 1)}"
    return Table(
        f"Tuning on {info.data}: {count} in {result.seconds / 60:.1f} minutes, {info.scored}",
        ("trial", "score", "targets", info.source, *fields, "seconds", "state"),
        tuple(rows),
        notes=(
            f"{FORMULA}; targets: mean of {', '.join(info.targets)}; source: {info.source}. "
            "The test split was not read.",
            *few_images(info.images),
        ),
        words=("state",),
    )


def sentences(result: TuningResult) -> list[str]:
    """The best trial compared with the baseline and the unchanged config, importances, and failed trials."""
    found = []
    if result.best is not None:
        (best, score), reference = result.best, result.reference.score
        gains = ", ".join(f"{one.mean - base.mean:+.1f}" for one, base in zip(best.runs, result.baseline, strict=True))
        found.append(
            f"best: trial {best.number}, score {score.score:.1f}; baseline {reference:.1f} "
            f"({score.score - reference:+.1f}; targets of each run {gains})"
        )
        own = next((trial.score for trial in result.trials if trial.number == 0), None)
        if best.number and own:
            found.append(f"the config as it is: {own.score:.1f}")
        if not result.beats_baseline:
            found.append("no trial was better than the baseline: keep it, or tune longer or with another --space")
    if result.importances:
        shares = ", ".join(f"{field} {share:.0%}" for field, share in result.importances.items())
        found.append(f"importance of the fields (PED-ANOVA): {shares}")
    return found + [f"trial {trial.number} failed: {trial.reason}" for trial in result.trials if trial.state == FAILED]


def as_data(info: StudyInfo, result: TuningResult) -> dict[str, Any]:
    """The content of tune.json."""

    def scored(score: Score | None, measured: Sequence[Measured]) -> dict[str, Any]:
        runs = [{"part": part} | run._asdict() for part, run in zip(info.parts, measured, strict=False)]
        return (score._asdict() if score else {"score": None}) | {"runs": runs}

    return {
        **info._asdict(),
        "formula": FORMULA,
        "space": [dimension.line for dimension in result.space],
        "seconds": round(result.seconds, 1),
        "baseline": scored(result.reference, result.baseline),
        "best": result.best[0].number if result.best else None,
        "importances": dict(result.importances),
        "trials": [trial._asdict() | scored(trial.score, trial.runs) for trial in result.trials],
    }


def best_config(workdir: Path, info: StudyInfo, result: TuningResult, best: TrialResult, score: Score) -> str:
    """A config file: the tuned config with the values of the best trial."""
    file, _, argument = info.config.partition(":")
    base = os.path.relpath(Path(file).resolve(), workdir.resolve())
    states = [trial.state for trial in result.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in (DONE, CUT, FAILED))
    reference = result.reference
    header = [
        f"Trial {best.number} of {len(result.trials)} ({counts}), the best of `cl2cm tune`.",
        "",
        f"Tuned by:  {info.command}",
        f"Date:      {info.date}",
        f"Score:     {score.score:.2f} ({info.source} {score.source:.2f}); "
        f"baseline {reference.score:.2f} ({info.source} {reference.source:.2f})",
        f"Measured:  {info.scored}; {FORMULA}",
    ]
    return _CONFIG.format(
        header="\n".join(header).replace("\\", "\\\\").replace('"""', '\\"\\"\\"'),
        base=_literal(base),
        path=f'f"{{BASE}}:{argument}"' if argument else "str(BASE)",
        given=_literal(info.changes),
        tuned=_literal(best.values),
    )


_CONFIG = '''"""{header}
"""

from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import read, read_argument

BASE = (Path(__file__).parent / {base}).resolve()
GIVEN = {given}  # on the command line
TUNED = {tuned}


def get_config(argument: str = "") -> ConfigDict:
    """Returns the configuration; takes no argument."""
    read_argument(argument)
    return read({path}, GIVEN | TUNED)
'''


def _literal(value: str | Mapping[str, str]) -> str:
    """A string, or a dict of strings, as Python source."""
    return json.dumps(value, ensure_ascii=False, indent=4)
