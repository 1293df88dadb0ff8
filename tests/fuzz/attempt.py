"""One input given to one reader: a value or a refusal in one line, in bounded time and memory; all else is a find."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cl2cm_jax.errors import UserError

SECONDS = 5.0  # of the processor
MEMORY = 1_000_000_000  # bytes that the process may grow by
LONGEST_LINE = 3000  # characters of a refusal


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader.

    Attributes:
      read: reads the bytes as a file in an empty folder; returns a value or raises a `UserError`.
      seeds: valid inputs.
    """

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], Iterable[bytes]]


class Find(AssertionError):
    """What a reader must not do."""


def attempt(target: Target, data: bytes) -> bool:
    """Whether the reader takes the input.

    Raises:
      Find: it took too long or too much memory, or its refusal is no line.
      Exception: what else the reader raises, which is a find too.
    """
    with tempfile.TemporaryDirectory() as folder:
        memory, start = _peak(), time.process_time()
        try:
            target.read(data, Path(folder))
            refusal = None
        except UserError as error:
            refusal = str(error)
        seconds, memory = time.process_time() - start, _peak() - memory
    if refusal is not None and ("\n" in refusal or not 0 < len(refusal) < LONGEST_LINE):
        raise Find(f"the refusal is no line: {refusal[:LONGEST_LINE]!r}")
    if seconds > SECONDS:
        raise Find(f"took {seconds:.1f} s for {len(data):,} bytes")
    if memory > MEMORY:
        raise Find(f"took {memory:,} bytes of memory for {len(data):,}")
    return refusal is None


def _peak() -> int:
    """Most memory that the process has held, in bytes; Linux counts in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
