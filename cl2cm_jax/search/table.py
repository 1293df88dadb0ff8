"""Queries from standard input, answers on standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl2cm_jax.errors import UserError
from cl2cm_jax.search.query import Answer

WIDTH_OF_A_FILE = 10_000  # tables that go to a file or a pipe are as wide as they need


def print_answers(answers: Sequence[Answer], *, as_json: bool) -> None:
    """One JSON list, or one table a query; UTF-8 whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if as_json:
        print(json.dumps([answer.as_dict() for answer in answers], ensure_ascii=False))
    else:
        _print_tables(answers)


def _print_tables(answers: Sequence[Answer]) -> None:
    """One table a query. The caption column is left out where the gallery has no captions."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False)
    for answer in answers:
        has_captions = any(result.caption for result in answer.results)
        table = Table(title=Text(answer.query, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("rank", justify="right")
        table.add_column("score", justify="right")
        if has_captions:
            table.add_column("caption", overflow="fold")
        table.add_column("picture", overflow="fold")
        for result in answer.results:
            caption = [Text(result.caption)] if has_captions else []
            table.add_row(str(result.rank), f"{result.score:.3f}", *caption, Text(result.path or result.id))
        console.print(table)


def standard_input() -> list[str]:
    """The lines of standard input that are not blank."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 at byte {error.start}; convert it, with iconv say") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
