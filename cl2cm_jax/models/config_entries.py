"""Entries of a model folder's config.json, each checked before anything is built from it."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.files.hub_library import transformers_library

# Far above every published model, and far below what exhausts memory.
MAX_LAYERS, MAX_WIDTH, MAX_VOCABULARY, MAX_PIXELS = 1_000, 1_000_000, 10_000_000, 10_000
MAX_HEADS = 64  # of attention: their scores take memory of which the weights say nothing


@dataclass(frozen=True, kw_only=True)
class Entries:
    """A JSON object whose entries are read by type.

    Every method raises a `UserError` that names folder, entry and the value found.

    Attributes:
      content: the object.
      folder: the model folder, for messages.
      missing: end of the message about a missing entry.
      file: its name, for messages.
      family, inside: model_type and object whose defaults in transformers stand for entries that the file leaves out.
    """

    content: Mapping[str, Any]
    folder: Path
    missing: str
    file: str = "config.json"
    family: str = ""
    inside: str = ""

    def whole(self, name: str, *, maximum: int = MAX_WIDTH, minimum: int = 1, default: int | None = None) -> int:
        """An integer from `minimum` to `maximum`; neither 384.0 nor true is one."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            why = f"is not a whole number from {minimum} to {maximum}; correct it, or get a fresh copy"
            raise self._refused(name, value, why)
        return value

    def epsilon(self, name: str, *, default: float) -> float:
        """A number above 0 and up to 1, as a norm adds it to a variance."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self._refused(name, value, "is not a number above 0 and up to 1; correct it, or get a fresh copy")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth value."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._refused(name, value, "is neither true nor false; correct it, or get a fresh copy")
        return value

    def positive(self, name: str, *, default: float | None = None, maximum: float = 1e12) -> float:
        """A number above 0 and up to `maximum`."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= maximum:
            why = f"is not a number above 0 and up to {maximum:g}; correct it, or get a fresh copy"
            raise self._refused(name, value, why)
        return float(value)

    def each_of(self, name: str, allowed: Collection[str], *, count: int) -> list[str]:
        """A list of `count` strings, each one of `allowed`."""
        value = self._value(name, None)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(isinstance(one, str) and one in allowed for one in value)
        ):
            why = f"is not a list of {count} of {', '.join(allowed)}; correct it, or get a fresh copy"
            raise self._refused(name, value, why)
        return value

    def one_of(
        self,
        name: str,
        allowed: Collection[str],
        *,
        default: str | None = None,
        otherwise: str = "use such a model",
    ) -> str:
        """One of the strings `allowed`; `otherwise` is what to do if it is another one."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise self._refused(name, value, f"is not one of {', '.join(allowed)}; {otherwise}")
        return value

    def width_and_heads(self) -> tuple[int, int]:
        """hidden_size and num_attention_heads, by which the first is divisible."""
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads", maximum=MAX_HEADS)
        if hidden % heads:
            why = f"is not divisible by num_attention_heads={heads}; correct one, or get a fresh copy"
            raise self._refused("hidden_size", hidden, why)
        return hidden, heads

    def even(self, name: str, size: int) -> int:
        """The size of a head that follows from `name`, whose elements are turned in pairs."""
        if size % 2:
            raise self._refused(name, self.content.get(name), f"makes heads of {size}, which is odd; get a fresh copy")
        return size

    def rotary_kind(self) -> None:
        """Refuses rotary positions that are scaled to longer texts; these are the entries about them."""
        for name in ("rope_type", "type"):
            if self.has(name):
                self.one_of(name, ("default",))

    def within(self, name: str) -> Entries:
        """The entries of the object `name`; these where there is none."""
        content = self.content.get(name, self.content)
        if not isinstance(content, dict):
            raise self._refused(name, content, "is not a JSON object; correct it, or get a fresh copy")
        return replace(self, content=content, family=str(self.content.get("model_type")), inside=name)

    def part(self, name: str) -> Entries:
        """The entries of the object `name`; none where it is missing or null."""
        if self.content.get(name) is None:
            return replace(self, content={})
        return self.within(name)

    def has(self, name: str) -> bool:
        """Whether there is an entry of this name, other than null."""
        return self.content.get(name) is not None

    def _value(self, name: str, default: Any) -> Any:
        value = self.content.get(name, default)
        if value is None:
            value = _defaults(self.family or str(self.content.get("model_type")), self.inside).get(name)
        if value is None:
            raise UserError(f"model folder {self.folder}: {self.file} has no {name!r}{self.missing}")
        return value

    def _refused(self, name: str, value: Any, why: str) -> UserError:
        found = reprlib.repr(value)  # it may be of any size and depth: this one shortens it
        return UserError(f"model folder {self.folder}: {self.file}: {name}={found} {why}")


@cache
def _defaults(family: str, inside: str) -> Mapping[str, Any]:
    """The entries that transformers takes where a config.json of this model_type leaves them out; {} if it has none.

    Files of earlier versions of transformers hold what differs from these alone.
    """
    try:
        known = transformers_library().CONFIG_MAPPING
    except UserError:  # it is not installed
        return {}
    content = known[family]().to_dict() if family in known else {}
    part = content.get(inside)
    return part if isinstance(part, dict) else content
