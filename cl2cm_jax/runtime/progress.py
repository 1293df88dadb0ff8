"""Progress reports: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cl2cm_jax.text.terminal import printable_lines


class _Report:
    """A bar if `stream` (stderr by default) is a terminal, else lines."""

    def __init__(self, stream: TextIO | None, *, total: int | None, start: int = 0):
        self._stream = sys.stderr if stream is None else stream
        self._began = self._last = time.monotonic()
        self._bar: Progress | None = None
        if self._stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream))
            self._task = self._bar.add_task("", total=total, completed=start)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Prints a line (a table, a saved checkpoint) without breaking the bar."""
        text = printable_lines(text)
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)


class ProgressReport(_Report):
    """Shows step, loss, examples a second, share of time spent waiting for data, and time left.

    Rates are those since the last `update`; the time left is from the mean of this process, which started after
    `start` of `total` steps. The bar, or a line for each `update`, goes to `stream`, stderr if None.
    """

    def __init__(self, *, total: int, batch_size: int, start: int = 0, stream: TextIO | None = None):
        super().__init__(stream, total=total, start=start)
        self._total, self._batch_size, self._start = total, batch_size, start
        self._last_step, self._waited = start, 0.0

    def waited(self, seconds: float) -> None:
        """Adds time that the loop spent waiting for its next batch."""
        self._waited += seconds

    def update(self, step: int, *, loss: float) -> dict[str, float]:
        """Shows the state after `step` steps; returns the rates "examples_per_second" and "data_wait" (0..1)."""
        now = time.monotonic()
        seconds = max(now - self._last, 1e-9)
        rates = {
            "examples_per_second": (step - self._last_step) * self._batch_size / seconds,
            "data_wait": min(self._waited / seconds, 1.0),
        }
        mean = (now - self._began) / max(step - self._start, 1)
        text = (
            f"step {step}/{self._total} loss {loss:.4g} {rates['examples_per_second']:,.0f} examples/s "
            f"wait {100 * rates['data_wait']:.0f} % eta {clock((self._total - step) * mean)}"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.note(text)
        self._last, self._last_step, self._waited = now, step, 0.0
        return rates


class CountReport(_Report):
    """Shows how many items are done, as in `what`="embedded": a bar on a terminal, else a line every `seconds`."""

    def __init__(self, what: str, *, stream: TextIO | None = None, seconds: float = 10.0):
        super().__init__(stream, total=None)
        self._what, self._seconds = what, seconds

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` are done; in a log at most every `seconds`, and always the last time."""
        now = time.monotonic()
        rate = done / max(now - self._began, 1e-9)
        left = clock((total - done) / rate) if done else "?"
        text = f"{self._what} {done:,} of {total:,}, {rate:,.0f} a second, {left} left"
        if self._bar:
            self._bar.update(self._task, completed=done, total=total, description=text)
        elif done == total or now - self._last >= self._seconds:
            self._last = now
            self.note(text)


def clock(seconds: float) -> str:
    """Seconds as "0:42" or "1:02:03"."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
