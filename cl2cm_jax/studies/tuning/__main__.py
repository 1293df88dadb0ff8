"""Tunes hyperparameters by cross-validation within the training split; the test split is never read.

cl2cm tune --config=configs/emoji.py --workdir=runs/tune --minutes=30 [--folds=3] [--space=...] [...]

Each trial trains the config with other values of some fields. With --score=folds, a trial is one run per fold of the
training split, trained on the other folds and scored on the held-out one; the validation split selects the step, as in
every run (train.select). With --score=validation, its runs train on the whole training split and are scored on the
validation split, which then also selects their step. Scores use the captions that training may see: machine
translations, if that is what the config trains on.

score = targets - max(0, source of the baseline - 1 - source): mean SumR of the target languages, minus what the source
language loses against the baseline (no teacher) beyond 1 SumR, all on the same parts.

The baseline is measured first. Trial 0 is the config itself, including --config.FIELD=...; the others are proposed by
Optuna's TPE sampler. A trial whose first part scores below the median is pruned; a trial that diverges fails. Rerun the
same command to resume; --minutes counts all starts. Writes tune.md, tune.json and best.py, a config.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.config import PLACES, flatten, override_all, read
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.evaluation.retrieval import load_ranks, metrics
from cl2cm_jax.features import cache
from cl2cm_jax.runtime.command_line import PLACE, Arguments, positive, resume_command, split_flags
from cl2cm_jax.runtime.preemption import exit_stopped, interrupt
from cl2cm_jax.runtime.start import start_jax
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.studies.ablation.runs import run_once
from cl2cm_jax.studies.tuning import report
from cl2cm_jax.studies.tuning.report import StudyInfo, TuningResult
from cl2cm_jax.studies.tuning.scoring import (
    FOLDS,
    VALIDATION,
    Measured,
    Part,
    machine_share,
    parts_of,
    score_of,
    scored_images,
)
from cl2cm_jax.studies.tuning.space import SPACE, Dimension, read_space
from cl2cm_jax.studies.tuning.study import CUT, DONE, FAILED, Study
from cl2cm_jax.text.terminal import log_to_stderr
from cl2cm_jax.training import results
from cl2cm_jax.training.experiment import FREE
from cl2cm_jax.training.identity import as_recorded, fingerprint, is_same_data, record_inputs
from cl2cm_jax.training.loop import Diverged

SEEDS = {FOLDS: 1, VALIDATION: 3}
BASELINE = {"method": "baseline"}  # the overrides that turn a config into its baseline
MAX_FAILURES = 5  # in a row; then the cause is not the values of the trials


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The command line: options, and the config fields that it overrides in every trial."""
    rest, overrides = split_flags(list(arguments))
    epilog = ["Default space, limited to the fields that the config uses:", ""]
    epilog += [f"  {field:30} {spec}" for field, spec in SPACE.items()]
    parser = Arguments(prog="cl2cm tune", description=__doc__, epilog="\n".join(epilog))
    add = parser.add_argument
    add("--config", type=PLACE, required=True, help="a file in configs/; FILE:ARGUMENT passes it an argument")
    add("--workdir", type=Path, default=Path("runs/tune"), help="(default: %(default)s)")
    minutes = "start no trial after this time, over all starts (default: %(default)s)"
    add("--minutes", type=float, default=30.0, help=minutes)
    add("--trials", type=positive, help="maximum number of trials, over all starts")
    add("--score", choices=(FOLDS, VALIDATION), default=FOLDS, help="(default: %(default)s)")
    add("--folds", type=int, default=3, help="of the training split (default: %(default)s)")
    add("--seeds", type=positive, help="runs of each part (default: 1 for folds, 3 for validation)")
    space = (
        "a file, or fields separated by spaces: a name of the default space, NAME=0..0.7, NAME=log:0.25..8, "
        "NAME=times:0.5..2 (times the config's value), or NAME=a|b|c"
    )
    add("--space", default="", help=space)
    options = parser.parse_args(rest)
    if not options.minutes > 0:
        raise UserError(f"--minutes={options.minutes:g} must be more than 0")
    if options.folds < 2:
        raise UserError(f"--folds={options.folds} must be 2 or more")
    if options.workdir.is_file():
        raise UserError(f"--workdir={options.workdir} is a file; name a folder, it is created if needed")
    options.seeds = options.seeds or SEEDS[options.score]
    return options, overrides


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs trials until the time is over, then prints the result."""
    log_to_stderr(format="%(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    options, overrides = parse(arguments)
    config = read(options.config, overrides)
    space = read_space(options.space, config)
    workdir, command = options.workdir, resume_command("tune", arguments)
    start_jax(Path(config.data.dir))
    busy = f"--workdir={workdir} is in use by another tuning process; wait for it"
    with exclusive(workdir / ".lock", busy=busy), contextlib.ExitStack() as restore:
        for number in (signal.SIGTERM, signal.SIGINT):  # outside of training, which handles both
            restore.callback(signal.signal, number, signal.signal(number, interrupt))
        try:
            tuning = Tuning(options, overrides, config, space, command)
            result = tuning.run(minutes=options.minutes, trials=options.trials)
        except KeyboardInterrupt:
            exit_stopped(command, default=signal.SIGINT)
    print(report.table(tuning.info, result).text(), *report.sentences(result), "", sep="\n")
    print(f"minutes: {result.seconds / 60:.1f}; files: {workdir}/{', '.join(report.FILES)}")
    if result.beats_baseline:
        print(f"train the best: python -m cl2cm_jax.main --config={workdir / 'best.py'} --workdir=...")


class Tuning:
    """The study of a workdir, its data, and the baseline's finished runs."""

    def __init__(
        self,
        options: argparse.Namespace,
        overrides: dict[str, str],
        config: ConfigDict,
        space: list[Dimension],
        command: str,
    ):
        config = as_recorded(config, options.workdir)
        self.config, self.workdir, self.space = config, options.workdir, space
        self.study = Study(self.workdir, seed=config.seed)
        free = (*FREE, *PLACES)  # data and backbones are known by their content
        fixed = {name: value for name, value in flatten(config).items() if not name.startswith(free)}
        how = {"score": options.score, "seeds": options.seeds, "folds": options.folds}
        self.study.check(configuration=fixed, settings=how | {"space": [dimension.line for dimension in space]})
        train, validation, _ = cache.corpora(config)
        data = self.study.known("data").get("fingerprint")
        if not data or not is_same_data(data, (train, validation)):
            data = fingerprint((train, validation))
        self.study.check(data={"fingerprint": data})
        record_inputs(self.workdir, config, (train, validation))
        self.parts = parts_of(config, train, validation, **how)
        self.baseline: list[Measured] = []
        what = f"{options.folds} folds of the training split" if options.score == FOLDS else "the validation split"
        machine = f"target captions {machine_share(self.parts[0], config):.0%} by machine"
        self.info = StudyInfo(
            command=command,
            date=datetime.date.today().isoformat(),
            config=options.config,
            changes=overrides,
            data=config.data.name,
            scored=f"{what} ({machine}), {options.seeds} seed{'s' * (options.seeds > 1)}",
            images=scored_images(self.parts),
            parts=[part.name for part in self.parts],
            source=config.data.source,
            targets=config.data.targets,
        )

    def run(self, *, minutes: float, trials: int | None) -> TuningResult:
        """Measures the baseline, then runs trials, and writes the report after each.

        Raises:
          UserError: the baseline or the config itself cannot be trained, or `MAX_FAILURES` trials in a row failed.
          KeyboardInterrupt: a signal stopped a run.
        """
        study, failures = self.study, 0
        for part in self.parts:
            self.baseline.append(self.measure(BASELINE, self.workdir / "baseline", part))
        while study.count() < (trials or sys.maxsize) and (study.count() == 0 or study.seconds < 60 * minutes):
            failure = self._run_trial()
            self._report()
            failures = failures + 1 if failure else 0
            if failures == MAX_FAILURES:
                raise UserError(f"{failures} trials in a row failed, the last one with: {failure}; use another --space")
        return self._report()

    def _report(self) -> TuningResult:
        study, base = self.study, self.baseline
        result = TuningResult(self.space, base, study.results(base), study.importances(), study.seconds)
        report.write(self.workdir, self.info, result)
        return result

    def _run_trial(self) -> str:
        """Runs the next trial; returns the reason if it fails, else ""."""
        began, runs = time.perf_counter(), []
        trial = self.study.begin(self.space)
        folder = self.workdir / "trials" / f"{trial.number:04d}"
        state, reason, score = DONE, "", None
        for place, part in enumerate(self.parts):
            try:
                runs.append(self.measure(trial.values, folder, part))
            except UserError as error:
                if trial.number == 0 and not isinstance(error, Diverged):
                    raise  # every other trial would fail in the same way
                shutil.rmtree(folder / part.name / "checkpoints", ignore_errors=True)
                state, reason = FAILED, str(error)
                break
            score = score_of(runs, self.baseline).score
            print(f"trial {trial.number} {part.name}: score {score:.1f} so far", file=sys.stderr, flush=True)
            if trial.report(score, place) and place + 1 < len(self.parts):
                state = CUT
                break
        self.study.end(trial, state, runs, score=score, seconds=time.perf_counter() - began, reason=reason)
        print(f"trial {trial.number} {state}{reason and ': '}{reason}", file=sys.stderr, flush=True)
        return reason

    def measure(self, values: dict[str, str], folder: Path, part: Part) -> Measured:
        """Trains a run, or reads it if it is finished. Its time counts."""
        began = time.perf_counter()
        config = self.config.copy_and_resolve_references()
        config.seed = part.seed
        try:
            if run_once(override_all(config, values), part.corpora, folder / part.name) is None:
                raise KeyboardInterrupt
        finally:
            self.study.add_seconds(time.perf_counter() - began)
        ranks = load_ranks(folder / part.name / results.RANKS_FILE)
        sums = {language: metrics(ranks[language])["SumR"] for language in (config.data.source, *config.data.targets)}
        return Measured(sums.pop(config.data.source), sums)


if __name__ == "__main__":
    exit_cleanly(main)
