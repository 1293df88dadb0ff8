"""The search space: which config fields are tuned, and between which values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.config import DURATIONS, check_field, flatten, is_zero, nearest, override
from cl2cm_jax.config.durations import read_duration
from cl2cm_jax.errors import UserError

# field: low..high (uniform), log:low..high (log-uniform), times:low..high (log-uniform factor of the config's value)
# or values a|b|c. The ranges hold what the papers and our experiments used, and about as much again on either side.
SPACE = {
    "weights.transfer": "log:0.25..8",
    "transfer.temperature": "log:0.03..0.3",
    "transfer.student_temperature": "log:0.03..0.3",
    "confidence.kind": "none|softmax|posterior",
    "teacher.steps": "times:0.25..4",
    "teacher.temperature": "log:0.02..0.2",
    "teacher.folds": "1|2",
    "student.dropout": "0..0.7",
    "optimizer.learning_rate": "log:0.0003..0.003",
    "train.steps": "times:0.5..2",
}

# Shared by all trials, as they decide which data is read or how trials are scored.
NOT_TUNED = re.compile(r"(seed|method|train\.select)$|(data|evaluation|mesh|text|vision)\.")

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?:(log|times):)?({_NUMBER})\.\.({_NUMBER})([a-z%]*)")
_EXAMPLE = "weights.transfer=log:0.25..8, student.dropout=0..0.7, train.steps=times:0.5..2 or teacher.folds=1|2"


class Dimension(NamedTuple):
    """One field and the values that it may take."""

    field: str
    own: float | str  # the config's value, as a trial draws it
    present: str  # the config's value as text
    low: float = 0.0  # lower bound, inclusive, of a number, or of a factor if there is a `base`
    high: float = 0.0  # upper bound
    choices: tuple[str, ...] = ()  # texts of a categorical field; () for a number
    log: bool = False  # drawn log-uniformly
    whole: bool = False  # rounded to an integer
    unit: str = ""  # of a duration, such as "epochs"
    base: float | None = None  # the config's number that a factor multiplies; None if the number itself is drawn

    def text(self, drawn: float | str) -> str:
        """A drawn value as `--config.FIELD=` takes it; numbers other than the config's own have four digits."""
        if drawn == self.own:
            return self.present
        if isinstance(drawn, str):
            return drawn
        value = drawn if self.base is None else drawn * self.base
        if self.whole:
            return f"{round(value) if self.base is None else max(round(value), 1)}{self.unit}"
        return f"{value:.4g}"

    @property
    def line(self) -> str:
        """The dimension as --space takes it."""
        if self.choices:
            return f"{self.field}={'|'.join(self.choices)}"
        kind = "times:" if self.base is not None else "log:" if self.log else ""
        unit = self.unit if self.base is None else ""
        return f"{self.field}={kind}{self.low:g}..{self.high:g}{unit}"


def read_space(text: str, config: ConfigDict) -> list[Dimension]:
    """The dimensions of a study. A range is widened to include the config's own value.

    Args:
      text: of --space: a file, or items `field=range` and names of `SPACE`, separated by spaces; "" is the part of
        `SPACE` that applies to the config.
      config: that the fields belong to.

    Raises:
      UserError: a field is unknown or named twice, or a range or value is wrong.
    """
    if not text.strip():
        return [_dimension(field, spec, config) for field, spec in SPACE.items() if _applies(field, config)]
    space: dict[str, Dimension] = {}
    for item in _items(text):
        field, equals, spec = item.partition("=")
        if not equals and field not in SPACE:
            known = list(flatten(config))
            reason = "has no default range; give one" if field in known else f"is not a field{nearest(field, known)}"
            raise UserError(f"--space: {item!r} {reason}, e.g. {_EXAMPLE}")
        if field in space:
            raise UserError(f"--space names {field!r} twice; remove one")
        space[field] = _dimension(field, spec if equals else SPACE[field], config)
    if not space:
        raise UserError(f"--space={text!r} names no field; write e.g. {_EXAMPLE}")
    return list(space.values())


def _items(text: str) -> Iterator[str]:
    """The items of a text, or of the file that it names; comments after "#" are skipped."""
    if not any(mark in text for mark in "= \n") and text not in SPACE:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(
                f"--space={text!r} is not in the default space{nearest(text, list(SPACE))}, and cannot be read as a "
                f"file ({reason})"
            ) from error
    for line in text.splitlines():
        yield from re.sub(r" *= *", "=", line.partition("#")[0]).split()


def _applies(field: str, config: ConfigDict) -> bool:
    """Whether the config reads a field of the default space."""
    weight = config.weights.transfer
    if field == "weights.transfer":
        return not is_zero(weight) and _number(weight) is not None  # a schedule has several weights
    if field.startswith("transfer."):
        return not is_zero(weight)
    if field.startswith("teacher.") and config.teacher.head == "none":
        return False
    if field == "teacher.steps":
        return config.teacher.schedule == "frozen"
    return field != "teacher.folds" or not config.teacher.text.trainable


def _dimension(field: str, spec: str, config: ConfigDict) -> Dimension:
    flat = flatten(config)
    if field not in flat:
        raise UserError(f"--space: config.{field} is not a field{nearest(field, list(flat))}")
    if NOT_TUNED.match(field):
        raise UserError(
            f"--space: {field} decides which data is read or how a trial is scored, which must be the same for all "
            f"trials; remove it, or write --config.{field}=..."
        )
    if match := _RANGE.fullmatch(spec):
        return _range(field, match, flat[field])
    if ".." in spec:
        raise UserError(f"--space: {field}={spec!r} is not a range; write e.g. {_EXAMPLE}")
    values = [value.strip() for value in spec.split("|") if value.strip()]
    if len(values) < 2:
        raise UserError(
            f"--space: {field}={spec!r} is a single value; write --config.{field}={spec}, or e.g. {_EXAMPLE}"
        )
    own = _as_text(flat[field])
    choices = list(dict.fromkeys(_canonical(field, value, config) for value in values))
    return Dimension(field, own, own, choices=tuple(choices if own in choices else [own, *choices]))


def _canonical(field: str, text: str, config: ConfigDict) -> str:
    """A value's text as `_as_text` writes it."""
    changed = config.copy_and_resolve_references()
    override(changed, field, text)
    value = flatten(changed)[field]
    check_field(field, value)
    return _as_text(value)


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple | list) else str(value)


def _range(field: str, match: re.Match[str], present: Any) -> Dimension:
    kind, low, high, unit = match[1], float(match[2]), float(match[3]), match[4]

    def error(reason: str) -> UserError:
        return UserError(f"--space: {field}={match[0]!r} {reason}")

    if not math.isfinite(high - low):
        raise error("must have finite bounds")
    own, own_unit, whole = _own(field, present)
    if own is None:
        raise error(f"is a range, but the config has {present!r}, which is not a number; list values a|b|c")
    if unit not in ("", own_unit):
        raise error(f"has another unit than the config's {present!r}; use the same unit")
    if kind and low <= 0 or low >= high:
        raise error(f"must go from a lower number{' above 0' if kind else ''} to a higher one")
    if kind and own <= 0:
        raise error(f"needs a number above 0 in the config, which has {present!r}; leave out {kind}:")
    dimension = Dimension(field, own, str(present), log=bool(kind), whole=whole, unit=own_unit)
    if kind == "times":
        return dimension._replace(own=1.0, low=min(low, 1.0), high=max(high, 1.0), base=own)
    if whole and not (low.is_integer() and high.is_integer()):
        raise error("must go from an integer to an integer")
    for value in (low, high):
        check_field(field, value if isinstance(present, int | float) else f"{value:g}{own_unit}")
    return dimension._replace(low=min(low, own), high=max(high, own))


def _own(field: str, present: Any) -> tuple[float | None, str, bool]:
    """(the config's number or None, its unit, whether it is an integer)."""
    if isinstance(present, bool):
        return None, "", False
    if isinstance(present, int | float):
        return float(present), "", isinstance(present, int)
    if field in DURATIONS:
        amount, _ = read_duration(present, field=field)
        return float(amount), present.strip().lstrip("0123456789. "), True
    return _number(present) if field.startswith("weights.") else None, "", False


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
