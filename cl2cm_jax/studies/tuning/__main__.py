"""Finds hyperparameters by cross-validation within the training split. The test split is never read.

cl2cm tune --config=configs/emoji.py --workdir=runs/tune --minutes=30 [--folds=3] [--space=...] [...]

Each trial trains the config with other values of some fields: one run for each fold of the training split, on the
other folds, its step chosen by the validation split as in every run (train.select), and scored on the fold that was
held out. Or, with --score=validation, runs on the whole training split, scored on the validation split, which has then
also chosen their step. By default the captions that score are those that the training may see, machine translations
where it reads translations.

score = targets - max(0, source of the baseline - 1 - source): the mean SumR of the target languages, less what the
source language has lost against the baseline (no teacher) beyond 1 SumR. All on the same parts.

The baseline is measured first. Trial 0 is the config as it is, with what --config.FIELD=... changes in it; the others
are what Optuna's TPE sampler proposes. A trial whose first part is below the median of the others is cut off, one that
diverges has failed. The same command goes on with a stopped or killed study; --minutes counts all starts. Writes
tune.md, tune.json and best.py, a config.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.config import flatten, override_all, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.retrieval import load_ranks, metrics
from cl2cm_jax.features import cache
from cl2cm_jax.runtime.command_line import Arguments, positive, resume_command, split_flags
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.studies.ablation.runs import run_once
from cl2cm_jax.studies.tuning import report
from cl2cm_jax.studies.tuning.parts import FOLDS, VALIDATION, Part, machine_share, parts_of
from cl2cm_jax.studies.tuning.report import About, Found
from cl2cm_jax.studies.tuning.score import Measured, score_of
from cl2cm_jax.studies.tuning.space import SPACE, Dimension, lines, read_space
from cl2cm_jax.studies.tuning.study import CUT, DONE, FAILED, Study
from cl2cm_jax.training import results
from cl2cm_jax.training.experiment import FREE, fingerprint
from cl2cm_jax.training.loop import Diverged

SEEDS = {FOLDS: 1, VALIDATION: 3}
BASELINE = {"method": "baseline"}  # the fields that make a config its baseline
IN_A_ROW = 5  # failed trials after which something else is wrong than their values


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it changes in every trial."""
    rest, overrides = split_flags(list(arguments))
    space = "\n".join(f"  {field:30} {spec}" for field, spec in SPACE.items())
    parser = Arguments(
        prog="cl2cm tune",
        description=__doc__,
        epilog="The default space, of which a config takes what matters to it:\n\n" + space.replace("%", "%%"),
    )
    parser.add_argument("--config", required=True, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    parser.add_argument("--workdir", type=Path, default=Path("runs/tune"), help="(default: %(default)s)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=30.0,
        help="no trial begins after so many, over all starts (default: %(default)s)",
    )
    parser.add_argument("--trials", type=positive, help="at most so many trials, over all starts")
    parser.add_argument("--score", choices=(FOLDS, VALIDATION), default=FOLDS, help="(default: %(default)s)")
    parser.add_argument("--folds", type=int, default=3, help="of the training split (default: %(default)s)")
    parser.add_argument("--seeds", type=positive, help="runs of each part (default: 1 for folds, 3 for validation)")
    parser.add_argument(
        "--space",
        default="",
        help="a file, or fields with spaces between: a name of the default space, or "
        "NAME=0..0.7, NAME=log:0.25..8, NAME=times:0.5..2 (of the config's value), NAME=a|b|c",
    )
    options = parser.parse_args(rest)
    if not options.minutes > 0:
        raise UserError(f"--minutes={options.minutes:g} must be more than 0")
    if options.folds < 2:
        raise UserError(f"--folds={options.folds} must be 2 or more")
    if options.workdir.is_file():
        raise UserError(f"--workdir={options.workdir} is a file; name a folder, which is made if it is not there")
    options.seeds = options.seeds or SEEDS[options.score]
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures trials until the time is over, then prints what was found."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr, force=True)
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = read(options.config, overrides)
    space = read_space(options.space, config)
    workdir, busy = options.workdir, f"--workdir={options.workdir} is in use: another process tunes there; wait for it"
    stopped = f"stopped and saved; resume with: {resume_command('tune', arguments)}"
    start_jax(Path(config.data.dir))
    with exclusive(workdir / ".lock", busy=busy), _interruptible():
        try:
            tuning = _begin(options, overrides, config, space, resume_command("tune", arguments))
            ended = tune(tuning, minutes=options.minutes, trials=options.trials)
        except KeyboardInterrupt:
            ended = False
        if not ended:
            print(stopped)
            return
        found = tuning.found()
        report.write(workdir, tuning.about, found)
        print(report.table(tuning.about, found).text(), *report.sentences(tuning.about, found), "", sep="\n")
        print(f"minutes: {found.seconds / 60:.1f}; files: {workdir}/{', '.join(report.FILES)}")
        if found.beats_baseline:
            print(f"train the best: python -m cl2cm_jax.main --config={workdir / 'best.py'} --workdir=...")


class Tuning(NamedTuple):
    """A study and what its trials share; `baseline` has the runs that are measured."""

    config: ConfigDict
    workdir: Path
    space: list[Dimension]
    parts: list[Part]
    study: Study
    about: About
    baseline: list[Measured]

    def found(self) -> Found:
        """What there is to report."""
        rows = self.study.rows(self.baseline)
        return Found(self.space, self.baseline, rows, self.study.importances(), self.study.seconds)


def _begin(
    options: argparse.Namespace, overrides: dict[str, str], config: ConfigDict, space: list[Dimension], command: str
) -> Tuning:
    """Opens the study and deals the data."""
    workdir = options.workdir
    study = Study(workdir, seed=config.seed)
    fixed = {name: value for name, value in flatten(config).items() if not name.startswith(FREE)}
    kept = {"score": options.score, "seeds": options.seeds, "folds": options.folds, "space": lines(space)}
    study.check(workdir, configuration=fixed, settings=kept)
    train, validation, _ = cache.corpora(config)
    study.check(workdir, data={"fingerprint": fingerprint((train, validation))})
    parts = parts_of(config, train, validation, score=options.score, folds=options.folds, seeds=options.seeds)
    machine = f"target captions {machine_share(parts[0], config):.0%} by machine"
    what = f"{options.folds} folds of the training split" if options.score == FOLDS else "the validation split"
    about = About(
        command=command,
        date=datetime.date.today().isoformat(),
        config=options.config,
        changes=overrides,
        data=config.data.name,
        scored=f"{what} ({machine}), {options.seeds} seed{'s' * (options.seeds > 1)}",
        parts=[part.name for part in parts],
        source=config.data.source,
        targets=config.data.targets,
    )
    return Tuning(config, workdir, space, parts, study, about, [])


def tune(tuning: Tuning, *, minutes: float, trials: int | None) -> bool:
    """Measures the baseline and then trials; False if a signal asked to stop.

    Raises:
      UserError: the baseline or the config as it is cannot be trained, or `IN_A_ROW` trials have failed.
    """
    study, failed = tuning.study, 0
    for part in tuning.parts[len(tuning.baseline) :]:
        measured = _measure(tuning, BASELINE, tuning.workdir / "baseline", part)
        if measured is None:
            return False
        tuning.baseline.append(measured)
    while study.count() < (trials or sys.maxsize) and (study.count() == 0 or study.seconds < 60 * minutes):
        state, reason = _trial(tuning)
        if state is None:
            return False
        report.write(tuning.workdir, tuning.about, tuning.found())
        failed = failed + 1 if state == FAILED else 0
        if failed == IN_A_ROW:
            raise UserError(f"{failed} trials in a row have failed, the last one so: {reason}; give another --space")
    return True


def _trial(tuning: Tuning) -> tuple[str | None, str]:
    """Measures the next trial: its state and the reason of one that failed; None if a signal asked to stop."""
    study, began = tuning.study, time.perf_counter()
    trial = study.begin(tuning.space)
    folder = tuning.workdir / "trials" / f"{trial.number:04d}"
    runs: list[Measured] = []

    def end(state: str, reason: str = "") -> tuple[str, str]:
        study.end(trial, state, runs, seconds=time.perf_counter() - began, reason=reason)
        _say(f"trial {trial.number} {state}{reason and ': '}{reason}")
        return state, reason

    for place, part in enumerate(tuning.parts):
        try:
            measured = _measure(tuning, trial.values, folder, part)
        except UserError as error:
            if trial.number == 0 and not isinstance(error, Diverged):
                raise  # so would every other
            shutil.rmtree(folder / part.name / "checkpoints", ignore_errors=True)
            return end(FAILED, str(error))
        if measured is None:
            return None, ""
        runs.append(measured)
        score = score_of(runs, tuning.baseline)
        _say(f"trial {trial.number} {part.name}: score {score.score:.1f} so far")
        if trial.report(score, place) and place + 1 < len(tuning.parts):
            return end(CUT)
    return end(DONE)


def _measure(tuning: Tuning, values: dict[str, str], folder: Path, part: Part) -> Measured | None:
    """One run, trained unless it is there; None if a signal asked to stop. Its time is counted."""
    began = time.perf_counter()
    config = tuning.config.copy_and_resolve_references()
    config.seed = part.seed
    try:
        done = run_once(override_all(config, values), part.corpora, folder / part.name)
    finally:
        tuning.study.spent(time.perf_counter() - began)
    if done is None:
        return None
    sum_recall = {
        language: metrics(ranks)["SumR"]
        for language, ranks in load_ranks(folder / part.name / results.RANKS_FILE).items()
    }
    targets = {language: sum_recall[language] for language in config.data.targets}
    return Measured(sum_recall[config.data.source], targets)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C does, where no training is going on that catches both."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    exit_cleanly(main)
