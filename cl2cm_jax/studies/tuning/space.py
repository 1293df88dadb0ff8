"""Which fields are tuned, and between which values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cl2cm_jax.config import check_field, flatten, is_zero, nearest, override
from cl2cm_jax.errors import UserError

# field: low..high (evenly), log:low..high (evenly in the logarithm), times:low..high (the config's value times so much,
# evenly in the logarithm), or values a|b|c. The ranges are ours: they hold what the papers and our trials used, and
# about as much again to either side.
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

# Read once for all trials, which would not apply another value; or part of how trials are scored.
NOT_TUNED = re.compile(r"(seed|method|train\.select)$|(data|evaluation|mesh|text|vision)\.")

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?:(log|times):)?({_NUMBER})\.\.({_NUMBER})([a-z%]*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([a-z]*|%)")
_EXAMPLE = "weights.transfer=log:0.25..8, student.dropout=0..0.7, train.steps=times:0.5..2 or teacher.folds=1|2"


class Dimension(NamedTuple):
    """One field and the values that it may take.

    Attributes:
      field: its name.
      own: what the config has, as the number or text that a trial draws, and
      present: the same as its text.
      low, high: of a number, both included; of "times" they are factors.
      choices: the texts of a field that takes one of them; () for a number.
      log: drawn evenly in the logarithm.
      whole: the number is a whole one.
      unit: what stands behind the number of a duration, such as "epochs".
      base: what a factor is taken of; 1 where the number is the value.
    """

    field: str
    own: float | str
    present: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()
    log: bool = False
    whole: bool = False
    unit: str = ""
    base: float | None = None

    def text(self, drawn: float | str) -> str:
        """What a trial drew, as `--config.FIELD=` takes it; numbers but the config's own have four digits."""
        if drawn == self.own:
            return self.present
        if self.choices or isinstance(drawn, str):
            return str(drawn)
        value = drawn if self.base is None else drawn * self.base
        if self.whole:
            return f"{max(round(value), 1) if self.base is not None else round(value)}{self.unit}"
        return f"{value:.4g}"

    @property
    def line(self) -> str:
        """The dimension as it is typed."""
        if self.choices:
            return f"{self.field}={'|'.join(self.choices)}"
        kind = "times:" if self.base is not None else "log:" if self.log else ""
        unit = self.unit if self.base is None else ""
        return f"{self.field}={kind}{self.low:g}..{self.high:g}{unit}"


def read_space(text: str, config: ConfigDict) -> list[Dimension]:
    """The dimensions of a study.

    A range that does not hold the config's own value is widened to it, so that the config is a point of the space.

    Args:
      text: of --space: a file, or items `field=range` and names of `SPACE` with spaces between; "" is all of `SPACE`
        that matters to the config.
      config: whose fields they are.

    Raises:
      UserError: a field is unknown or named twice, or a range or value is wrong.
    """
    if not text.strip():
        return [_dimension(field, spec, config) for field, spec in SPACE.items() if _matters(field, config)]
    found: list[Dimension] = []
    for item in _items(text):
        field, equals, spec = item.partition("=")
        if not equals and field not in SPACE:
            raise UserError(f"--space: {item!r} is no range and {_not_known(field, config)}, e.g. {_EXAMPLE}")
        if any(field == dimension.field for dimension in found):
            raise UserError(f"--space names {field!r} twice; leave one out")
        found.append(_dimension(field, spec if equals else SPACE[field], config))
    if not found:
        raise UserError(f"--space={text!r} names no field; write e.g. {_EXAMPLE}")
    return found


def _items(text: str) -> Iterator[str]:
    """The items of a file, without what follows "#", or of the text itself."""
    path = Path(text)
    if not any(mark in text for mark in "= \n") and text not in SPACE:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or "no UTF-8"
            raise UserError(
                f"--space={str(path)!r} is no field of the default space{nearest(text, list(SPACE))}, and as a file it "
                f"cannot be read ({what})"
            ) from error
    for line in text.splitlines():
        yield from re.sub(r" *= *", "=", line.partition("#")[0]).split()


def _not_known(field: str, config: ConfigDict) -> str:
    if field in flatten(config):
        return "has none in the default space; give one"
    return f"no field{nearest(field, list(flatten(config)))}"


def _matters(field: str, config: ConfigDict) -> bool:
    """Whether the default space has a field for this config: what nothing reads is left out."""
    if not field.startswith(("teacher.", "transfer.", "weights.transfer")):
        return True
    weight = config.weights.transfer
    if is_zero(weight) and field.startswith(("transfer.", "weights.transfer")):
        return False
    if field == "weights.transfer":
        return _number(weight) is not None  # a schedule has more than one
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
            f"--space: {field} decides what is trained on or how a trial is scored, and is the same for all; leave it "
            f"out, or write --config.{field}=..."
        )
    if _RANGE.fullmatch(spec):
        return _range(field, spec, flat[field])
    if ".." in spec:
        raise UserError(f"--space: {field}={spec!r} is not a range; write e.g. {_EXAMPLE}")
    values = [value.strip() for value in spec.split("|") if value.strip()]
    if len(values) < 2:
        raise UserError(
            f"--space: {field}={spec!r} leaves no choice; write --config.{field}={spec}, or e.g. {_EXAMPLE}"
        )
    choices = list(dict.fromkeys(_canonical(field, value, config) for value in values))
    own = _as_text(flat[field])
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


def _range(field: str, spec: str, present: Any) -> Dimension:
    match = _RANGE.fullmatch(spec)
    assert match is not None
    kind, low, high, unit = match[1] or "", float(match[2]), float(match[3]), match[4]
    if not math.isfinite(high - low):
        raise UserError(f"--space: {field}={spec!r} must have finite ends")
    own, own_unit, whole = _own(field, spec, present)
    if unit and own_unit != unit:
        raise UserError(f"--space: {field}={spec!r}, but the config has {present!r}; give both the same unit")
    if kind and low <= 0 or low >= high:
        above = " above 0" if kind else ""
        raise UserError(f"--space: {field}={spec!r} must go from a lower number{above} to a higher one")
    if kind == "times":
        if own <= 0:
            raise UserError(f"--space: {field}={spec!r}: the config has {present!r}, of which times makes nothing else")
        return Dimension(
            field, 1.0, str(present), min(low, 1.0), max(high, 1.0), log=True, whole=whole, unit=own_unit, base=own
        )
    if whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"--space: {field}={spec!r} must go from a whole number to a whole one")
    if kind == "log" and own <= 0:
        raise UserError(
            f"--space: {field}={spec!r}: the config has {present!r}, which has no logarithm; leave out log:"
        )
    for value in (low, high):
        check_field(field, value if isinstance(present, int | float) else f"{value:g}{own_unit}")
    return Dimension(
        field, own, str(present), min(low, own), max(high, own), log=kind == "log", whole=whole, unit=own_unit
    )


def _own(field: str, spec: str, present: Any) -> tuple[float, str, bool]:
    """The number that the config has, its unit, and whether it is a whole one."""
    if isinstance(present, int | float) and not isinstance(present, bool):
        return float(present), "", isinstance(present, int)
    weight = field.startswith("weights.")  # "1.0", where other texts that begin with a number are durations
    duration = _DURATION.fullmatch(str(present)) if isinstance(present, str) and not weight else None
    if duration is not None:
        return float(duration[1]), duration[2], True
    number = _number(present) if weight else None
    if number is None:
        raise UserError(f"--space: {field}={spec!r}: the config has {present!r}, which is no number; list values a|b|c")
    return number, "", False


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def lines(space: Sequence[Dimension]) -> list[str]:
    """The dimensions as they are typed, to print and to compare."""
    return [dimension.line for dimension in space]
