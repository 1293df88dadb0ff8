"""The training loop.

Each iteration first uses the state (calibrate, evaluate, save) and then updates it (next batch, step, log), so a
resumed run is bit for bit the uninterrupted one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from cl2cm_jax.config import flatten, starts_aligned
from cl2cm_jax.data.batches import batches
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.report import group_table
from cl2cm_jax.maths.confidence import FEWEST_PAIRS, TOO_FEW, UNJUDGED
from cl2cm_jax.models.functional import Params
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import batch_shards
from cl2cm_jax.parallel.sharding import path_name, put_batch
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.metrics import MetricWriter
from cl2cm_jax.runtime.overview import overview
from cl2cm_jax.runtime.preemption import Preemption
from cl2cm_jax.runtime.progress import ProgressReport
from cl2cm_jax.runtime.watchdog import Watchdog
from cl2cm_jax.steps.calibration import calibration
from cl2cm_jax.steps.train_step import TrainState
from cl2cm_jax.training.experiment import (
    SELECTION,
    TARGETS_METRIC,
    Run,
    abstract_state,
    check_data,
    checkpoints,
    evaluated_student,
)
from cl2cm_jax.training.going_on import replaced
from cl2cm_jax.training.validation import Validation, selection_score, validate

_MANY_WRONG = 0.5  # share of wrong translations that is a warning
_SMALL_WEIGHT = 0.1  # mean weight of a language's captions that is a warning
_WEIGHT = "confidence/"  # begins the name of that mean among the logged values


class Diverged(UserError):
    """A term or a vector of the training is not finite."""


class Clock(NamedTuple):
    """Stored in a checkpoint beside the state: seconds trained, the state of early stopping, SumR before training.

    `start` is by language, of a run that starts at a model.
    """

    seconds: float = 0.0
    best: float = -math.inf
    evaluations_since_best: int = 0
    start: dict[str, float] | None = None


def train(run: Run, workdir: Path, *, init: Params | None = None, stream: TextIO | None = None) -> TrainState | None:
    """Trains to the end, from the newest readable checkpoint if there is one; None if a signal came before the end.

    Progress goes to `stream`, stderr by default. Of several processes the first writes metrics and progress; a signal
    to one of them stops all at the same step. A run without a checkpoint starts from the student `init`, if given.

    Raises:
      Diverged: a term is not finite.
      UserError: a checkpoint can be neither read nor written.
    """
    c, total = run.config.train, run.stages.total
    at_model = init is not None or starts_aligned(run.config)
    with Preemption() as preemption, checkpoints(run, workdir) as saved:
        state, start, clock, resumed = _begin(run, workdir, saved, init)
        began = time.perf_counter() - clock.seconds
        data = training_batches(run, start)
        checker, vote, stop, weights = FiniteTerms(), hosts.Vote(), False, {}
        first = hosts.is_host_zero()
        stream = stream if first else io.StringIO()
        with (
            MetricWriter(workdir, resume_step=start) if first else contextlib.nullcontext() as metrics,
            ProgressReport(total=total, start=start, batch_size=c.batch_size, stream=stream) as progress,
            Watchdog(seconds=c.watchdog_seconds, path=workdir / hosts.own_name("stalls.txt")) as watchdog,
        ):
            for step in range(start, total + 1):
                stop = vote(preemption.requested)
                # 1. use the state: calibrate, evaluate, save
                state = _calibrate(run, state, step)
                measured = {}
                is_due = _evaluates(run, step) or (step == 0 and at_model)
                if is_due and not (resumed and step == start):  # a resumed step has been evaluated before
                    checker.check()  # names the term that made the embeddings NaN
                    found, score = _validate(run, state, step, clock.start)
                    clock = _advance(clock, score, whole=run.stages.of(step - 1) == "student")
                    if step == 0:
                        clock = clock._replace(start=found.sum_recall)
                    if metrics:
                        metrics.write(step, {f"validation/{name}": value for name, value in found.metrics.items()})
                    progress.note(f"step {step} validation mean target SumR {found.metrics[TARGETS_METRIC]:.1f}")
                    measured = found.metrics | {SELECTION: score}
                stopping = c.early_stop and clock.evaluations_since_best >= c.early_stop
                last = step == total or stopping
                if measured or (step > start and (last or stop or step % run.durations["train.checkpoint_every"] == 0)):
                    checker.check()  # never saves a state that is not finite
                    clock = clock._replace(seconds=time.perf_counter() - began)
                    about = {"config": flatten(run.config), "clock": clock._asdict(), "data": run.data}
                    saved.save(step, state, metadata=about, metrics=measured)
                if last or stop:
                    _warn_of_low_confidence(run, weights)
                    break
                # 2. update it: next batch, step, log
                requested = time.perf_counter()
                batch = put_batch(next(data), run.mesh)
                progress.waited(time.perf_counter() - requested)
                state, terms = run.step.step(state, batch, step)
                checker.add(step, terms)
                if (step + 1) % run.durations["train.log_every"] == 0 or step + 1 == total:
                    values, weights = _by_language(checker.check(), run.corpora.train.languages)
                    rates = progress.update(step + 1, loss=values["total"])
                    if metrics:
                        metrics.write(step + 1, {f"train/{name}": value for name, value in values.items()} | rates)
                watchdog.beat()
                saved.check()
    return None if stop or vote.now(preemption.requested) else state


def _begin(run: Run, workdir: Path, saved: Checkpoints, init: Params | None) -> tuple[TrainState, int, Clock, bool]:
    """State, step and clock of the newest readable checkpoint, or of a new run; whether there is a checkpoint.

    Raises:
      UserError: the weights are to be interpolated with those of a model, and the run starts at none.
    """
    restored = saved.restore(abstract_state(run))
    saved.remove_unfinished()
    start = restored.step if restored else 0
    state = restored.state if restored else started(run, init)
    clock = _clock(run, workdir, restored.metadata) if restored else Clock()
    count = run.config.train.interpolations
    if count and not (init is not None or starts_aligned(run.config) or clock.start):
        raise UserError(
            f"config.train.interpolations={count} needs a model to start at: --init, or student.text_residual and "
            "student.vision_residual; or use 0"
        )
    if start == 0:
        logging.info(f"parameters of the train state:\n{overview(state['params'])}")
    elif start < run.stages.total:
        logging.info("resuming from step %d of %d", start, run.stages.total)
    return state, start, clock, restored is not None


class FiniteTerms:
    """Checks that every step's terms are finite, one step late so that the host does not wait for the device."""

    def __init__(self) -> None:
        self._waiting: tuple[int, dict[str, jax.Array]] | None = None

    def add(self, step: int, terms: dict[str, jax.Array]) -> None:
        """Adds the terms of a step that may still be running, and checks the previous ones."""
        if self._waiting:
            self.check()
        self._waiting = (step, terms)

    def check(self) -> dict[str, float]:
        """The terms last added, as numbers; {} before the first step. Raises Diverged if one is not finite."""
        if self._waiting is None:
            return {}
        step, terms = self._waiting
        values = {name: float(value) for name, value in jax.device_get(terms).items()}
        # the total last: it is not finite because another term is not
        for name in sorted(values, key=lambda name: name in ("total", "gradient_norm")):
            if not math.isfinite(values[name]):
                raise Diverged(
                    f"step {step}: the term {name!r} is {values[name]}; lower config.optimizer.learning_rate "
                    "or raise config.contrastive.temperature, in another --workdir"
                )
        return values


def _clock(run: Run, workdir: Path, metadata: Mapping[str, Any]) -> Clock:
    """The clock of a checkpoint, after its data have been checked; a run that goes on longer stops no earlier."""
    check_data(run, workdir, metadata)
    clock = Clock(**metadata["clock"])
    return clock._replace(evaluations_since_best=0) if replaced(run, metadata) else clock


def started(run: Run, init: Params | None) -> TrainState:
    """The state before the first step; with the parameters `init` for the student, if given."""
    state = run.step.init()
    if init is None:
        return state
    params = dict(state["params"])
    params["student"] = jax.tree.map(_put_like, init, params["student"])
    ema = jax.tree.map(_put_like, init, state["ema"]) if run.config.train.ema else {}
    return {**state, "params": params, "ema": ema}


def _put_like(value: np.ndarray, other: jax.Array) -> jax.Array:
    """A copy, since the state is donated."""
    return jax.device_put(np.array(value, other.dtype), other.sharding)


def check_initial(run: Run, init: Params, *, flag: str) -> None:
    """Raises UserError if the parameters of a student do not fit the run's; names those that do not."""
    if run.networks.has_adapters:
        raise UserError(
            f"{flag}: 'lora' adapts the pretrained layers and not those of another student; use 'layers ...'"
        )
    wanted, found = (
        {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
        for tree in (abstract_state(run)["params"]["student"], init)
    )
    wrong = [name for name in sorted(wanted | found) if wanted.get(name) != found.get(name)]
    if wrong:
        listed = ", ".join(
            f"{name} {found.get(name, 'missing')} there, {wanted.get(name, 'none')} here" for name in wrong[:3]
        )
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{flag}: its student is not the one of this configuration: {listed}{more}; use the config.student fields "
            "of that model, or start without --init",
            id="other-shape",
        )


def training_batches(run: Run, start: int) -> Iterator[dict[str, Any]]:
    """Batches of the training split from step `start` on."""
    c = run.config
    packs = c.text.pack and run.corpora.train.states is not None
    return batches(
        run.corpora.train,
        batch_size=c.train.batch_size,
        seed=c.seed,
        start_step=start,
        source=c.data.source,
        targets=(*c.data.targets, *c.data.reported),
        targets_per_image=c.train.targets_per_image,
        with_words=run.networks.reads_words,
        max_words=c.text.max_tokens,
        length_multiple=c.text.length_multiple,
        groups=batch_shards(run.mesh) * c.train.accumulation if packs else 0,
        crops=run.crops,
    )


def _calibrate(run: Run, state: TrainState, step: int) -> TrainState:
    """Fits the pair confidence when the teacher has finished, or at every evaluation if it learns jointly."""
    c = run.config
    joint = c.teacher.head != "none" and c.teacher.schedule == "joint"
    due = step == run.stages.teacher or (joint and step % run.durations["train.evaluate_every"] == 0)
    if c.confidence.kind != "posterior" or not due:
        return state
    train, validation = run.corpora.train, run.corpora.validation
    teacher = state["params"]["teacher"]
    fitted = calibration(
        run.embedder, teacher, train=train, validation=validation, source=c.data.source, heads=run.networks.folds
    )
    shares = {
        name: share for name, share in zip(train.languages, fitted.wrong_share, strict=True) if name != c.data.source
    }
    _log_shares(shares, backbone=c.text.backbone)
    shardings = run.step.state_shardings["calibration"]
    return {**state, "calibration": jax.device_put(fitted._asdict(), shardings)}


def _log_shares(shares: Mapping[str, float], *, backbone: str) -> None:
    """Logs the estimated share of wrong translations of each language, and warns where it is large or unknown."""
    unjudged = [name for name, share in shares.items() if share == UNJUDGED]
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0)
    logging.info("estimated share of wrong translations: %s", listed or "none could be estimated")
    if unjudged:
        logging.warning(
            "pair confidence is off for %s: the teacher cannot tell right translations from wrong ones there; the "
            "likely cause is that config.text.backbone=%r does not know the language. All its captions have weight 1",
            ", ".join(unjudged),
            backbone,
        )
    if few := [name for name, share in shares.items() if share == TOO_FEW]:
        logging.warning(
            "pair confidence is off for %s: it needs %d captions and more with one in the source language, in training "
            "and in validation. All its captions have weight 1",
            ", ".join(few),
            FEWEST_PAIRS,
        )
    if many := [name for name, share in shares.items() if share > _MANY_WRONG]:
        logging.warning(
            "most training captions in %s are taken for wrong translations and count little: check some of them, and "
            "whether config.text.backbone=%r knows the language; config.confidence.kind='none' counts all alike",
            ", ".join(many),
            backbone,
        )


def _by_language(values: dict[str, float], languages: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Logged values with the names of languages, and the mean weight of the captions of each that was in the batch."""
    numbers = {f"{_WEIGHT}{k}": language for k, language in enumerate(languages)}
    weights = {numbers[name]: mean for name, mean in values.items() if name in numbers and mean >= 0}
    others = {name: value for name, value in values.items() if name not in numbers}
    return others | {f"{_WEIGHT}{language}": mean for language, mean in weights.items()}, weights


def _warn_of_low_confidence(run: Run, weights: Mapping[str, float]) -> None:
    """Warns of languages that have hardly been trained on, by the mean weights of their captions in the last batch."""
    if low := {language: mean for language, mean in weights.items() if mean < _SMALL_WEIGHT}:
        logging.warning(
            "the captions in %s weigh little in the mean (config.confidence.kind=%r), so the run has hardly trained on "
            "them; the likely cause is that config.text.backbone=%r does not know the language: use 'none'",
            ", ".join(f"{language} ({mean:.2f})" for language, mean in low.items()),
            run.config.confidence.kind,
            run.config.text.backbone,
        )


def _evaluates(run: Run, step: int) -> bool:
    """Whether validation is due: at the end, and every `train.evaluate_every` steps of the student."""
    done = step - run.stages.teacher
    return done > 0 and (done % run.durations["train.evaluate_every"] == 0 or step == run.stages.total)


def _validate(run: Run, state: TrainState, step: int, start: Mapping[str, float] | None) -> tuple[Validation, float]:
    """What was measured on the validation split, and the score that selects parameters.

    Raises:
      Diverged: the student's vectors are not finite.
    """
    try:
        found = validate(run, evaluated_student(run, state), reported=step == 0 or bool(start))
    except ValueError as error:  # the last update was too large, and no later step has shown it
        raise Diverged(f"step {step}: {error}; lower config.optimizer.learning_rate") from error
    if step == 0:
        table = group_table(found.retrieval, title="Before training, on the validation split")
        logging.info("%s", table.text())
    return found, selection_score(run, found, start or {}, what=f"step {step}")


def _advance(clock: Clock, sum_recall: float, *, whole: bool) -> Clock:
    """Counts evaluations without a better one, once all of the student's layers learn."""
    if sum_recall > clock.best or not whole:
        return clock._replace(best=max(sum_recall, clock.best), evaluations_since_best=0)
    return clock._replace(evaluations_since_best=clock.evaluations_since_best + 1)
