"""How a field is declared: its default, whose type is the field's, and the values that it accepts."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cl2cm_jax.config.durations import read_duration
from cl2cm_jax.config.flat import nearest
from cl2cm_jax.config.knots import read_knots
from cl2cm_jax.config.plugins import check_plugin
from cl2cm_jax.errors import UserError

_MOST = 2**31 - 1  # of whole numbers without a limit of their own
AUTO = "auto"  # of `prompt`: the one that the model folder names, chosen when a run begins
TEXT = "{query}"  # in a prompt: the text itself
_PLACEHOLDER = re.compile(r"\{[^{}]{0,80}\}")


class Field(NamedTuple):
    """A field of a configuration.

    Attributes:
      default: its default value.
      check: takes the field's name and a value of its type; raises UserError where the value is not accepted.
      package: of a field that names plugins, where the built-in ones are.
      minimum_steps: of a duration, the fewest steps; None for other fields.
      of_training: of a duration, whether a percentage is one of `train.steps`.
      is_place: whether it names a file or folder; its content, not its place, is part of a run.
    """

    default: Any
    check: Callable[[str, Any], object] = lambda name, value: None
    package: str = ""
    minimum_steps: int | None = None
    of_training: bool = True
    is_place: bool = False


def wrong_type(name: str, value: object, wanted: type) -> UserError:
    """The error of a value of another type than the field's."""
    kind = {"str": "text", "int": "a whole number", "float": "a number", "bool": "True or False"}[wanted.__name__]
    return UserError(f"config.{name}={shown(value)} must be {kind}")


def shown(value: object) -> str:
    """A value for a message; of a list or an object, which may be nested to any depth, the beginning."""
    return repr(value) if isinstance(value, str | int | float) else reprlib.repr(value)


def place(default: str = "") -> Field:
    """A file or folder, named from the current folder on."""
    return Field(default, is_place=True)


def choice(*values: str) -> Field:
    """One of several words; the first is the default."""
    return Field(values[0], lambda name, value: _check_choice(name, value, values))


def choices(default: tuple[str, ...], *, of: tuple[str, ...]) -> Field:
    """Any number of several words."""

    def check(name: str, value: tuple[str, ...]) -> None:
        for item in value:
            _check_choice(name, item, of)

    return Field(default, check)


def number(default: float, minimum: float, maximum: float = math.inf) -> Field:
    """A number between two limits, both accepted; a whole number where the default is one."""
    most = _MOST if isinstance(default, int) and maximum == math.inf else maximum

    def check(name: str, value: float) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name}={value} must be a finite number")
        if not minimum <= value <= most:
            lowest = maximum == math.inf and value < minimum
            limits = f"at least {minimum:g}" if lowest else f"between {minimum:g} and {most:g}"
            raise UserError(f"config.{name}={value} must be {limits}")

    return Field(default, check)


def duration(default: str, *, minimum: int = 1, of_training: bool = True) -> Field:
    """A length in steps, epochs or examples, or a percentage of the training."""
    check = lambda name, value: read_duration(value, field=name)  # noqa: E731
    return Field(default, check, minimum_steps=minimum, of_training=of_training)


def weight(default: str) -> Field:
    """A weight: a number of 0 or more, or a schedule "0:0 20%:1" (step or share : value)."""
    return Field(default, lambda name, value: read_knots(value, field=name))


def plugin(package: str, default: str | tuple[str, ...], *, also: tuple[str, ...] = ()) -> Field:
    """The name of a plugin, or several: a module of `package`, one of `also`, or a dotted name of any module.

    A dotted name is checked when it is loaded: a workdir must open where nothing loads it, and no config import it.
    """

    def check(name: str, value: str | tuple[str, ...]) -> None:
        for item in (value,) if isinstance(value, str) else value:
            if "." not in item:
                check_plugin(package, item, field=f"config.{name}", extra=also)

    return Field(default, check, package=package)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"config.{name}={value!r} is unknown{nearest(value, known)}")


def prompt(default: str) -> Field:
    """What stands before every caption and query, as some encoders were trained."""
    return Field(default, lambda name, value: check_prompt(value, source=f"config.{name}"))


def check_prompt(prompt: str, *, source: str) -> None:
    """Refuses placeholders other than `TEXT`, and text after it, which would be cut off with a long text.

    Args:
      prompt: what stands before a text.
      source: the field or file that it comes from, for messages.

    Raises:
      UserError: it has one of these.
    """
    before = prompt.removesuffix(TEXT)
    unknown = next((found for found in _PLACEHOLDER.findall(before) if found != TEXT), None)
    if unknown is not None:
        raise UserError(
            f"{source}={prompt!r} has the placeholder {unknown}; {TEXT}, the text itself, is the only one: replace it"
        )
    if TEXT in before:
        raise UserError(f"{source}={prompt!r} goes on after {TEXT}, where a long text is cut; put {TEXT} at the end")


def before_text(prompt: str) -> str:
    """A prompt without `TEXT`: what is put before a text."""
    return prompt.removesuffix(TEXT)
