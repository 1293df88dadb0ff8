"""A configuration as one flat dict, and its field names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns {"train.batch_size": 256, ...}, groups and their fields in alphabetical order."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {f"{prefix}{name}": value}
    return flat


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields of two flattened configs whose values differ; tuples and lists of equal items are equal."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple | list) else value

    pairs = {name: (one.get(name), other.get(name)) for name in [*one, *(name for name in other if name not in one)]}
    return {name: pair for name, pair in pairs.items() if plain(pair[0]) != plain(pair[1])}


def nearest(name: str, known: Sequence[str], *, listed: bool = True) -> str:
    """Returns "; did you mean X?" for a similar name, else if `listed` the list of names when it is short."""
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    return f"; one of {', '.join(known)}" if listed and len(known) <= 12 else ""
