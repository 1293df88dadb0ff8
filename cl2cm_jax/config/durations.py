"""Lengths of time in a configuration, in steps, epochs, examples or percent of the run."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from cl2cm_jax.errors import UserError

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|examples?|%)?\s*")


def steps_of(spec: int | str, *, field: str, batch_size: int, examples: int, total: int | None = None) -> int:
    """Number of steps that `spec` stands for.

    Args:
        spec: 300, "300", "300steps", "10epochs", "50000examples", or "2%" of `total`. Fractions are allowed but for
            steps, and part of a step counts as a whole one.
        field: the field's name in messages.
        batch_size: examples a step.
        examples: examples an epoch; an epoch has examples // batch_size steps (partial batches are dropped).
        total: steps of the whole run, None where a percentage has no meaning.

    Raises:
        UserError: `spec` has another form, or is a percentage without a total.

    Source: ours.
    """
    amount, unit = read_duration(spec, field=field)
    if unit == "epoch":
        return math.ceil(amount * (examples // batch_size))
    if unit == "example":
        return math.ceil(amount / batch_size)
    if unit == "%":
        if total is None:
            raise UserError(f'config.{field}={spec!r}: nothing to take a percentage of; write steps or "10epochs".')
        return math.ceil(amount * total / 100)
    return int(amount)


def read_duration(spec: int | str, *, field: str) -> tuple[Fraction, str]:
    """The amount, exact (a tenth of 30 steps is 3, not a little more), and its unit: step, epoch, example or %.

    Raises:
        UserError: `spec` has another form.
    """
    match = _FORM.fullmatch(str(spec)) if isinstance(spec, int | str) and not isinstance(spec, bool) else None
    unit = (match[2] or "steps").removesuffix("s") if match else ""
    if match is None or (unit == "step" and "." in match[1]):
        raise UserError(f'config.{field}={spec!r} is not a duration; write 300, "10epochs", "50000examples" or "2%".')
    return Fraction(match[1]), unit
