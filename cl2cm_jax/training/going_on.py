"""Going on with a run after its planned end, or with another batch size, from its newest checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl2cm_jax.config import flatten
from cl2cm_jax.data import batches
from cl2cm_jax.errors import UserError
from cl2cm_jax.steps.schedule import Stages, learning_rate
from cl2cm_jax.training.experiment import Run, stages_of

CONTINUED = ("train.steps", "train.batch_size")  # fields that may change when a run goes on


def replaced(run: Run, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were others when a checkpoint with this metadata was written, with their values then."""
    now, saved = flatten(run.config), metadata.get("config", {})
    return {name: saved[name] for name in CONTINUED if saved.get(name, now[name]) != now[name]}


def check_going_on(run: Run, workdir: Path, metadata: Mapping[str, Any], start: int) -> None:
    """Logs what it means for the schedules if a run goes on from step `start` as another one than planned.

    Args:
      run: as it is now.
      workdir: for messages.
      metadata: of the checkpoint, with the configuration that it was trained with.
      start: its step.

    Raises:
      UserError: no step is left, or a stage of the training that is over would begin or end at another step.
    """
    now, then = flatten(run.config), replaced(run, metadata)
    if not then:
        return
    old, warmup = _planned(run, then)
    changed = ", ".join(f"config.{name}={now[name]!r} in place of {value!r}" for name, value in then.items())
    if run.stages.total <= start:
        raise UserError(
            f"{changed}: --workdir={workdir} is at step {start}, and the training ends at {run.stages.total}; "
            "use a larger config.train.steps",
            id="going-on",
        )
    if run.stages.teacher != old.teacher or _layers_started_elsewhere(run.stages, old, start):
        raise UserError(
            f"{changed}: the stages of the training would change ({_lengths(old)} before, {_lengths(run.stages)} now), "
            f"and --workdir={workdir} is past them, at step {start}; start another --workdir with --init={workdir}",
            id="going-on",
        )
    rates = _rates(run, old, warmup, start - run.stages.teacher)
    logging.info("%s: going on after step %d, to step %d%s", changed, start, run.stages.total, rates)


def _planned(run: Run, then: Mapping[str, Any]) -> tuple[Stages, int]:
    """The stages of the run as it was planned, and the steps of its warm-up."""
    config = run.config.copy_and_resolve_references()
    for name, value in then.items():
        config.train[name.removeprefix("train.")] = value
    examples = len(batches.trainable_images(run.corpora.train, source=config.data.source))
    stages, durations = stages_of(config, examples=examples)
    return stages, durations["optimizer.warmup"]


def _layers_started_elsewhere(now: Stages, old: Stages, start: int) -> bool:
    return now.heads != old.heads and start > now.teacher + min(now.heads, old.heads)


def _lengths(stages: Stages) -> str:
    return f"teacher {stages.teacher}, heads {stages.heads}, all {stages.total} steps"


def _rates(run: Run, planned: Stages, warmup: int, done: int) -> str:
    """What happens to the learning rate after `done` steps of the student; "" before its first step."""
    if done <= 0:
        return ""
    peak = run.config.optimizer.learning_rate
    old = learning_rate(run.config, peak=peak, steps=planned.student, warmup=warmup)(done - 1)
    new = learning_rate(run.config, peak=peak, steps=run.stages.student, warmup=run.durations["optimizer.warmup"])(done)
    return f"; all schedules are those of the new length, so the learning rate goes from {old:.1e} to {new:.1e}"
