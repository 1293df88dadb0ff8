"""Draws queries in several languages beside the pictures that a trained model puts first, as one PNG.

cl2cm draw --workdir=runs/emoji --queries=docs/languages.csv --out=docs/languages.png [...]

The queries are a CSV file, UTF-8, with the columns language and query and, if you like, meaning (shown small below the
query) and remark (below the language, after the words that say whether the model was trained in it).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.readers.caption_file import Columns, read_csv
from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.evaluation.gallery import training_gallery
from cl2cm_jax.evaluation.picture import Found, QueryRow, draw_retrieval
from cl2cm_jax.runtime.command_line import Arguments, positive
from cl2cm_jax.search.folder import folder_gallery
from cl2cm_jax.search.query import Answer, check_queries, search
from cl2cm_jax.trained.student import load_encoder
from cl2cm_jax.training.workdir import read_config

COLUMNS = Columns(required=("language", "query"), optional=("meaning", "remark"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; raises a UserError where it makes no sense."""
    parser = Arguments(prog="cl2cm draw", description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="the --workdir of a finished training run")
    parser.add_argument("--queries", type=Path, required=True, help="CSV: language, query[, meaning[, remark]]")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--top", type=positive, default=5, help="pictures a query (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="search this folder, not the training gallery")
    return parser.parse_args(arguments)


def read_queries(path: Path) -> list[dict[str, str]]:
    """The rows of a file of queries, every column of `COLUMNS` in each.

    Raises:
        UserError: it cannot be read, is no UTF-8, has wrong columns or a row without language or query.
    """
    rows = [dict.fromkeys(COLUMNS.optional, "") | cells for _, cells in read_csv(str(path), COLUMNS, flag="--queries")]
    check_queries([row["query"] for row in rows])
    return rows


def query_rows(
    asked: Sequence[Mapping[str, str]], answers: Sequence[Answer], *, languages: Sequence[str]
) -> list[QueryRow]:
    """Answers as lines of a picture (`evaluation.picture.retrieval_picture`).

    Args:
        asked: `language` of each query and, if there is one, its `meaning` and `remark`.
        answers: to these queries, in their order.
        languages: those that the model was trained in; each line says whether its own is among them.
    """
    rows = []
    for row, answer in zip(asked, answers, strict=True):
        found = tuple(Found(result.rank, result.path or None, result.id, False) for result in answer.results)
        trained = "trained" if row["language"] in languages else "not trained"
        remark = ", ".join(filter(None, (trained, row.get("remark", ""))))
        rows.append(QueryRow(answer.query, row["language"], row.get("meaning", ""), found, remark=remark))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Searches, draws, and says where the picture is."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    options = parse(arguments)
    asked = read_queries(options.queries)
    gallery = training_gallery(options.workdir)
    config = read_config(options.workdir)
    encoder = load_encoder(options.workdir)
    if options.images is not None:
        gallery = folder_gallery(options.images, encoder, cache=options.workdir / "cache")
    answers = search([row["query"] for row in asked], gallery, encoder, top=options.top)
    languages = (config.data.source, *config.data.targets, *config.data.reported)
    rows = query_rows(asked, answers, languages=languages)
    number = len({row["language"] for row in asked})
    title = f"Queries in {number} language{'s' * (number != 1)}"
    draw_retrieval(options.out, rows, title=title, note=_note(config, options.images, len(gallery)), source="")
    print(f"{options.out}: queries {len(rows)}, pictures {len(gallery):,}")


def _note(config: ConfigDict, images: Path | None, pictures: int) -> str:
    if images is not None:
        return f"{pictures:,} pictures of {images.name}"
    return f"{config.data.name}: all {pictures:,} pictures, those of training among them"


if __name__ == "__main__":
    exit_cleanly(main)
