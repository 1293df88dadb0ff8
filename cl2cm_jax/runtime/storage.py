"""Arrays that are filled bit by bit: in memory, or in a folder where the next process goes on with what it finds.

space = OnDisk(folder)
rows = space.array("vision", (n, 49, 1280), np.float32, job="vision")
for start in range(space.done("vision"), n, 64):
    rows[start : start + 64] = ...
    space.reached("vision", start + 64)
space.flush()

Source: ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import write_text

_PROGRESS = "progress.json"
_SECONDS = 20.0  # between two notes of how far a job has got


class InMemory:
    """Arrays in memory, which end with the process."""

    def array(self, name: str, shape: Sequence[int], dtype: DTypeLike, *, job: str) -> np.ndarray:
        """An array of zeros, or what the job that fills it has left there."""
        del name, job
        return np.zeros(shape, dtype)

    def done(self, job: str) -> int:
        """How far a job has got, in units of its own."""
        del job
        return 0

    def reached(self, job: str, count: int) -> None:
        """Notes how far a job has got; what it has written until now is kept."""


class OnDisk(InMemory):
    """Arrays as .npy files in a folder, which is made; a job that was killed goes on where it was.

    Args:
      folder: that belongs to this object alone.
      told: is called with a job and how far it has got, every 20 seconds.
    """

    def __init__(self, folder: Path, *, told: Callable[[str, int], None] = lambda job, count: None):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._told = folder, told
        self._arrays: dict[str, np.ndarray] = {}
        self._noted = time.monotonic()
        self._progress: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            self._progress = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))

    def array(self, name: str, shape: Sequence[int], dtype: DTypeLike, *, job: str) -> np.ndarray:
        """See `InMemory`; memory-mapped, with its room on the disk set aside.

        Raises:
          UserError: there is no room for it.
        """
        path = self._folder / f"{name}.npy"
        array = self._existing(path, tuple(shape), np.dtype(dtype))
        if array is None:
            if self._progress.pop(job, 0):  # what was done was done to another array
                self.flush()
            array = _new(path, tuple(shape), np.dtype(dtype))
        self._arrays[name] = array
        return array

    def done(self, job: str) -> int:
        """See `InMemory`."""
        return self._progress.get(job, 0)

    def reached(self, job: str, count: int) -> None:
        """See `InMemory`; noted every 20 seconds, which is what a killed process loses."""
        self._progress[job] = count
        if time.monotonic() - self._noted >= _SECONDS:
            self.flush()
            self._told(job, count)
            self._noted = time.monotonic()

    def flush(self) -> None:
        """Brings to the disk what was reached: first the rows, then that they are there."""
        for array in self._arrays.values():
            cast(np.memmap, array).flush()
        write_text(self._folder / _PROGRESS, json.dumps(self._progress))

    @staticmethod
    def _existing(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        try:
            array = np.load(path, mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none, or killed while it was made
            return None
        return array if array.shape == shape and array.dtype == dtype else None


def _new(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros whose room is set aside: a full disk is an error now, not a killed process later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if array.nbytes and hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            path.unlink()
            raise UserError(
                f"{path.parent} has no room for {path.name}, {array.nbytes / 1e9:.1f} GB ({error.strerror}); "
                "free some, or set config.data.dir to a folder on a larger disk"
            ) from error
    return array


@contextlib.contextmanager
def exclusive(path: Path, *, busy: str = "") -> Iterator[None]:
    """Holds a lock file that one process at a time can hold; it is free again when its process ends, however.

    Args:
      path: the file; its folder is made.
      busy: what is wrong where another process holds it; "" waits for that one.

    Raises:
      UserError: another process holds it and `busy` says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if busy:
                raise UserError(busy) from error
            logging.info("another process is at work on %s; waiting for it", path.with_suffix(""))
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
