"""Reads a caption file: CSV, TSV or JSONL in UTF-8, perhaps gzipped, with the columns of `REQUIRED` and `OPTIONAL`.

A file that cannot be read or has wrong columns raises; a wrong row becomes a `Problem` and is left out.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.data.captions import ORIGINS, SPLITS, Caption, CaptionTable
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.text_lines import read_gzipped
from cl2cm_jax.errors import UserError, shortened
from cl2cm_jax.languages import canonical, is_code, is_translation

REQUIRED = ("image", "language", "caption")
OPTIONAL = ("split", "origin")
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "val", "valid", "dev"), "validation")
_LIMIT = 80  # characters of a cell that are shown
_UNDECODED = re.compile("[\ud800-\udfff]")


class Columns(NamedTuple):
    """Names of the required and the optional columns of a file."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


CAPTIONS = Columns(REQUIRED, OPTIONAL)


class _BadRow(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


def read_caption_file(path: str, *, image_is_path: bool) -> CaptionTable:
    """Reads and checks every row.

    Args:
      path: of the caption file.
      image_is_path: the column `image` holds paths, where "./a.jpg" means "a.jpg"; else ids, which stay as they are.

    Raises:
      UserError: no such file, an ending other than .csv, .tsv and .jsonl (or these and .gz), a gzipped file that is
        damaged or too large, no rows, or wrong columns.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config.data.captions={path!r} is not a file; name a CSV, TSV or JSONL file")
    readers = {".csv": _csv_cells, ".tsv": _tsv_cells, ".jsonl": _jsonl_cells}
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    if suffix not in readers:
        raise UserError(f"config.data.captions={path!r} must end in .csv, .tsv or .jsonl, each with .gz or without")
    text = _text_of(file)
    rows: list[Caption] = []
    problems: list[Problem] = []
    seen = _Seen()
    for line, cells in readers[suffix](path, text):
        try:
            row = _checked(line, cells)
            if image_is_path:
                row = row._replace(image=posixpath.normpath(row.image))
            seen.check(row)
            rows.append(row)
        except _BadRow as bad:
            problems.append(Problem(path, line, bad.field, bad.reason))
    if not rows and not problems:
        raise UserError(f"{path} has no rows; give it lines of image, language and caption")
    return CaptionTable(rows, problems)


def read_rows(path: str, *, flag: str) -> list[Caption]:
    """The rows of a caption file of pictures, for a command that reads it by a flag of its own.

    Args:
      path: of the caption file.
      flag: such as "--captions", for the errors.

    Raises:
      UserError: see `read_caption_file`, or a row is wrong (the first such row is named).
    """
    try:
        content = read_caption_file(path, image_is_path=True)
    except UserError as error:
        raise UserError(str(error).replace("config.data.captions=", f"{flag}=")) from error
    if content.problems:
        raise UserError(f"{flag}={path}: {content.problems[0]}; {len(content.problems)} such rows in all")
    return content.rows


Cells = dict[str, str] | _BadRow


def _csv_cells(path: str, text: str, columns: Columns = CAPTIONS) -> Iterator[tuple[int, Cells]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    return _with_header(path, _numbered(reader), separator=",", expected=columns)


def read_csv(path: str, columns: Columns, *, flag: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, UTF-8, for a command that reads it by a flag of its own.

    Args:
      path: of the file.
      columns: that it must and may have.
      flag: such as "--queries", for the errors.

    Returns:
      The line that each row starts at, and its cells by column; what is white space is one blank.

    Raises:
      UserError: the file cannot be read, has wrong columns or no row, or a row is wrong (the first is named).
    """
    try:
        text = _text_of(Path(path))
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be read ({error.strerror}); name a CSV file in UTF-8") from error
    rows: list[tuple[int, dict[str, str]]] = []
    for line, cells in _csv_cells(f"{flag}={path}", text, columns):
        try:
            rows.append((line, _clean(cells, columns.required)))
        except _BadRow as bad:
            raise UserError(f"{flag}={path}, line {line}, {bad.field}: {bad.reason}") from bad
    if not rows:
        raise UserError(f"{flag}={path} has no rows; give it lines of {' and '.join(columns.required)}")
    return rows


def _text_of(file: Path) -> str:
    """Bytes that are not UTF-8 become lone surrogates, so that the row they are in can be named."""
    content = read_gzipped(file) if file.suffix.lower() == ".gz" else file.read_bytes()
    return content.decode("utf-8-sig", errors="surrogateescape")


def _tsv_cells(path: str, text: str) -> Iterator[tuple[int, Cells]]:
    lines = enumerate(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), start=1)
    return _with_header(
        path, ((number, line.split("\t")) for number, line in lines if line), separator="\t", expected=CAPTIONS
    )


def _jsonl_cells(path: str, text: str) -> Iterator[tuple[int, Cells]]:
    del path
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _json_row(line)


def _json_row(line: str) -> Cells:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _BadRow("line", f"is not JSON ({error}); write one object a line")
    if not isinstance(cells, dict):
        return _BadRow("line", f"is a JSON {type(cells).__name__}; write one object a line")
    for field, value in cells.items():
        if not isinstance(value, str):
            found = f"a JSON {type(value).__name__}" if isinstance(value, list | dict) else json.dumps(value)
            return _BadRow(shortened(field, limit=_LIMIT), f"is {shortened(found, limit=_LIMIT)}; write a string")
        if field not in REQUIRED + OPTIONAL:
            return _BadRow(shortened(field, limit=_LIMIT), f"is not known{_did_you_mean(field, REQUIRED + OPTIONAL)}")
    missing = [field for field in REQUIRED if field not in cells]
    return _BadRow(missing[0], "is missing; add it") if missing else cells


def _numbered(reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str] | _BadRow]]:
    """Rows of a csv reader with the line that each starts at; what cannot be parsed is a _BadRow."""
    iterator, start = iter(reader), 1
    while True:
        try:
            row: list[str] | _BadRow = next(iterator)
        except StopIteration:
            return
        except csv.Error as error:
            row = _BadRow("line", f"cannot be read as CSV ({error}); check its quotation marks")
        if row:
            yield start, row
        start = iterator.line_num + 1  # type: ignore[attr-defined]


def _with_header(
    path: str, rows: Iterable[tuple[int, list[str] | _BadRow]], *, separator: str, expected: Columns
) -> Iterator[tuple[int, Cells]]:
    iterator = iter(rows)
    line, header = next(iterator, (1, []))
    if isinstance(header, _BadRow):
        raise UserError(f"{path}, line {line}: {header.reason}")
    columns = [column.strip().lower() for column in header]
    _check_columns(path, columns, separator, expected)
    for line, cells in iterator:
        if isinstance(cells, _BadRow):
            yield line, cells
        elif len(cells) != len(columns):
            quoting = '; put a cell that holds a comma in "quotation marks"' if separator == "," else ""
            yield line, _BadRow("line", f"has {len(cells)} cells where the header has {len(columns)}{quoting}")
        else:
            yield line, dict(zip(columns, cells, strict=True))


def _check_columns(path: str, columns: list[str], separator: str, expected: Columns) -> None:
    known = expected.required + expected.optional
    if not all(column.replace("\t", "").isprintable() for column in columns):
        raise UserError(f"{path}, line 1: is not UTF-8 text (UTF-16, perhaps); save the file as UTF-8")
    for column in columns:
        if column not in known:
            others = [other for other in ("\t", ";", ",") if other != separator and other in column]
            hint = f"; the cells seem to be separated by {others[0]!r}, not {separator!r}" if others else ""
            raise UserError(
                f"{path}, line 1: unknown column {_shown(column)}{hint or _did_you_mean(column, known)}",
                id="caption-columns",
            )
        if columns.count(column) > 1:
            raise UserError(f"{path}, line 1: column {column!r} is there twice; remove one")
    for column in expected.required:
        if column not in columns:
            raise UserError(f"{path}, line 1: column {column!r} is missing; the first line names the columns")


def _clean(cells: Cells, filled: Iterable[str]) -> dict[str, str]:
    """Checked cells, what is white space in them one blank; those of the columns `filled` are not empty."""
    if isinstance(cells, _BadRow):
        raise cells
    for field, value in cells.items():
        if _UNDECODED.search(value):
            raise _BadRow(field, "is not valid UTF-8; save the file as UTF-8")
        if "\0" in value:
            raise _BadRow(field, "holds a NUL byte; remove it")
    clean = {field: " ".join(value.split()) for field, value in cells.items()}
    for field in filled:
        if not clean[field]:
            raise _BadRow(field, "is empty; fill it in or remove the row")
    return clean


def _checked(line: int, cells: Cells) -> Caption:
    if isinstance(cells, _BadRow):
        raise cells
    clean = _clean(cells, cells)
    if not is_code(clean["language"]) and not is_translation(clean["language"]):
        raise _BadRow("language", f"is {_shown(clean['language'])}; write a code such as 'de' or 'zh-TW'")
    split = clean.get("split", "")
    if split and split.lower() not in _SPLITS:
        raise _BadRow("split", f"is {_shown(split)}{_did_you_mean(split.lower(), SPLITS)}")
    origin = clean.get("origin", "human").lower()
    if origin not in ORIGINS:
        raise _BadRow("origin", f"is {_shown(origin)}{_did_you_mean(origin, ORIGINS)}")
    return Caption(
        line=line,
        image=cells["image"].strip(),
        language=canonical(clean["language"]),
        caption=clean["caption"],
        split=_SPLITS.get(split.lower(), ""),
        origin=origin,
    )


def checked_row(cells: dict[str, str]) -> Caption | tuple[str, str]:
    """A row that comes from no file (line 0), by the same rules; or (field, reason) if it cannot be used."""
    try:
        return _checked(0, cells)
    except _BadRow as bad:
        return bad.field, bad.reason


def known_split(name: str) -> str:
    """The split of an alternative name ("validation" of "val"), "" if there is none."""
    return _SPLITS.get(name.strip().lower(), "")


class _Seen:
    """Finds rows that repeat or contradict an earlier one."""

    def __init__(self) -> None:
        self._line_of: dict[tuple[str, str, str, str], int] = {}
        self._split_of: dict[str, tuple[str, int]] = {}
        self._first: Caption | None = None

    def check(self, row: Caption) -> None:
        self._first = self._first or row
        if bool(row.split) != bool(self._first.split):
            raise _BadRow("split", f"must be in all rows or in none, and line {self._first.line} differs from this")
        # a machine translation may equal a human caption, and the origin chooses between them
        first = self._line_of.setdefault((row.image, row.language, row.caption, row.origin), row.line)
        # two captions may have one translation, and each needs its own row
        if first != row.line and not is_translation(row.language):
            raise _BadRow("caption", f"is the same as in line {first} for image {_shown(row.image)}; remove one")
        split, line = self._split_of.setdefault(row.image, (row.split, row.line))
        if split != row.split:
            raise _BadRow(
                "split", f"is {row.split!r} but in line {line} image {_shown(row.image)} is in {split!r}; keep one"
            )


def _shown(value: str) -> str:
    return repr(shortened(value, limit=_LIMIT))


def _did_you_mean(value: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(value[:_LIMIT], names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; use one of {', '.join(names)}"
