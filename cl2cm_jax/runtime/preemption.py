"""A request to stop (SIGTERM from a scheduler, Ctrl-C) as a flag that the loop reads between steps."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from cl2cm_jax.interrupts import is_importing

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: list[int] = []  # signals that asked this process to stop, since the last `Preemption` began


class Preemption:
    """Catches the first SIGTERM or SIGINT; a second one has its default effect.

    Outside the main thread signals cannot be caught: the flag then stays False.

    Example:
        >>> with Preemption() as preemption:
        ...     while not preemption.requested:
        ...         train_one_step()
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            _received.clear()
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        _install(self._previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        _received.append(number)
        # the default handlers, not the previous ones: a second signal ends the process
        _install({signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler})


def exit_stopped(resume: str, *, default: int = signal.SIGTERM) -> NoReturn:
    """Ends a command that a signal stopped after it has saved; the exit code is what a shell reports of that signal.

    Args:
      resume: the command that resumes, which is printed; "" where another process prints it.
      default: the signal if this process received none, as when another process of the run did.
    """
    if resume:
        print(f"stopped and saved; resume with: {resume}")
    sys.exit(128 + (_received.pop() if _received else default))


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal handler that makes any signal act like Ctrl-C; during an import it ends the process."""
    if is_importing(frame):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _received.append(number)
    raise KeyboardInterrupt


def _install(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
