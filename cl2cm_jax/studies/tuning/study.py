"""The study as Optuna keeps it: a journal in the workdir that a killed process can go on with."""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cl2cm_jax.config import current_names, defaults, differences, flatten
from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.studies.tuning.score import Measured, Score, score_of
from cl2cm_jax.studies.tuning.space import Dimension

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.log"
NAME = "tune"
RANDOM_TRIALS = 6  # before the sampler learns from what was measured
UNPRUNED = 5  # trials that must be whole before one can be cut off
DONE, CUT, FAILED = "done", "cut off", "failed"


class Row(NamedTuple):
    """One trial that has ended.

    Attributes:
      number: counted from 0, the config as it is.
      state: `DONE`; `CUT` after its first part, which was below the median; `FAILED`, see `reason`.
      values: field: text.
      runs: what was measured, part by part.
      score: of these; None if it failed.
      seconds: spent on it.
    """

    number: int
    state: str
    values: dict[str, str]
    runs: list[Measured]
    score: Score | None
    seconds: float
    reason: str = ""


class Trial:
    """A trial that is going on."""

    def __init__(self, trial: optuna.Trial, number: int, space: Sequence[Dimension]):
        self.number, self.held, self.last = number, trial, 0.0
        drawn = {dimension.field: _draw(trial, dimension) for dimension in space}
        self.values = {dimension.field: dimension.text(drawn[dimension.field]) for dimension in space}

    def report(self, score: Score, part: int) -> bool:
        """Takes the score after a part; True if the trial is to be cut off."""
        self.last = score.score
        self.held.report(score.score, part)
        return part == 0 and self.held.should_prune()


class Study:
    """The trials of a workdir. One process at a time may hold one (`storage.exclusive`).

    Which values a trial gets depends on the trials before it and on its number, not on how often the study was stopped.
    """

    def __init__(self, workdir: Path, *, seed: int):
        """Opens the study of a workdir, or begins one.

        Raises:
          UserError: its file is damaged, or Optuna is not installed.
        """
        self._optuna, self._seed = _optuna(), seed
        path = workdir / STUDY_FILE
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a process that was killed while it wrote
        _drop_half_line(path)
        journal = importlib.import_module("optuna.storages.journal")
        try:
            storage = self._optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))
            self._study = self._optuna.create_study(
                study_name=NAME, direction="maximize", storage=storage, load_if_exists=True
            )
            _ = self._study.trials, self.seconds
        except OSError:
            raise
        except Exception as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {one_line(error)}); use another --workdir"
            ) from error
        self._study.pruner = self._optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)

    def check(self, workdir: Path, **settings: Mapping[str, object]) -> None:
        """Refuses to go on with other settings than those that the study began with; notes those of a new one.

        Raises:
          UserError: names what differs.
        """
        for name, now in settings.items():
            now = json.loads(json.dumps(now))
            if name not in self._study.user_attrs:
                self._study.set_user_attr(name, now)
                continue
            was = current_names(self._study.user_attrs[name])
            if name == "configuration":  # fields added since then have their default
                was = {field: value for field, value in flatten(defaults()).items() if field in now} | was
            if changed := differences(now, was):
                listed = ", ".join(f"{key} ({then!r} there, {new!r} now)" for key, (new, then) in changed.items())
                raise UserError(f"--workdir={workdir} was tuned with other {name}: {listed}; use another --workdir")

    @property
    def seconds(self) -> float:
        """Spent by all starts."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def spent(self, seconds: float) -> None:
        """Adds to `seconds`."""
        self._study.set_user_attr("seconds", self.seconds + seconds)

    def rows(self, baseline: Sequence[Measured]) -> list[Row]:
        """The trials that have ended, in order."""
        return [_row(trial, number, baseline) for number, trial in enumerate(self._ended())]

    def count(self) -> int:
        """How many have ended."""
        return len(self._ended())

    def begin(self, space: Sequence[Dimension]) -> Trial:
        """The next trial: one that was interrupted, the config as it is, or what the sampler thinks best."""
        states = self._optuna.trial.TrialState
        for half in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._study.tell(half.number, state=states.FAIL)  # and once more from its beginning
            if len(half.params) == len(space):
                self._study.enqueue_trial(half.params)
        number = self.count()
        waiting = self._study.get_trials(deepcopy=False, states=(states.WAITING,))
        if number == 0 and not waiting:
            self._study.enqueue_trial({dimension.field: dimension.own for dimension in space})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is experimental in Optuna
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self._seed * 100_003 + number) % 2**32, n_startup_trials=RANDOM_TRIALS
            )
            return Trial(self._study.ask(), number, space)

    def end(self, trial: Trial, state: str, runs: Sequence[Measured], *, seconds: float, reason: str = "") -> None:
        """Notes how a trial ended; its score is the one last reported."""
        states, held = self._optuna.trial.TrialState, trial.held
        held.set_user_attr("values", trial.values)
        held.set_user_attr("runs", [run._asdict() for run in runs])
        held.set_user_attr("seconds", round(seconds, 2))
        held.set_user_attr("reason", reason)
        held.set_user_attr("state", state)
        if state == DONE:
            self._study.tell(held, trial.last)
        else:
            self._study.tell(held, state=states.PRUNED if state == CUT else states.FAIL)

    def importances(self) -> dict[str, float]:
        """The share of each field in how good trials differ from the others (PED-ANOVA); {} where that is unknown."""
        done = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.COMPLETE,))
        if len(done) < 2 * UNPRUNED:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._optuna.importance.get_param_importances(self._study)
            except (ValueError, RuntimeError):  # all alike
                return {}

    def _ended(self) -> list[Any]:
        states = self._optuna.trial.TrialState
        ended = self._study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.FAIL))
        # one that was interrupted has failed for Optuna alone, whatever it had come to
        return [t for t in ended if t.state != states.FAIL or t.user_attrs.get("state") == FAILED]


def _optuna() -> Any:
    try:
        found = importlib.import_module("optuna")
    except ImportError as error:
        raise UserError(
            f"package {error.name} is not installed; in a checkout pip install -e '.[tune]', else pip install optuna"
        ) from error
    found.logging.set_verbosity(found.logging.ERROR)
    return found


def _draw(trial: optuna.Trial, dimension: Dimension) -> float | str:
    if dimension.choices:
        return trial.suggest_categorical(dimension.field, dimension.choices)
    if dimension.whole and dimension.base is None:
        return trial.suggest_int(dimension.field, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.field, dimension.low, dimension.high, log=dimension.log)


def _row(trial: Any, number: int, baseline: Sequence[Measured]) -> Row:
    attrs = trial.user_attrs
    runs = [Measured(**run) for run in attrs["runs"]]
    score = score_of(runs, baseline) if runs and attrs["state"] != FAILED else None
    return Row(number, attrs["state"], attrs["values"], runs, score, attrs["seconds"], attrs["reason"])


def _drop_half_line(path: Path) -> None:
    """Cuts off what a killed process had written of a line; the next one would be written behind it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
