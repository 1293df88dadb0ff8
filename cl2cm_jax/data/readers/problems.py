"""Problems of a user's data: collected, listed in a report file, and summed up in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.text.terminal import printable


@dataclass(frozen=True)
class Problem:
    """Something wrong with one row, image or id."""

    file: str
    line: int | None  # counted from 1, None where it is the file as a whole
    field: str
    reason: str  # what was found and how to fix it
    is_note: bool = False  # nothing is left out because of it
    is_logged: bool = False  # a note that is a warning as well

    def __str__(self) -> str:
        """One line: "captions.csv, line 12, field caption: is empty; fill it in or remove the row"."""
        place = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{place}, field {self.field}: {self.reason}"


def write_report(path: str | os.PathLike[str], problems: Sequence[Problem]) -> None:
    """Writes all problems, one per line, as TSV with a header."""
    rows = [("kind", "file", "line", "field", "reason")]
    rows += [("note" if p.is_note else "problem", p.file, str(p.line or ""), p.field, p.reason) for p in problems]
    lines = ("\t".join(printable(" ".join(cell.split())) for cell in row) for row in rows)
    with replacing(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def report_problems(report: Path, problems: Sequence[Problem], *, on_error: str, name: str) -> None:
    """Writes the report and, unless there is a problem to stop at, logs a summary.

    Raises:
      UserError: there is a problem and `on_error` is "stop".
    """
    write_report(report, problems)
    serious = [problem for problem in problems if not problem.is_note]
    if serious and on_error == "stop":
        more = f" (and {len(serious) - 1} more)" if len(serious) > 1 else ""
        raise UserError(
            f"{serious[0]}{more}; the list is {report}; fix them or set config.data.on_error='skip'",
            id="problems-in-the-data",
        )
    if problems:
        notes = len(problems) - len(serious)
        logging.warning("%d problems left out and %d notes, listed in %s", len(serious), notes, report)
    for problem in problems:
        if problem.is_logged:
            logging.warning("%s: %s", name, problem.reason)
