"""Search pictures with text in any of the trained languages.

cl2cm search --model=runs/emoji "ein roter Apfel" "犬" --top=5 [--json] [--images=DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments, add_model_option
from cl2cm_jax.search.folder import add_images_option, load_with_gallery
from cl2cm_jax.search.query import (
    add_query_options,
    given_queries,
    print_answers,
    search,
    warn_of_missing,
    warn_of_unread,
)
from cl2cm_jax.text.terminal import log_to_stderr

EPILOG = """\
--json prints one JSON list with one object per query, in the order given:
  [{"query": "犬", "results": [{"rank": 1, "id": "1F415", "score": 0.71, "caption": "dog", "path": "..."}, ...]}]
Warnings and errors go to standard error. Wrong arguments end with exit code 2.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; raises a UserError where it is wrong."""
    description = "Search pictures with text in any of the trained languages."
    parser = Arguments(prog="cl2cm search", description=description, epilog=EPILOG)
    add_model_option(parser, old_name="--workdir")
    add_query_options(parser)
    add_images_option(parser)
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the answers to the queries of the command line."""
    log_to_stderr()
    options = parse(arguments)
    queries = given_queries(options)
    model, gallery = load_with_gallery(options.model, options.images, exclude=options.exclude)
    warn_of_unread(model.encoder, queries)
    start = time.perf_counter()
    answers = search(queries, gallery, model.encoder, top=options.top)
    seconds = time.perf_counter() - start
    if options.images is None:
        again = f"cl2cm train --mode=evaluate --workdir={options.model} --config.data.images=FOLDER"
        warn_of_missing(answers, fix=f"if they were moved, name their place (of a built set: config.data.dir): {again}")
    print_answers(answers, as_json=options.json, pictures=len(gallery), seconds=seconds)


if __name__ == "__main__":
    exit_cleanly(main)
