"""A table of strings, printed as plain text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cl2cm_jax.text.terminal import printable

RULE: tuple[str, ...] = ()  # a row that is a horizontal line in plain text, and left out in Markdown


@dataclass(frozen=True)
class Table:
    """A title, column names, rows of equal length (or `RULE`) and notes.

    The first column and those in `words` are left-aligned, the others are numbers. Control characters are escaped.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shown = {name: tuple(map(printable, getattr(self, name))) for name in ("columns", "notes", "words")}
        rows = tuple(tuple(map(printable, row)) for row in self.rows)
        self.__dict__.update(shown, rows=rows, title=printable(self.title))  # frozen

    def text(self) -> str:
        """Plain text."""
        cells = [self.columns, *(row for row in self.rows if row)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        line = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [self._aligned(row, widths) if row else line for row in self.rows]
        return "\n".join([self.title, line, self._aligned(self.columns, widths), line, *body, line, *self.notes])

    def markdown(self) -> str:
        """A GitHub table below its title in bold."""
        head = [_piped(self.columns), _piped(["---" if words else "---:" for words in self._holds_words()])]
        body = [_piped(row) for row in self.rows if row]
        notes = [note for line in self.notes for note in ("", line)]
        return "\n".join([f"**{self.title}**", "", *head, *body, *notes])

    def _holds_words(self) -> list[bool]:
        return [place == 0 or column in self.words for place, column in enumerate(self.columns)]

    def _aligned(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = zip(row, widths, self._holds_words(), strict=True)
        return "  ".join(cell.ljust(width) if words else cell.rjust(width) for cell, width, words in cells).rstrip()


def _piped(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
