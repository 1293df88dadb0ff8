"""Numbers that change with the step: weights of terms and learning rates."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from cl2cm_jax.errors import UserError

TEACHER_TERMS = ("sentence", "word")


class Stages(NamedTuple):
    """Lengths in steps: the teacher alone first (0 with a headless or joint teacher), then the student."""

    teacher: int
    student: int

    @property
    def total(self) -> int:
        return self.teacher + self.student


def piecewise(text: str, *, field: str, steps: int) -> optax.Schedule:
    """Parses "1.0" or "0:0 20%:1": values at steps or shares of `steps`, linear in between, flat outside.

    Raises:
      UserError: the text does not parse.
    """
    try:
        if ":" not in text:
            return optax.constant_schedule(float(text))
        places, values = [], []
        for knot in text.split():
            place, value = knot.split(":")
            places.append(float(place[:-1]) / 100 * steps if place.endswith("%") else float(place))
            values.append(float(value))
        if places != sorted(places):
            raise ValueError("places must ascend")
    except ValueError as error:
        raise UserError(f"config.{field}={text!r} must be a number or a schedule such as '0:0 20%:1'") from error
    x, y = jnp.asarray(places), jnp.asarray(values)
    return lambda step: jnp.interp(jnp.asarray(step, jnp.float32), x, y)


def term_weights(config: ConfigDict, stages: Stages):  # noqa: ANN201
    """Returns step -> {term: weight}. In a first stage only the teacher's terms count, after it only the others."""
    schedules = {
        name: piecewise(text, field=f"weights.{name}", steps=stages.student) for name, text in config.weights.items()
    }

    def at(step: jax.Array) -> dict[str, jax.Array]:
        weights = {name: jnp.asarray(value(step - stages.teacher)) for name, value in schedules.items()}
        if config.teacher["update"] == "joint":
            return weights
        first = step < stages.teacher
        return {name: jnp.where(first == (name in TEACHER_TERMS), value, 0.0) for name, value in weights.items()}

    return at


def learning_rate(config: ConfigDict, *, start: int, steps: int, warmup: int) -> optax.Schedule:
    """Zero before `start`, linear warm-up, then cosine or constant for `steps` in all, then zero."""
    c = config.optimizer
    peak = c.learning_rate
    if c.schedule == "cosine":
        shape = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))
    else:
        shape = optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
        )

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count)
        inside = (step >= start) & (step < start + steps)
        # warm-up counts from 1, so that the first step already moves
        return jnp.where(inside, jnp.asarray(shape(jnp.maximum(step - start + 1, 0))), 0.0)

    return at
