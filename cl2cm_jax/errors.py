"""The one exception that a user can mend, and how a command ends on it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 128 + 13  # what a shell reports of a process that SIGPIPE ended


# Errors of the machine that the user can mend; any other OSError is a fault of ours and keeps its traceback.
_MENDABLE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "allow it, or name another place",
    errno.EPERM: "allow it, or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "name another place",
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name another place",
    errno.ELOOP: "name another place",
    errno.ENAMETOOLONG: "name another place",
}


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that names the field or file, the value found and the fix.
    Commands print it without a traceback and exit with code 2.
    """


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs `command`; what a user can mend becomes one line on stderr and exit code 2, a closed pipe silence.

    That is a `UserError`, and an error of the machine such as a full disk. A closed pipe is `| head`.
    """
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(EXIT_CLOSED_PIPE)
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        print(f"error: {error.strerror}: {error.filename or 'a file'}; {_MENDABLE[error.errno]}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
