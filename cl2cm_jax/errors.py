"""The one exception that a user can mend, and how a command ends on it."""

from __future__ import annotations

import errno
import os
import sys
import unicodedata
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 128 + 13  # what a shell reports of a process that SIGPIPE ended


# Errors of the machine that the user can mend; any other OSError is a fault of ours and keeps its traceback.
_MENDABLE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files (ulimit -f), or name another place",
    errno.EACCES: "allow it, or name another place",
    errno.EPERM: "allow it, or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "name another place",
    errno.ENOTDIR: "name another place",
    errno.EISDIR: "name another place",
    errno.ELOOP: "name another place",
    errno.ENAMETOOLONG: "name another place",
}


MOST = 2000  # characters of a message; what a stranger's file says may have millions
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, half pairs and what ends a line, by Unicode's categories


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that names the field or file, the value found and the fix. Line ends and control characters,
    which a name in somebody's file may hold, are escaped, so that none reaches the terminal. Of a message of more than
    `MOST` characters the middle is left out: the field stands at its beginning, the fix at its end.
    Commands print it without a traceback and exit with code 2. One that docs/faq.md says more about has an `id` there.
    """

    def __init__(self, message: str, *, id: str = ""):
        self.id = id
        short = shortened(message)  # before, so that millions are not looked at one by one
        shown = (ascii(char)[1:-1] if unicodedata.category(char) in _NO_TEXT else char for char in short)
        super().__init__(shortened("".join(shown)))


def shortened(text: str, *, most: int = MOST) -> str:
    """A text of at most `most` characters, 3 or more: what is over is left out in the middle, where "..." stands."""
    if len(text) <= most:
        return text
    kept = most - 3
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def one_line(error: BaseException, *, most: int = 200) -> str:
    """What another library's error says, in one line of at most `most` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


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
    except (OSError, UserError) as error:
        if not told(error):
            raise
        sys.exit(EXIT_USER_ERROR)


def told(error: BaseException) -> bool:
    """Prints the one line of an error that a user can mend; False, and nothing printed, for any other."""
    if isinstance(error, UserError):
        text = f"{error} [docs/faq.md#{error.id}]" if error.id else str(error)
    elif isinstance(error, OSError) and error.errno in _MENDABLE:
        text = f"{error.strerror}: {error.filename or 'a file'}; {_MENDABLE[error.errno]}"
    else:
        return False
    print(f"error: {text}", file=sys.stderr, flush=True)
    return True
