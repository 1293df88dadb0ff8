"""Schedules: stages of a run, weights of the loss terms, learning rates."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cl2cm_jax.config import is_zero
from cl2cm_jax.config.knots import read_knots
from cl2cm_jax.config.terms import weight_texts
from cl2cm_jax.errors import UserError

TEACHER_TERMS = ("sentence", "word")
# The teacher alone; the student without its layers of the text backbone; the whole student.
Stage = Literal["teacher", "heads", "student"]


class Stages(NamedTuple):
    """Lengths of the stages in steps.

    Attributes:
      teacher: the teacher alone comes first; 0 for a teacher without a head or a joint one.
      student: the student's steps.
      heads: the first of them, in which only its heads are trained (`student.text.start`).
    """

    teacher: int
    student: int
    heads: int = 0

    @property
    def total(self) -> int:
        """All steps of the run."""
        return self.teacher + self.student

    def of(self, step: int) -> Stage:
        """The stage of a step of the run."""
        if step < self.teacher:
            return "teacher"
        return "heads" if step < self.teacher + self.heads else "student"


def piecewise(text: str, *, field: str, steps: int) -> optax.Schedule:
    """Parses "1.0" or "0:0 20%:1": values at steps, or shares of `steps`; linear in between, constant outside.

    Raises:
      UserError: the text does not parse, or the steps do not ascend.
    """
    knots = read_knots(text, field=field)
    places = [knot.place * steps if knot.is_share else knot.place for knot in knots]
    if places != sorted(places):
        raise UserError(f"config.{field}={text!r}: the steps of a schedule must ascend; of {steps} they are {places}")
    if len(knots) == 1:
        return optax.constant_schedule(knots[0].value)
    x, y = jnp.asarray(places), jnp.asarray([knot.value for knot in knots])
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), x, y)


def term_weights(config: ConfigDict, stages: Stages):  # noqa: ANN201
    """Returns (step, stage) -> {term: weight}, of the terms that are computed in the stage.

    In the teacher's stage (static) these are the teacher's terms, later the others; with a joint teacher all. A term
    of weight 0 and the terms of a teacher without a head are not computed. A schedule starts with its term's stage.
    """
    joint = config.teacher.schedule == "joint"
    headless = config.teacher.head == "none"

    def is_first(name: str) -> bool:
        return not joint and name in TEACHER_TERMS

    schedules = {
        name: piecewise(text, field=f"weights.{name}", steps=stages.teacher if is_first(name) else stages.student)
        for name, text in weight_texts(config).items()
        if not is_zero(text)
        and not (headless and name in TEACHER_TERMS)
        and (config.transfer.relations or name != "transfer")
    }

    def at(step: jax.Array, stage: Stage) -> dict[str, jax.Array]:
        first = stage == "teacher"
        done = step if first else step - stages.teacher
        return {name: jnp.asarray(weight(done)) for name, weight in schedules.items() if is_first(name) == first}

    return at


def learning_rate(config: ConfigDict, *, peak: float, steps: int, warmup: int) -> optax.Schedule:
    """Linear warm-up to `peak`, then cosine or constant for `steps` in all, then zero."""
    if config.optimizer.schedule == "cosine":
        shape = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))
    else:
        shape = optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
        )

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count)
        # warm-up counts from 1, so that the first step already moves
        return jnp.where(step < steps, jnp.asarray(shape(step + 1)), 0.0)

    return at
