"""Durations in a configuration, in steps, epochs, examples or percent of the training."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from cl2cm_jax.errors import UserError

_FORM = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(steps?|epochs?|examples?|%)?")


def steps_of(spec: int | str, *, field: str, batch_size: int, examples: int, total: int | None = None) -> int:
    """Number of steps of a duration, rounded up.

    Args:
        spec: 300, "300", "300steps", "10epochs", "50000examples", or "2%" of `total`; fractions except of steps.
        field: the field's name in messages.
        batch_size: examples a step.
        examples: examples an epoch; an epoch has examples // batch_size steps (partial batches are dropped).
        total: steps of the whole run, None where a percentage has no meaning.

    Raises:
        UserError: `spec` has another form, or is a percentage without a total.
    """
    amount, unit = read_duration(spec, field=field)
    if unit == "%" and total is None:
        raise UserError(f'config.{field}={spec!r}: nothing to take a percentage of; write steps or "10epochs".')
    per_unit = {"step": 1, "epoch": examples // batch_size, "example": Fraction(1, batch_size)}
    return math.ceil(amount * (Fraction(total or 0, 100) if unit == "%" else per_unit[unit]))


def read_duration(spec: int | str, *, field: str) -> tuple[Fraction, str]:
    """The exact amount (a tenth of 30 steps is 3, not a little more), and its unit: step, epoch, example or %.

    Raises:
        UserError: `spec` has another form.
    """
    match = _FORM.fullmatch(str(spec).strip()) if isinstance(spec, int | str) and not isinstance(spec, bool) else None
    unit = (match[2] or "steps").removesuffix("s") if match else ""
    if match is None or (unit == "step" and "." in match[1]):
        raise UserError(f'config.{field}={spec!r} is not a duration; write 300, "10epochs", "50000examples" or "2%".')
    return Fraction(match[1]), unit
