"""Dumps the stacks of all threads when no step completes for a long time."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from pathlib import Path
from typing import TextIO


class Watchdog:
    """Dumps the stacks of all threads, once a stall, to stderr and to a file; does not stop the run.

    Args:
        seconds: how long without a `beat` is a stall; 0 or less switches the watchdog off.
        path: file that the dumps are appended to.
    """

    def __init__(self, *, seconds: float, path: Path):
        self._seconds, self._path = seconds, path
        self._last, self._reported = time.monotonic(), False
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
        """Restarts the timer; called after every step."""
        self._last, self._reported = time.monotonic(), False

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            waited = time.monotonic() - self._last
            if waited >= self._seconds and not self._reported:
                self._reported = True
                self._dump(waited)

    def _dump(self, waited: float) -> None:
        head = f"watchdog: no step for {waited:.1f} s, stacks of all threads follow (also in {self._path})"
        # the original stderr: faulthandler needs a file descriptor, which a replaced one may lack
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
