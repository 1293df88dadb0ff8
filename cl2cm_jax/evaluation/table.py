"""A table of strings, printed as plain text or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RULE: tuple[str, ...] = ()  # a row that draws a line in text; Markdown has no such thing and skips it


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of equal length (or `RULE`) and notes below. The first column holds names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Plain text: names to the left, numbers to the right, no colours, as wide as it needs."""
        cells = [self.columns, *(row for row in self.rows if row)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        line = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [_aligned(row, widths) if row else line for row in self.rows]
        return "\n".join([self.title, line, _aligned(self.columns, widths), line, *body, line, *self.notes])

    def markdown(self) -> str:
        """A GitHub table under a bold title."""
        head = [_piped(self.columns), _piped(["---"] + ["---:"] * (len(self.columns) - 1))]
        body = [_piped(row) for row in self.rows if row]
        notes = [note for line in self.notes for note in ("", line)]
        return "\n".join([f"**{self.title}**", "", *head, *body, *notes])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = row
    return "  ".join([name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]).rstrip()


def _piped(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
