"""What a study leaves in its workdir: the table of what was tried, as text and as data, and the best as a config."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.evaluation.table import Table
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.tuning.score import ALLOWED, Measured, score_of
from cl2cm_jax.studies.tuning.space import Dimension, lines
from cl2cm_jax.studies.tuning.study import CUT, DONE, FAILED, Row

FILES = ("tune.md", "tune.json", "best.py")
FORMULA = f"score = targets - max(0, source of the baseline - {ALLOWED:g} - source), in SumR"


class About(NamedTuple):
    """What the files say of the study.

    Attributes:
      command: the line that made it; `date` is that of now.
      config: the config file as typed, and
      changes: the fields that the command line changed in it.
      data: name of the set, `scored` what a trial is scored on, `parts` the names of its runs.
      source, targets: the languages.
    """

    command: str
    date: str
    config: str
    changes: Mapping[str, str]
    data: str
    scored: str
    parts: Sequence[str]
    source: str
    targets: Sequence[str]


class Found(NamedTuple):
    """The trials of a study, the baseline's runs on the same parts, and which fields made the difference."""

    space: Sequence[Dimension]
    baseline: Sequence[Measured]
    rows: Sequence[Row]
    importances: Mapping[str, float]
    seconds: float

    @property
    def best(self) -> Row | None:
        """The whole trial of the highest score, the earliest of equals."""
        done = [row for row in self.rows if row.state == DONE and row.score]
        return max(done, key=lambda row: row.score.score, default=None)  # type: ignore[union-attr]

    @property
    def baseline_score(self) -> float:
        """The baseline's own."""
        return score_of(self.baseline, self.baseline).score

    @property
    def beats_baseline(self) -> bool:
        """Whether the best trial scores above the baseline."""
        best = self.best
        return best is not None and best.score is not None and best.score.score > self.baseline_score


def write(workdir: Path, about: About, found: Found) -> None:
    """Writes the files, each whole or not at all; best.py when there is a best."""
    told = "\n".join(f"- {sentence}" for sentence in sentences(about, found))
    write_text(workdir / FILES[0], f"{table(about, found).markdown()}\n\n{told}\n\nCommand: `{about.command}`\n")
    write_text(workdir / FILES[1], to_json(as_data(about, found)))
    if found.best is not None:
        write_text(workdir / FILES[2], best_config(workdir, about, found, found.best))


def table(about: About, found: Found) -> Table:
    """Every trial, the best first; those that were cut off or failed behind them in the order of their numbers."""
    fields = [dimension.field for dimension in found.space]
    done = [row for row in found.rows if row.state == DONE and row.score]
    others = [row for row in found.rows if row not in done]
    order = [*sorted(done, key=lambda row: -row.score.score if row.score else 0.0), *others]
    reference = score_of(found.baseline, found.baseline)
    first = ("baseline", f"{reference.score:.1f}", f"{reference.targets:.1f}", f"{reference.source:.1f}")
    rows: list[tuple[str, ...]] = [(*first, *("" for _ in fields), "", "reference")]
    for row in order:
        numbers = [f"{value:.1f}" for value in row.score] if row.score else ["", "", ""]
        name = f"{row.number}: the config" if row.number == 0 else str(row.number)
        values = [row.values[field] for field in fields]
        rows.append((name, *numbers, *values, f"{row.seconds:.0f}", row.state))
    count = f"{len(found.rows)} trial{'s' * (len(found.rows) != 1)}"
    title = f"Tuning on {about.data}: {count} in {found.seconds / 60:.1f} minutes, {about.scored}"
    columns = ("trial", "score", "targets", about.source, *fields, "seconds", "state")
    notes = (
        f"{FORMULA}; targets: mean of {', '.join(about.targets)}; source: {about.source}. The test split was not read.",
    )
    return Table(title, columns, tuple(rows), notes, words=("state",))


def sentences(about: About, found: Found) -> list[str]:
    """The best beside the baseline and the config as it is, part by part, and what mattered."""
    said = []
    best = found.best
    if best is not None and best.score is not None:
        apart = found.baseline_score
        gains = ", ".join(f"{one.mean - base.mean:+.1f}" for one, base in zip(best.runs, found.baseline, strict=True))
        said.append(
            f"best: trial {best.number}, score {best.score.score:.1f}; baseline {apart:.1f} "
            f"({best.score.score - apart:+.1f}; targets of each run {gains})"
        )
        own = next((row.score for row in found.rows if row.number == 0), None)
        if best.number and own:
            said.append(f"the config as it is: {own.score:.1f}")
        if not found.beats_baseline:
            said.append("no trial was better than the baseline: keep it, or tune longer or in another --space")
    if found.importances:
        shares = ", ".join(f"{field} {share:.0%}" for field, share in found.importances.items())
        said.append(f"which fields mattered (PED-ANOVA): {shares}")
    said += [f"trial {row.number} failed: {row.reason}" for row in found.rows if row.state == FAILED]
    return said


def as_data(about: About, found: Found) -> dict[str, Any]:
    """Everything, for other programs."""
    best = found.best

    def run(name: str, measured: Measured) -> dict[str, Any]:
        return {"part": name, "source": measured.source, "targets": measured.targets}

    def runs(measured: Sequence[Measured]) -> list[dict[str, Any]]:
        return [run(name, one) for name, one in zip(about.parts, measured, strict=False)]

    return {
        **about._asdict(),
        "formula": FORMULA,
        "space": lines(found.space),
        "seconds": round(found.seconds, 1),
        "baseline": score_of(found.baseline, found.baseline)._asdict() | {"runs": runs(found.baseline)},
        "best": None if best is None else best.number,
        "importances": dict(found.importances),
        "trials": [
            row._asdict() | {"score": None} | (row.score._asdict() if row.score else {}) | {"runs": runs(row.runs)}
            for row in found.rows
        ],
    }


def best_config(workdir: Path, about: About, found: Found, best: Row) -> str:
    """A config file: that of the command with the best trial's values."""
    file, _, argument = about.config.partition(":")
    base = os.path.relpath(Path(file).resolve(), workdir.resolve())
    assert best.score is not None
    counts = ", ".join(f"{sum(row.state == state for row in found.rows)} {state}" for state in (DONE, CUT, FAILED))
    apart = score_of(found.baseline, found.baseline)
    header = [
        f"Trial {best.number} of {len(found.rows)} ({counts}), the best of `cl2cm tune`.",
        "",
        f"Tuned by:  {about.command}",
        f"Date:      {about.date}",
        f"Score:     {best.score.score:.2f} ({about.source} {best.score.source:.2f}); "
        f"baseline {apart.score:.2f} ({about.source} {apart.source:.2f})",
        f"Measured:  {about.scored}; {FORMULA}",
    ]
    text = "\n".join(header).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return _CONFIG.format(
        header=text,
        base=_literal(base),
        path=f'f"{{BASE}}:{argument}"' if argument else "str(BASE)",
        given=_dict(about.changes),
        tuned=_dict(best.values),
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


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _dict(fields: Mapping[str, str]) -> str:
    if not fields:
        return "{}"
    return "{\n" + "".join(f"    {_literal(name)}: {_literal(text)},\n" for name, text in fields.items()) + "}"
