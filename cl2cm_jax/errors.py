"""The exception for mistakes of the user, and how a command ends with it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from cl2cm_jax.interrupts import end_interrupted
from cl2cm_jax.text.terminal import printable, printable_output

EXIT_USER_ERROR = 2
EXIT_CLOSED_PIPE = 128 + 13  # what a shell reports of a process that SIGPIPE ended
MAX_LENGTH = 2000  # characters of a message; a file of unknown origin may have names of millions

# system errors with a fix for the user; any other OSError is a bug and keeps its traceback
_FIXES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EFBIG: "allow larger files (ulimit -f), or name another place",
    errno.EACCES: "change the permissions, or name another place",
    errno.EPERM: "change the permissions, or name another place",
}
_NO_ROOM = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
_FIXES_OF_REASON = {reason: _FIXES[code] for code, reason in _NO_ROOM.items()}
_OTHER_PLACE = (errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FIXES |= dict.fromkeys(_OTHER_PLACE, "name another place")


class UserError(Exception):
    """A mistake that the user can fix.

    The message is one line that names the field or file, the value and the fix. Line ends and control characters, which
    a name in a file may contain, are escaped, so that none reaches the terminal. Of a message of more than `MAX_LENGTH`
    characters the middle is left out: the field is at its beginning, the fix at its end.
    Commands print it without a traceback and exit with code 2. An error that docs/faq.md explains has an `id` there.
    """

    def __init__(self, message: str, *, id: str = ""):
        self.id = id
        super().__init__(shortened(printable(shortened(message))))  # first, so that only few characters are examined


def not_installed(package: str | None, *, run: str = "", needed_for: str = "") -> UserError:
    """The error for a package that only some commands need.

    Args:
      package: its name, or that of a module of it, as `ImportError.name`.
      run: the command that installs it; "" if that is `pip install` and its name.
      needed_for: the option that needs it, such as "--onnx".
    """
    option = f"{needed_for}: " if needed_for else ""
    return UserError(f"{option}package {package} is not installed; run: {run or f'pip install {package}'}")


def shortened(text: str, *, limit: int = MAX_LENGTH) -> str:
    """A text of at most `limit` characters, 3 or more: "..." replaces the middle of a longer one."""
    if len(text) <= limit:
        return text
    kept = limit - 3
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def one_line(error: BaseException, *, limit: int = 200) -> str:
    """The message of any error in one line of at most `limit` characters; its type if there is no message."""
    return printable(" ".join(str(error).split())[:limit])[:limit] or type(error).__name__


def no_room(error: BaseException | None) -> str:
    """The system's reason why a file could not be written, if the disk is full or the file too large; else "".

    Libraries wrap this error in others of their own, and keep its text.
    """
    seen = set[int]()  # an exception may be its own cause
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for code, reason in _NO_ROOM.items():
            if reason in str(error) or (isinstance(error, OSError) and error.errno == code):
                return reason
        error = error.__cause__ or error.__context__
    return ""


def exit_cleanly(command: Callable[[], None]) -> None:
    """Runs `command` as its own process: every foreseen end is one line without a traceback, and an exit code.

    An error that the user can fix: 2. Ctrl-C: 130. A closed pipe (`| head`): 141, without a line.
    """
    with printable_output():
        try:
            command()
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
            sys.exit(EXIT_CLOSED_PIPE)
        except KeyboardInterrupt:
            end_interrupted()
        except Exception as error:
            if not print_user_error(error):
                raise
            sys.exit(EXIT_USER_ERROR)


def print_user_error(error: BaseException) -> bool:
    """Prints an error that the user can fix in one line; returns False, without printing, for any other."""
    if isinstance(error, UserError):
        text = f"{error} [docs/faq.md#{error.id}]" if error.id else str(error)
    elif isinstance(error, OSError) and error.errno in _FIXES:
        text = printable(f"{error.strerror}: {error.filename or 'a file'}; {_FIXES[error.errno]}")
    elif reason := no_room(error):
        text = f"{reason}: {one_line(error)}; {_FIXES_OF_REASON[reason]}"
    else:
        return False
    print(f"error: {text}", file=sys.stderr, flush=True)
    return True
