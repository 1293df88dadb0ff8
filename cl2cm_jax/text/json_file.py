"""JSON of unknown origin: the memory and time that it takes are bounded before it is parsed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from cl2cm_jax.text.regular_file import open_regular

LARGEST = 10_000_000  # bytes of a file
MOST_OF_A_RECORD = 100_000  # values of one line or of one sample
MOST_VALUES = 500_000  # in lists and objects; an empty one takes 3 bytes of a file and 60 of memory
_BITS_64 = 2**63


def read_json(path: Path, *, largest: int = LARGEST, values: int = MOST_VALUES, strict: bool = True) -> Any:
    """Reads a JSON file of at most `largest` bytes; see `parse_json`.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is too large or damaged; the message is short.
    """
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return parse_json(content, values=values, strict=strict)


def parse_json(content: bytes | str, *, values: int = MOST_VALUES, strict: bool = True, once: bool = False) -> Any:
    """Parses JSON, bytes as UTF-8, with at most `values` values.

    Args:
      content: the text.
      values: counted by commas and opening brackets, those in strings included.
      strict: refuse NaN, infinite numbers, whole numbers of more than 64 bits and a name that an object has twice.
      once: refuse the last of these in any case.

    Raises:
      ValueError: it is damaged, nested too deeply, or has more values.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    count = sum(map(text.count, ",[{"))
    if count > values:
        raise ValueError(f"it has about {count:,} values, and {values:,} are read")
    checks: Any = {"parse_float": _float, "parse_int": _int, "parse_constant": _constant} if strict else {}
    try:
        return json.loads(text, object_pairs_hook=_object if strict or once else None, **checks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice[:80]!r} is there twice")
    return found


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


def _int(text: str) -> int:
    if len(text) > 20 or not -_BITS_64 <= (number := int(text)) < _BITS_64:
        raise ValueError(f"{text[:40]} is not a number of 64 bits")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")
