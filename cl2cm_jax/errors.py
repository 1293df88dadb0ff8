"""The one exception that a user can mend, and how a command ends on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 128 + 13  # what a shell reports of a process that SIGPIPE ended


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that names the field or file, the value found and the fix.
    Commands print it without a traceback and exit with code 2.
    """


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs `command`; a `UserError` becomes one line on stderr and exit code 2, a closed pipe (`| head`) silence."""
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(EXIT_CLOSED_PIPE)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
