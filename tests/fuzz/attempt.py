"""Runs a reader on one input: a value or a one-line UserError, in bounded time and memory; all else is a finding."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cl2cm_jax.errors import UserError

SECONDS = 5.0  # of CPU time
MEMORY = 500_000_000  # bytes that the process may grow by
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


class Finding(AssertionError):
    """A reader broke the rules."""


def attempt(target: Target, data: bytes) -> bool:
    """Returns whether the reader accepts the input.

    Raises:
      Finding: it took too long or too much memory, or its error is not one line.
      Exception: any other error of the reader, which is a finding too.
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
        raise Finding(f"the error is not one line: {refusal[:LONGEST_LINE]!r}")
    if seconds > SECONDS:
        raise Finding(f"took {seconds:.1f} s for {len(data):,} bytes")
    if memory > MEMORY:
        raise Finding(f"took {memory:,} bytes of memory for {len(data):,}")
    return refusal is None


def _peak() -> int:
    """Peak memory of the process in bytes; Linux counts in kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
