"""Runs a command of the package within the test process."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

from cl2cm_jax.errors import exit_cleanly


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def call(command: Callable[[Sequence[str] | None], None], *arguments: object) -> Outcome:
    """Runs a command as its own process would, in this process; environment variables that it sets are undone."""
    out, err = io.StringIO(), io.StringIO()
    root, code = logging.getLogger(), 0
    handlers, level = root.handlers[:], root.level
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.dict(os.environ):
        try:
            exit_cleanly(lambda: command([str(argument) for argument in arguments]))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            root.handlers[:], _ = handlers, root.setLevel(level)
    return Outcome(code, out.getvalue(), err.getvalue())
