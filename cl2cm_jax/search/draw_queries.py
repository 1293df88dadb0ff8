"""Draws queries in several languages beside the pictures found for them, as one PNG.

cl2cm draw --model=runs/emoji --queries=docs/languages.csv --out=docs/languages.png [...]

Without --images the gallery is that of the model's training run. Its pictures are shown if this package has drawn them,
as those of the demo; a workdir may come from anyone and name any file, so of others the ids are shown.

The queries are a UTF-8 CSV file with the columns language and query and, optionally, meaning (shown small below the
query) and remark (shown below the language, after "trained" or "not trained").
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cl2cm_jax.data.readers.caption_file import Columns, read_csv
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.evaluation.gallery import Gallery
from cl2cm_jax.evaluation.picture import Found, QueryRow, draw_retrieval
from cl2cm_jax.runtime.command_line import Arguments, add_model_option, positive
from cl2cm_jax.search.folder import add_images_option, load_with_gallery
from cl2cm_jax.search.incremental import drawn_paths
from cl2cm_jax.search.query import Answer, check_queries, search
from cl2cm_jax.text.languages import canonical
from cl2cm_jax.text.terminal import log_to_stderr
from cl2cm_jax.training.workdir import read_config

log = logging.getLogger(__name__)
COLUMNS = Columns(required=("language", "query"), optional=("meaning", "remark"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; raises a UserError where it is wrong."""
    parser = Arguments(prog="cl2cm draw", description=__doc__)
    add_model_option(parser, old_name="--workdir")
    parser.add_argument("--queries", type=Path, required=True, help="CSV: language, query[, meaning[, remark]]")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--top", type=positive, default=5, help="pictures per query (default: %(default)s)")
    add_images_option(parser)
    return parser.parse_args(arguments)


def read_queries(path: Path) -> list[dict[str, str]]:
    """The rows of a file of queries, each with every column of `COLUMNS`.

    Raises:
        UserError: it cannot be read, is not UTF-8, has wrong columns or a row without language or query.
    """
    rows = [dict.fromkeys(COLUMNS.optional, "") | cells for _, cells in read_csv(str(path), COLUMNS, flag="--queries")]
    check_queries([row["query"] for row in rows])
    return rows


def query_rows(
    queries: Sequence[Mapping[str, str]], answers: Sequence[Answer], *, languages: Sequence[str]
) -> list[QueryRow]:
    """Answers as rows of a picture (`evaluation.picture.retrieval_picture`).

    Of each query there is its `language` and, optionally, `meaning` and `remark`. The row shows whether the language is
    one of `languages`, those that the model was trained in.
    """
    rows = []
    for row, answer in zip(queries, answers, strict=True):
        found = tuple(Found(result.rank, result.path or None, result.id, False) for result in answer.results)
        trained = "trained" if canonical(row["language"]) in languages else "not trained"
        remark = ", ".join(filter(None, (trained, row.get("remark", ""))))
        rows.append(QueryRow(answer.query, row["language"], row.get("meaning", ""), found, remark=remark))
    return rows


def _drawn(gallery: Gallery, model: str) -> Gallery:
    """The gallery of a workdir without the files that only its author chose."""
    drawn = drawn_paths(gallery, read_config(Path(model)).data)
    if any(gallery.paths) and not drawn:
        log.warning("%s names files as its pictures; if they are yours, show them with --images=DIR", model)
    return replace(gallery, paths=tuple(path if path in drawn else "" for path in gallery.paths))


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, draws, and prints the path of the picture."""
    log_to_stderr()
    options = parse(arguments)
    queries = read_queries(options.queries)
    model, gallery = load_with_gallery(options.model, options.images, exclude=options.exclude)
    if options.images is None:
        gallery = _drawn(gallery, options.model)
    answers = search([row["query"] for row in queries], gallery, model.encoder, top=options.top)
    rows = query_rows(queries, answers, languages=model.languages)
    number = len({row["language"] for row in queries})
    title = f"Queries in {number} language{'s' * (number != 1)}"
    if options.images is not None:
        note = f"{len(gallery):,} pictures of {options.images.name}"
    else:
        name = read_config(Path(options.model)).data.name
        note = f"{name}: all {len(gallery):,} pictures, those of training among them"
    draw_retrieval(options.out, rows, title=title, note=note, source="")
    print(f"{options.out}: queries {len(rows)}, pictures {len(gallery):,}")


if __name__ == "__main__":
    exit_cleanly(main)
