"""Search pictures with text in any of the trained languages.

python -m cl2cm_jax.search --workdir=runs/emoji "ein roter Apfel" "犬" --top=5 [--json] [--images=DIR]
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl2cm_jax.command_line import Arguments
from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.search.gallery import training_gallery
from cl2cm_jax.search.query import Answer, check_queries, check_top, search

EPILOG = """\
--json prints one JSON list, one object a query in the order given:
  [{"query": "犬", "results": [{"rank": 1, "id": "1F415", "score": 0.71, "caption": "dog", "path": "..."}, ...]}]
Warnings and errors go to standard error. A mistake in the arguments ends with exit code 2.
"""
WIDTH_OF_A_FILE = 10_000  # tables that go to a file or a pipe are as wide as they need


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; raises a UserError where it makes no sense."""
    parser = Arguments(
        prog="python -m cl2cm_jax.search",
        description="Search pictures with text in any of the trained languages.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "queries", nargs="*", metavar="QUERY", help="what to look for; - reads lines from standard input"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="the --workdir of a finished training run")
    parser.add_argument("--top", type=int, default=5, help="results a query (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="search this folder of pictures, not the training gallery"
    )
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Answers the queries of the command line on standard output."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = parse(arguments)
    queries = [query for given in options.queries for query in (_standard_input() if given == "-" else [given])]
    check_queries(queries)
    check_top(options.top)
    gallery = training_gallery(options.workdir)  # also for --images: it tells a finished run from an unfinished one

    from cl2cm_jax.search.model import load_encoder

    encoder = load_encoder(options.workdir)
    if options.images is not None:
        from cl2cm_jax.search.folder import folder_gallery

        gallery = folder_gallery(options.images, encoder, cache=options.workdir / "cache")
    start = time.perf_counter()
    answers = search(queries, gallery, encoder, top=options.top)
    seconds = time.perf_counter() - start

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    if options.json:
        print(json.dumps([answer.as_dict() for answer in answers], ensure_ascii=False))
    else:
        print_tables(answers)
        print(
            f"{len(queries)} quer{'y' if len(queries) == 1 else 'ies'} over {len(gallery):,} pictures: {seconds:.2f} s"
        )


def print_tables(answers: Sequence[Answer]) -> None:
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


def _standard_input() -> list[str]:
    """The lines of standard input that are not blank."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 at byte {error.start}; convert it, with iconv say") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    exit_cleanly(main)
