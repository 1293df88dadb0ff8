"""Weights in a configuration: a number, or a schedule of knots."""

from __future__ import annotations

import math
from typing import NamedTuple

from cl2cm_jax.errors import UserError


class Knot(NamedTuple):
    """A value at a step, or at a share of the steps."""

    place: float
    is_share: bool
    value: float


def read_knots(text: str, *, field: str) -> list[Knot]:
    """The knots of "0:0 20%:1" (step or share : value); of a number like "1.0" one at step 0.

    Raises:
      UserError: the text does not parse, or a value is negative or not finite.
    """
    try:
        return [_knot(part) for part in text.split()] if ":" in text else [Knot(0.0, False, _not_negative(text))]
    except ValueError as error:
        raise UserError(f"config.{field}={text!r} must be 0 or more, or a schedule such as '0:0 20%:1'") from error


def is_zero(weight: str) -> bool:
    """Whether a weight ("1.0", or a schedule) is the number 0, so that its term need not be computed."""
    try:
        return float(weight) == 0.0
    except ValueError:
        return False


def _knot(text: str) -> Knot:
    place, value = text.split(":")
    is_share = place.endswith("%")
    at = _not_negative(place.removesuffix("%"))
    return Knot(at / 100 if is_share else at, is_share, _not_negative(value))


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("must be finite and not negative")
    return value
