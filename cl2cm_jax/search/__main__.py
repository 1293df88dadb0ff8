"""Search pictures with text in any of the trained languages.

cl2cm search --workdir=runs/emoji "ein roter Apfel" "犬" --top=5 [--json] [--images=DIR]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.evaluation.gallery import training_gallery
from cl2cm_jax.runtime.command_line import Arguments
from cl2cm_jax.search.query import check_queries, check_top, search
from cl2cm_jax.search.table import print_answers, standard_input

EPILOG = """\
--json prints one JSON list, one object a query in the order given:
  [{"query": "犬", "results": [{"rank": 1, "id": "1F415", "score": 0.71, "caption": "dog", "path": "..."}, ...]}]
Warnings and errors go to standard error. A mistake in the arguments ends with exit code 2.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; raises a UserError where it makes no sense."""
    parser = Arguments(
        prog="cl2cm search",
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
    queries = [query for given in options.queries for query in (standard_input() if given == "-" else [given])]
    check_queries(queries)
    check_top(options.top)
    gallery = training_gallery(options.workdir)  # also for --images: it tells a finished run from an unfinished one

    from cl2cm_jax.trained.student import load_encoder

    encoder = load_encoder(options.workdir)
    if options.images is not None:
        from cl2cm_jax.search.folder import folder_gallery

        gallery = folder_gallery(options.images, encoder, cache=options.workdir / "cache")
    start = time.perf_counter()
    answers = search(queries, gallery, encoder, top=options.top)
    seconds = time.perf_counter() - start

    print_answers(answers, as_json=options.json)
    if not options.json:
        print(
            f"{len(queries)} quer{'y' if len(queries) == 1 else 'ies'} over {len(gallery):,} pictures: {seconds:.2f} s"
        )


if __name__ == "__main__":
    exit_cleanly(main)
