"""What is printed: names, captions and queries of strangers must not control the terminal.

Their control characters are escaped, as in Python: those of ASCII and Latin-1 (ESC, BEL, DEL, line ends), the line
separators, bidirectional overrides and isolates, which reorder what is seen, and half surrogate pairs.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text in one line, with its control characters escaped."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """The same of a text of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))


def json_text(value: Any, **options: Any) -> str:
    """JSON of the same value whose control characters are escaped; other characters stay as they are."""
    lines = json.dumps(value, ensure_ascii=False, **options).split("\n")
    return "\n".join(_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines)


class PrintableStream:
    """A stream that escapes what is written to it; otherwise `stream` itself."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes a text of any number of lines."""
        return self.stream.write(printable_lines(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Escapes what is printed to standard output, and tracebacks. Progress bars write to standard error."""
    sys.excepthook = _print_traceback
    with contextlib.redirect_stdout(PrintableStream(sys.stdout)):  # type: ignore[type-var]
        yield


def styled_output() -> TextIO:
    """Standard output for text whose style is ours and whose names are `printable`."""
    return sys.stdout.stream if isinstance(sys.stdout, PrintableStream) else sys.stdout


def log_to_stderr(*, level: int = logging.WARNING, format: str = "%(levelname)s: %(message)s") -> None:
    """Logs to standard error, a line for each record and warning, with what was put into it escaped."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableRecords(format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("absl", "jax", "orbax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    logging.getLogger("py.warnings").warning("%s: %s", category.__name__, message)


class _PrintableRecords(logging.Formatter):
    """Escapes the line ends of a record's arguments, which names may have, but not those of its own text."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        if isinstance(record.args, tuple):
            record.args = tuple(map(_printable_argument, record.args))
        elif record.args:
            record.args = {name: _printable_argument(value) for name, value in record.args.items()}
        return printable_lines(super().format(record))


def _printable_argument(value: object) -> object:
    return printable(str(value)) if isinstance(value, str | Path | BaseException) else value


def _print_traceback(*error: Any) -> None:
    print(printable_lines("".join(traceback.format_exception(*error))), end="", file=sys.stderr)
