"""Ctrl-C: one line and exit code 130, whatever a command does at that moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 128 + signal.SIGINT  # what a shell reports of a process that Ctrl-C ended
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it

_handled = False  # whether the handler is installed: this process is a command, and no program that uses the package


def is_starting() -> bool:
    """Whether `cl2cm` or `python -m cl2cm_jax.module` was called, and this process is importing the package."""
    name, modules = sys.argv[0] if sys.argv else "", [word.partition(".")[0] for word in sys.orig_argv]
    return "cl2cm_jax" in modules if name == "-m" else Path(name).stem == "cl2cm"


def catch_interrupts() -> None:
    """Installs a handler of SIGINT for the rest of the process, unless another one is there or it is ignored.

    The first SIGINT raises KeyboardInterrupt, as usual, but ends the process at once where that would be lost: while a
    module is imported, since libraries swallow exceptions there, and in finalizers. Any further one ends it too.
    """
    global _handled
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _end_if_interrupted
        _handled = True


def end_interrupted() -> NoReturn:
    """Prints a line and ends with `EXIT_INTERRUPTED`.

    A command ends at once: threads of libraries may hang, or crash at the end of the interpreter.
    """
    with contextlib.suppress(Exception):  # a closed stream, or one that this signal has interrupted
        shown = _SHOW_CURSOR if sys.stderr.isatty() and os.name == "posix" else ""
        print(f"{shown}interrupted", file=sys.stderr, flush=True)
    if _handled:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)
    sys.exit(EXIT_INTERRUPTED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if is_importing(frame):
        end_interrupted()
    signal.signal(signal.SIGINT, lambda *_: end_interrupted())
    raise KeyboardInterrupt


def _end_if_interrupted(ignored: sys.UnraisableHookArgs) -> None:
    """What Python calls with an exception of a finalizer (`__del__`), which would only be printed."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        end_interrupted()
    sys.__unraisablehook__(ignored)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, where libraries swallow the exception that a signal handler raises."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
