"""A configuration as one flat dict, and its field names."""

from __future__ import annotations

import difflib

from ml_collections import ConfigDict


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Returns {"train.batch_size": 256, ...} in the order of definition."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(ours: dict[str, object], theirs: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Fields of two flattened configs whose values differ; tuples and lists of equal items are equal."""

    def plain(value: object) -> object:
        return list(value) if isinstance(value, tuple | list) else value

    names = [*ours, *(name for name in theirs if name not in ours)]
    pairs = {name: (ours.get(name), theirs.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if plain(pair[0]) != plain(pair[1])}


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns "; did you mean X?" for a near name, else the list of names when it is short."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; one of {', '.join(known)}" if len(known) <= 12 else ""
