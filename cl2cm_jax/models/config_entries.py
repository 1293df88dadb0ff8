"""Entries of a model folder's config.json, each checked before anything is built from it."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError

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
      family, inside: model_type and object whose defaults in transformers stand for entries that the file leaves out.
    """

    content: Mapping[str, Any]
    folder: Path
    missing: str
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

    def one_of(self, name: str, allowed: Collection[str], *, default: str | None = None) -> str:
        """One of the strings `allowed`."""
        value = self._value(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise self._refused(name, value, f"is not one of {', '.join(allowed)}; use such a model")
        return value

    def width_and_heads(self) -> tuple[int, int]:
        """hidden_size and num_attention_heads, by which the first is divisible."""
        hidden, heads = self.whole("hidden_size"), self.whole("num_attention_heads", maximum=MAX_HEADS)
        if hidden % heads:
            why = f"is not divisible by num_attention_heads={heads}; correct one, or get a fresh copy"
            raise self._refused("hidden_size", hidden, why)
        return hidden, heads

    def within(self, name: str) -> Entries:
        """The entries of the object `name`; these where there is none."""
        content = self.content.get(name, self.content)
        if not isinstance(content, dict):
            raise self._refused(name, content, "is not a JSON object; correct it, or get a fresh copy")
        return replace(self, content=content, family=str(self.content.get("model_type")), inside=name)

    def _value(self, name: str, default: Any) -> Any:
        value = self.content.get(name, default)
        if value is None:
            value = _defaults(self.family or str(self.content.get("model_type")), self.inside).get(name)
        if value is None:
            raise UserError(f"model folder {self.folder}: config.json has no {name!r}{self.missing}")
        return value

    def _refused(self, name: str, value: Any, why: str) -> UserError:
        found = reprlib.repr(value)  # it may be of any size and depth: this one shortens it
        return UserError(f"model folder {self.folder}: config.json: {name}={found} {why}")


@cache
def _defaults(family: str, inside: str) -> Mapping[str, Any]:
    """The entries that transformers takes where a config.json of this model_type leaves them out; {} if it has none.

    Files of earlier versions of transformers hold what differs from these alone.
    """
    try:
        from transformers import CONFIG_MAPPING
    except ImportError:
        return {}
    content = CONFIG_MAPPING[family]().to_dict() if family in CONFIG_MAPPING else {}
    part = content.get(inside)
    return part if isinstance(part, dict) else content
