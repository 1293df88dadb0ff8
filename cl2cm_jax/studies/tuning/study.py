"""The Optuna study: a journal file in the workdir from which a stopped or killed process resumes."""

from __future__ import annotations

import importlib
import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cl2cm_jax.config import FIELDS, current_names, defaults, differences, flatten
from cl2cm_jax.errors import UserError, not_installed, one_line
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.studies.tuning.scoring import Measured, Score, score_of
from cl2cm_jax.studies.tuning.space import Dimension

STUDY_FILE, SUM_FILE = "study.log", "study.checksum.json"
NAME = "tune"
RANDOM_TRIALS = 6  # before the sampler uses earlier results
UNPRUNED = 5  # trials that must be complete before one can be pruned
DONE, CUT, FAILED = "done", "cut off", "failed"
_STATES = {DONE: "COMPLETE", CUT: "PRUNED", FAILED: "FAIL"}  # in Optuna


class TrialResult(NamedTuple):
    """A finished trial."""

    number: int  # counted from 0, which is the config itself
    state: str  # `DONE`; `CUT` (pruned) if its first part was below the median; `FAILED`, see `reason`
    values: dict[str, str]  # field -> text
    runs: list[Measured]  # by part
    score: Score | None  # of `runs`; None if the trial failed
    seconds: float  # spent on it
    reason: str = ""


class Trial(NamedTuple):
    """A running trial."""

    number: int
    values: dict[str, str]  # field -> text
    optuna_trial: Any

    def report(self, score: float, part: int) -> bool:
        """Reports the score after a part; True if the trial is to be pruned."""
        self.optuna_trial.report(score, part)
        return part == 0 and self.optuna_trial.should_prune()


class Study:
    """The trials of a workdir; only one process may use it at a time (`storage.exclusive`).

    The values of a trial depend on earlier trials and its number, not on how often the study was stopped.
    """

    def __init__(self, workdir: Path, *, seed: int):
        """Opens or creates the study of a workdir.

        Raises:
          UserError: its file is damaged, or Optuna is not installed.
        """
        self._optuna, self._workdir, self._seed = _import_optuna(), workdir, seed
        self._states = self._optuna.trial.TrialState
        path = workdir / STUDY_FILE
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # left by a process killed while writing
        _drop_partial_line(path)
        self._journal = _Journal(path, workdir / SUM_FILE)
        try:
            storages = self._optuna.storages
            storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
            self._study = self._optuna.create_study(
                study_name=NAME, direction="maximize", storage=storage, load_if_exists=True
            )
            _ = self._study.trials, self.seconds
            self._journal.record()
        except OSError:
            raise
        except Exception as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {one_line(error)}); use another --workdir"
            ) from error
        self._study.pruner = self._optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)

    def known(self, name: str) -> dict[str, Any]:
        """Settings that `check` has stored; {} of a new study."""
        return dict(self._study.user_attrs.get(name, {}))

    def check(self, **settings: Mapping[str, object]) -> None:
        """Stores the settings of a new study; refuses to resume one with other settings.

        Raises:
          UserError: names the differences.
        """
        for name, now in settings.items():
            now = json.loads(json.dumps(now))
            if name not in self._study.user_attrs:
                self._study.set_user_attr(name, now)
                continue
            before = current_names(self._study.user_attrs[name])
            if name == "configuration":  # fields added since then have their default
                before = {field: value for field, value in flatten(defaults()).items() if field in now} | before
                before = {field: value for field, value in before.items() if field in now or field not in FIELDS}
            if changed := differences(now, before):
                listed = ", ".join(f"{key} ({then!r} there, {new!r} now)" for key, (new, then) in changed.items())
                raise UserError(
                    f"--workdir={self._workdir} was tuned with other {name}: {listed}; use another --workdir"
                )
        self._journal.record()

    @property
    def seconds(self) -> float:
        """Time spent, over all starts."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def add_seconds(self, seconds: float) -> None:
        """Adds to `seconds`."""
        self._study.set_user_attr("seconds", self.seconds + seconds)
        self._journal.record()

    def results(self, baseline: Sequence[Measured]) -> list[TrialResult]:
        """The finished trials, in order."""
        return [_result(trial, number, baseline) for number, trial in enumerate(self._finished())]

    def count(self) -> int:
        """Number of finished trials."""
        return len(self._finished())

    def begin(self, space: Sequence[Dimension]) -> Trial:
        """The next trial: an interrupted one again, the config itself, or a proposal of the sampler."""
        for interrupted in self._trials(self._states.RUNNING):
            self._study.tell(interrupted.number, state=self._states.FAIL)
            if len(interrupted.params) == len(space):
                self._study.enqueue_trial(interrupted.params)
        number = self.count()
        if number == 0 and not self._trials(self._states.WAITING):
            self._study.enqueue_trial({dimension.field: dimension.own for dimension in space})
        with warnings.catch_warnings(action="ignore"):  # experimental features of Optuna
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self._seed * 100_003 + number) % 2**32, n_startup_trials=RANDOM_TRIALS
            )
            trial = self._study.ask()
            values = {dim.field: dim.text(_draw(trial, dim)) for dim in space}
        self._journal.record()
        return Trial(number, values, trial)

    def end(
        self, trial: Trial, state: str, runs: Sequence[Measured], *, score: float | None, seconds: float, reason: str
    ) -> None:
        """Stores the result of a trial."""
        stored = {"values": trial.values, "runs": [run._asdict() for run in runs], "seconds": round(seconds, 2)}
        for name, value in (stored | {"reason": reason, "state": state}).items():
            trial.optuna_trial.set_user_attr(name, value)
        self._study.tell(trial.optuna_trial, score if state == DONE else None, state=self._states[_STATES[state]])
        self._journal.record()

    def importances(self) -> dict[str, float]:
        """Share of each field in what sets good trials apart (PED-ANOVA); {} if there are too few trials."""
        if len(self._trials(self._states.COMPLETE)) < 2 * UNPRUNED:
            return {}
        with warnings.catch_warnings(action="ignore"):
            try:
                return self._optuna.importance.get_param_importances(self._study)
            except (ValueError, RuntimeError):  # all trials are equal
                return {}

    def _trials(self, *states: Any) -> list[Any]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _finished(self) -> list[Any]:
        failed = self._states.FAIL  # also the state of interrupted trials, which are repeated and do not count
        trials = self._trials(self._states.COMPLETE, self._states.PRUNED, failed)
        return [trial for trial in trials if trial.state != failed or trial.user_attrs.get("state") == FAILED]


class _Journal:
    """The checksum of Optuna's file, which only grows: that of the bytes which it had when it was recorded last.

    Raises:
      UserError: these bytes have changed since.
    """

    def __init__(self, path: Path, sums: Path):
        self._path, self._sums, self._done = path, sums, (0, 0)
        if not path.exists():
            return
        fix = f"restore it, delete {sums} to take it as it is, or use another --workdir"
        try:
            size, crc = (int(json.loads(sums.read_bytes())[name]) for name in ("bytes", "crc32"))
        except FileNotFoundError:  # of an earlier version
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{sums} is damaged ({one_line(error)}); {fix}") from error
        content = path.read_bytes()[:size]
        if (len(content), zlib.crc32(content)) != (size, crc):
            raise UserError(f"{path} changed after it was written, by its checksum; {fix}", id="changed-file")

    def record(self) -> None:
        """Adds what was written since the last time."""
        size, crc = self._done
        with self._path.open("rb") as file:
            file.seek(size)
            new = file.read()
        self._done = size + len(new), zlib.crc32(new, crc)
        write_text(self._sums, json.dumps(dict(zip(("bytes", "crc32"), self._done, strict=True))))


def _import_optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        run = "pip install optuna, or in a checkout -e '.[tune]'"
        raise not_installed(error.name, run=run) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _draw(trial: Any, dimension: Dimension) -> float | str:
    if dimension.choices:
        return trial.suggest_categorical(dimension.field, dimension.choices)
    if dimension.whole and dimension.base is None:
        return trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)


def _result(trial: Any, number: int, baseline: Sequence[Measured]) -> TrialResult:
    attrs = trial.user_attrs
    runs = [Measured(**run) for run in attrs["runs"]]
    score = score_of(runs, baseline) if runs and attrs["state"] != FAILED else None
    return TrialResult(number, attrs["state"], attrs["values"], runs, score, attrs["seconds"], attrs["reason"])


def _drop_partial_line(path: Path) -> None:
    """Removes the incomplete last line of a process killed while writing, so that new lines are not appended to it."""
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
