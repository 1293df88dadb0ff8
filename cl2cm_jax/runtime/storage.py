"""Arrays that are filled step by step, in memory or resumable in a folder; and locks between processes.

space = OnDisk(folder)
rows = space.array("vision", (n, 49, 1280), np.float32, job="vision")
for start in range(space.done("vision"), n, 64):
    rows[start : start + 64] = ...
    space.reached("vision", start + 64)
space.flush()
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import write_text

_PROGRESS = "progress.json"
_SECONDS = 20.0  # between two writes of the progress
_SHORT = 1.0  # second of waiting for another process that is not told
_SUMS, _ROWS = "checksums", 1024  # key in the file of the progress; rows that are compared at a time


Written = Callable[[int, int], Sequence[np.ndarray]]  # (start, stop) -> what a job wrote between them, row by row


class InMemory:
    """Arrays in memory."""

    def array(self, name: str, shape: Sequence[int], dtype: DTypeLike, *, job: str) -> np.ndarray:
        """An array of zeros, or of what the job that fills it has written before."""
        del name, job
        return np.zeros(shape, dtype)

    def done(self, job: str, written: Written | None = None) -> int:
        """Progress of a job, in its own units; 0 if what it has `written` is damaged."""
        del job, written
        return 0

    def reached(self, job: str, count: int) -> None:
        """Sets the progress of a job: everything that it has written is complete up to here."""


class OnDisk(InMemory):
    """Arrays as .npy files in a folder, used by this object alone; a killed job is resumed.

    `on_progress` is called with a job and its progress every 20 seconds.
    """

    def __init__(self, folder: Path, *, on_progress: Callable[[str, int], None] = lambda job, count: None):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._on_progress = folder, on_progress
        self._arrays: dict[str, np.ndarray] = {}
        self._written = time.monotonic()
        self._progress: dict[str, int] = {}
        self._sums: dict[str, tuple[int, list[int]]] = {}  # by job: a progress, and the CRC-32 of each array up to it
        self._writings: dict[str, Written] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
            self._sums = {job: (count, crcs) for job, (count, crcs) in kept.pop(_SUMS, {}).items()}
            self._progress = {job: int(count) for job, count in kept.items()}

    def array(self, name: str, shape: Sequence[int], dtype: DTypeLike, *, job: str) -> np.ndarray:
        """See `InMemory`; memory-mapped. Raises UserError if the disk has no room for it."""
        path = self._folder / f"{name}.npy"
        array = self._existing(path, tuple(shape), np.dtype(dtype))
        if array is None:
            self._sums.pop(job, None)
            if self._progress.pop(job, 0):  # of an array of another shape
                self.flush()
            array = _new(path, tuple(shape), np.dtype(dtype))
        self._arrays[name] = array
        return array

    def done(self, job: str, written: Written | None = None) -> int:
        """See `InMemory`."""
        if written is None:
            return self._progress.get(job, 0)
        self._writings[job] = written
        if job in self._sums and not self._is_whole(job, written):
            logging.warning("%s: what was computed of %s is damaged, and is computed again", self._folder, job)
            self._progress.pop(job, 0)
            del self._sums[job]
        return self._progress.get(job, 0)

    def _is_whole(self, job: str, written: Written) -> bool:
        try:
            found = self._added((0, []), written, self._progress.get(job, 0))
        except (OSError, ValueError, EOFError, IndexError):  # a file is gone, or of another shape
            return False
        return found == self._sums[job]

    @staticmethod
    def _added(before: tuple[int, list[int]], written: Written, count: int) -> tuple[int, list[int]]:
        """The checksums up to `count`, of those up to an earlier progress."""
        done, crcs = before
        for start in range(done, count, _ROWS):
            arrays = written(start, min(start + _ROWS, count))
            crcs = [
                zlib.crc32(np.ascontiguousarray(x).data, crc)
                for x, crc in zip(arrays, crcs or [0] * len(arrays), strict=True)
            ]
        return count, crcs

    def reached(self, job: str, count: int) -> None:
        """See `InMemory`; written every 20 seconds, so that a killed process loses at most these."""
        self._progress[job] = count
        if time.monotonic() - self._written >= _SECONDS:
            self.flush()
            self._on_progress(job, count)
            self._written = time.monotonic()

    def flush(self) -> None:
        """Writes the arrays to the disk, then the progress."""
        for array in self._arrays.values():
            cast(np.memmap, array).flush()
        for job, written in self._writings.items():
            if count := self._progress.get(job, 0):
                self._sums[job] = self._added(self._sums.get(job, (0, [])), written, count)
        write_text(self._folder / _PROGRESS, json.dumps(self._progress | {_SUMS: self._sums}))

    @staticmethod
    def _existing(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
        try:
            array = np.load(path, mmap_mode="r+", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # none, or an unfinished one
            return None
        return array if array.shape == shape and array.dtype == dtype else None


def _new(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros with its disk space allocated, so that a full disk is an error now and not a SIGBUS later."""
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if array.nbytes and hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent} has no room for {path.name}, {math.prod(shape) * dtype.itemsize / 1e9:.1f} GB "
            f"({error.strerror}); free some, or set config.data.dir to a folder on a larger disk",
            id="no-disk-space",
        ) from error
    return array


@contextlib.contextmanager
def exclusive(path: Path, *, busy: str = "") -> Iterator[None]:
    """Holds a lock file, which the system releases when its process ends, however it ends.

    If another process holds it, waits for that one, or raises UserError with the message `busy` if given.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0 if busy else _SHORT)
    except Timeout as error:
        if busy:
            raise UserError(busy) from error
        logging.warning("another process is working on %s; waiting for it", path.with_suffix(""))
        lock.acquire()
    except FileNotFoundError as error:  # as /proc answers
        raise UserError(f"{path.parent} cannot be made ({error.strerror}); name another place") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows: after the release
            path.unlink()  # before it: a waiting process sees that the file is gone and creates a new one
        lock.release()
