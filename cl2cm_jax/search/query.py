"""Text queries against a gallery, and their answers as tables or JSON."""

from __future__ import annotations

import argparse
import datetime
import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cl2cm_jax.errors import UserError, shortened
from cl2cm_jax.evaluation.gallery import Gallery
from cl2cm_jax.maths.ranking import top as best_items
from cl2cm_jax.search.entry import Filters, without_captions
from cl2cm_jax.text.terminal import json_text, printable, styled_output
from cl2cm_jax.text.visible import prepared_query, spellings, visible
from cl2cm_jax.trained.encoder import Encoder

if TYPE_CHECKING:
    from cl2cm_jax.search.stores.memory import MemoryIndex
    from cl2cm_jax.search.stores.milvus import Store

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
log = logging.getLogger(__name__)
_SHOWN = 5  # notices
FILE_WIDTH = 10_000  # columns of a table that goes to a file or a pipe: as wide as it needs


@dataclass(frozen=True)
class Result:
    """One picture found: rank from 1, cosine score, and what the gallery has about it."""

    rank: int
    id: str
    score: float
    caption: str
    path: str


@dataclass(frozen=True)
class Answer:
    """A query with its results, best first; `asdict` gives the form of `--json`."""

    query: str
    results: tuple[Result, ...]


def answer(query: str, found: Iterable[tuple[float, str, str, str]]) -> Answer:
    """An answer from the score, id, caption and path of each picture, best first."""
    ranked = enumerate(found, start=1)
    return Answer(
        query, tuple(Result(rank, id, round(score, 6), text, path) for rank, (score, id, text, path) in ranked)
    )


def search(queries: Sequence[str], gallery: Gallery, encoder: Encoder, *, top: int = 5) -> list[Answer]:
    """The `top` best pictures of the gallery for each query, or all if it has fewer; ties in gallery order.

    Raises:
        UserError: no query, an empty one, `top` below 1, or a gallery made by another model.
    """
    check_queries(queries)
    check_top(top)
    vectors = encode_queries(encoder, queries)
    gallery.check(weights=encoder.weights, dim=vectors.shape[1])
    scores, rows = best_items(vectors, gallery.embeddings, min(top, len(gallery)))
    answers = []
    for query, *best in zip(queries, scores, rows, strict=True):
        found = ((float(s), gallery.ids[i], gallery.captions[i], gallery.paths[i]) for s, i in zip(*best, strict=True))
        answers.append(answer(query, found))
    return answers


def encode_queries(encoder: Encoder, queries: Sequence[str]) -> np.ndarray:
    """The vectors (N, D) float32 of N queries as `query_texts`: every search encodes queries here."""
    return encoder.text(query_texts(encoder, queries))


def query_texts(encoder: Encoder, queries: Sequence[str]) -> list[str]:
    """The texts that the encoder gets for queries, the same however these are cased: see `prepared_query`.

    Of the words that are one in capitals, as KIRMIZI is kırmızı and kirmizi and APFEL is Apfel and apfel, it gets the
    one of fewest word pieces: the encoder's vocabulary has the words of its languages, and nouns and names as usual.
    """
    texts = [prepared_query(query).split(" ") for query in queries]
    words = {word: several for text in texts for word in text if len(several := spellings(word)) > 1}
    flat = [one for several in words.values() for one in several]
    counts = dict(zip(flat, encoder.pieces(flat), strict=True)) if flat else {}
    best = {word: min(several, key=counts.__getitem__) for word, several in words.items()}  # of equal ones the first
    return [" ".join(best.get(word, word) for word in text) for text in texts]


def query_notice(encoder: Encoder, query: str) -> str:
    """What of a query is not read, in one line; "" if it is read as a whole."""
    return encoder.notice(query_texts(encoder, [query])[0])


def warn_of_unread(encoder: Encoder, queries: Sequence[str]) -> None:
    """Logs what of the queries is not read: a line for each of the first few, and the number of the others."""
    notices = [(query, notice) for query in queries if (notice := query_notice(encoder, query))]
    for query, notice in notices[:_SHOWN]:
        log.warning("query %r: %s", shortened(query, limit=60), notice)
    if len(notices) > _SHOWN:
        log.warning("%d more queries are not read as a whole", len(notices) - _SHOWN)


def warn_of_missing(answers: Sequence[Answer], *, fix: str) -> None:
    """Logs how many of the pictures found are not there, as after they were moved, and what to do."""
    paths = {result.path for one in answers for result in one.results if result.path}
    if missing := sorted(path for path in paths if not os.path.exists(path)):
        text = "%d of the pictures found are not there now, the first is %s; %s"
        log.warning(text, len(missing), missing[0], fix)


def check_queries(queries: Sequence[str]) -> None:
    """Raises a UserError if there is no query, or one is empty or not Unicode text."""
    if not queries:
        raise UserError(
            'no query given; write one or more, as in "a red apple", or - to read lines from standard input'
        )
    for number, query in enumerate(queries, start=1):
        if not visible(query):
            raise UserError(f"query {number} is empty; describe the picture in words")
        if any("\ud800" <= char <= "\udfff" for char in query):
            raise UserError(f"query {number} is not valid UTF-8; set the terminal's encoding to UTF-8")


def nothing_selected(
    index: Store | MemoryIndex, filters: Filters, *, flag: str = "", languages: Sequence[str] | None = None
) -> str:
    """A line that says that no entry of an index meets the filters, "" if one does or there is no filter.

    `flag` precedes the names of the filters, which are those of the options, "language", "path", "since" and "until".
    `languages` are those of the index's captions; None finds them, which scans every entry.
    """
    given = {one.name: value for one in fields(filters) if (value := getattr(filters, one.name)) not in ("", None)}
    if not given or not len(index) or index.count(filters):
        return ""
    alone = [name for name, value in given.items() if not index.count(Filters(**{name: value}))] or list(given)
    if alone == ["language"]:
        there = index.languages() if languages is None else languages
        if text := without_captions(filters.language, there):
            return text
    text = " and ".join(f"{flag}{name}={_shown(name, given[name])}" for name in alone)
    return f"no picture of the index meets {text}"


def _shown(name: str, value: str | int) -> str:
    if isinstance(value, str):
        return value
    day = EPOCH + datetime.timedelta(seconds=value - (name == "until"))  # "until" is the end of a day
    return day.date().isoformat()


def check_top(top: int) -> None:
    """Raises a UserError unless `top` is 1 or more."""
    if top < 1:
        raise UserError(f"--top={top} must be 1 or more")


def add_query_options(parser: argparse.ArgumentParser) -> None:
    """Adds the queries, --top and --json."""
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="text to search for; - reads lines from stdin")
    parser.add_argument("--top", type=int, default=5, help="results per query (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def given_queries(options: argparse.Namespace) -> list[str]:
    """The queries of a command line, those of standard input included; raises a UserError where they are wrong."""
    queries = [query for given in options.queries for query in (standard_input() if given == "-" else [given])]
    check_queries(queries)
    check_top(options.top)
    return queries


def standard_input() -> list[str]:
    """The lines of standard input that are not blank."""
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def print_answers(answers: Sequence[Answer], *, as_json: bool, pictures: int, seconds: float) -> None:
    """Prints one JSON list, or one table per query and a summary; UTF-8 whatever the terminal's encoding."""
    output = styled_output()
    if isinstance(output, io.TextIOWrapper):
        output.reconfigure(encoding="utf-8", errors="backslashreplace")
    if as_json:
        print(json_text([asdict(one) for one in answers]))
        return
    console = Console(file=output, width=None if output.isatty() else FILE_WIDTH, highlight=False)
    for one in answers:
        console.print(_table(one))
    print(f"{len(answers)} quer{'y' if len(answers) == 1 else 'ies'} over {pictures:,} pictures: {seconds:.2f} s")


def _table(answer: Answer) -> Table:
    """The caption column is left out where no result has a caption."""
    has_captions = any(result.caption for result in answer.results)
    table = Table(title=Text(printable(answer.query), style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    if has_captions:
        table.add_column("caption", overflow="fold")
    table.add_column("picture", overflow="fold")
    for result in answer.results:
        caption = [Text(printable(result.caption))] if has_captions else []
        table.add_row(str(result.rank), f"{result.score:.3f}", *caption, Text(printable(result.path or result.id)))
    return table
