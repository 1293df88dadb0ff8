"""Shows where every thread stands when no step completes for a long time."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from pathlib import Path
from typing import TextIO


class Watchdog:
    """Dumps the stacks of all threads, once a stall, to stderr and to a file; the run itself goes on.

    Args:
        seconds: how long without a `beat` is a stall; 0 or less switches the watchdog off.
        path: file that the dumps are added to.

    Source: ours.
    """

    def __init__(self, *, seconds: float, path: Path):
        self._seconds = seconds
        self._path = path
        self._last = time.monotonic()
        self._reported = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat()
        if self._seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self) -> None:
        """Says that the run moves."""
        self._last = time.monotonic()
        self._reported = False

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            waited = time.monotonic() - self._last
            if waited >= self._seconds and not self._reported:
                self._reported = True
                self._dump(waited)

    def _dump(self, waited: float) -> None:
        head = f"watchdog: no step for {waited:.1f} s, stacks of all threads follow (also in {self._path})"
        # The original stderr: faulthandler writes to a file descriptor, which a replaced one may lack.
        if sys.__stderr__ is not None:
            _write(sys.__stderr__, head)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                _write(file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {head}")
        except OSError as error:
            print(f"watchdog: {self._path} could not be written ({error})", file=sys.stderr)


def _write(file: TextIO, head: str) -> None:
    print(head, file=file, flush=True)
    faulthandler.dump_traceback(file, all_threads=True)
