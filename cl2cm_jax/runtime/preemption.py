"""A request to stop (SIGTERM from a scheduler, Ctrl-C) as a flag that the loop reads between steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """Catches the first SIGTERM or SIGINT; a second one acts as if nothing had been caught.

    Outside the main thread signals cannot be caught: the flag then stays False.

    Example:
        >>> with Preemption() as preemption:
        ...     while not preemption.requested:
        ...         train_one_step()

    Source: ours.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(self._previous)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # The default, not what was there before: who asks twice wants the process to end.
        self._restore({signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler})

    @staticmethod
    def _restore(handlers: dict[signal.Signals, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
