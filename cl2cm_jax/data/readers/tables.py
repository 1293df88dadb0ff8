"""The rows of CSV, TSV and JSONL files as cells by column, as Excel, pandas and Python write these files.

CSV may be separated by commas, semicolons, tabs or bars, and begin with Excel's line `sep=;`; TSV may be quoted. Lines
end with LF, CRLF or CR. Leading columns without a name (pandas' index) and empty cells at the end of a line are
left out, and so are rows whose cells are all empty.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cl2cm_jax.data.readers.text_lines import read_gzipped
from cl2cm_jax.errors import UserError, shortened
from cl2cm_jax.text.json_file import MOST_OF_A_RECORD, parse_json
from cl2cm_jax.text.languages import is_code
from cl2cm_jax.text.visible import visible

LIMIT = 80  # characters of a cell that are shown
MAX_LINE = 2_000_000  # characters
MAX_CELL = 100_000  # characters; Python's csv reads 131,072, unless another package changes that
SHORT, SHORT_ROWS = 15, 500_000  # a file of more rows has at least so many characters in each, on average
TOO_LONG = "close its quotation mark, or shorten it"
_SEPARATORS = ",;\t|"
_PANDAS_INDEX = re.compile(r"unnamed: \d+")  # its name once it was read and written again
_NOT_TEXT = {
    b"\x1f\x8b": "a gzipped file; add .gz to its name",
    b"PK\3\4": "a workbook or archive; save the sheet as CSV UTF-8",
}
_QUOTED_CELL = re.compile(r'(?:^|[\t\r\n])"')
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Columns(NamedTuple):
    """Names of the required and the optional columns of a file."""

    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def known(self) -> tuple[str, ...]:
        """All names."""
        return self.required + self.optional


class BadRow(Exception):
    """Why a row cannot be used: the field, and what is wrong with it and how to fix it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


Cells = dict[str, str] | BadRow


def text_of(file: Path) -> str:
    """The text of a file in UTF-8 or, with a byte-order mark, UTF-16, gzipped if its name ends in .gz.

    Bytes that are not UTF-8 become lone surrogates, so that the row they are in can be named.

    Raises:
      UserError: it is a file of another kind, a gzipped one is damaged or too large, or UTF-16 is damaged.
    """
    content = read_gzipped(file) if file.suffix.lower() == ".gz" else file.read_bytes()
    for mark, kind in _NOT_TEXT.items():
        if content.startswith(mark):
            raise UserError(f"{file} is {kind}")
    if content[:2] not in _UTF16:
        return content.decode("utf-8-sig", errors="surrogateescape")
    try:
        return content.decode("utf-16").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not valid UTF-16 (byte {error.start}); save the file as UTF-8") from error


def table_cells(path: str, text: str, *, separator: str, columns: Columns) -> Iterator[tuple[int, Cells]]:
    """The line, counted from 1, and the cells of each row of a CSV or TSV file.

    Args:
      path: of the file, for errors.
      text: its content.
      separator: of the cells, unless the first line shows another one.
      columns: that it must and may have.

    Raises:
      UserError: the columns are wrong, or a line is too long.
    """
    separator = _separator(text, columns, default=separator)
    lines = _lines(path, text)
    if separator == "\t" and not _is_quoted(text):
        rows: Iterable[tuple[int, list[str] | BadRow]] = _plain(lines)
    else:
        dialect = {"delimiter": separator, "skipinitialspace": _is_spaced(text, separator)}
        rows = _numbered(csv.reader(lines, strict=True, **dialect))
    return _with_header(path, rows, separator=separator, expected=columns)


def _separator(text: str, columns: Columns, *, default: str) -> str:
    """The separator with which the first line names all required columns; else that of its sep=, or the default."""
    first, second, *_ = [*(line.strip(' "\n') for line in io.StringIO(text[:10_000], newline=None)), "", ""]
    named = first[len("sep=") :] if first.lower().startswith("sep=") else ""
    header = second if named else first
    for separator in (named, default, *_SEPARATORS):
        if separator and set(columns.required) <= {_name(column) for column in header.split(separator)}:
            return separator
    return default


def _is_spaced(text: str, separator: str) -> bool:
    """Whether a blank follows each separator of the first line, and so stands before the quotation marks of cells."""
    first = text[:10_000].splitlines()[:1]
    return any(0 < line.count(separator) == line.count(separator + " ") for line in first)


def _name(column: str) -> str:
    """A column's name without blanks and marks around it, in lower case; "" of pandas' index."""
    name = "\t".join(map(visible, column.split("\t"))).strip(' "').lower()
    return "" if _PANDAS_INDEX.fullmatch(name) else name


def _is_quoted(text: str) -> bool:
    """Whether a TSV file is quoted throughout, as Excel writes it; else its quotation marks are part of the cells."""
    if not _QUOTED_CELL.search(text):
        return False
    try:  # a mark that is left open would join lines up to the next mark, and so their tabs
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
        return not any("\t" in cell for row in rows for cell in row)
    except csv.Error:
        return False


def _lines(path: str, text: str) -> Iterator[str]:
    """The lines of a text with their ends; raises UserError where one is too long, or very many are very short."""
    count = max(text.count("\n"), text.count("\r"))
    if count > SHORT_ROWS and len(text) < SHORT * count:
        reason = f"has {count:,} lines of fewer than {SHORT} characters on average"
        raise UserError(f"{path} {reason}; check that these are captions, and divide the file")
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if len(line) > MAX_LINE:
            raise UserError(f"{path}, line {number}: has {len(line):,} characters, and {MAX_LINE:,} are read")
        yield line


def _plain(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows of a TSV file without quotation; single cells may be quoted, which doubled marks in them show."""
    for number, line in enumerate(lines, start=1):
        if content := line.rstrip("\r\n"):
            cells = content.split("\t")
            yield number, [_unquoted(cell) for cell in cells] if '""' in content else cells


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    is_quoted = cell[:1] == cell[-1:] == '"' and '""' in inner and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else cell


def json_cells(text: str, *, path: str, columns: Columns) -> Iterator[tuple[int, Cells]]:
    """The line, counted from 1, and the cells of each object of a JSONL file.

    Raises:
      UserError: the file is one JSON array, or a line is too long.
    """
    for number, line in enumerate(_lines(path, text), start=1):
        if line.strip():
            if number == 1 and line.strip()[0] == "[":
                raise UserError(f"{path} is one JSON array; write one object a line, without brackets and commas")
            yield number, _json_row(line, columns)


def _json_row(line: str, columns: Columns) -> Cells:
    try:
        cells = parse_json(line, values=MOST_OF_A_RECORD, strict=False, once=True)
    except ValueError as error:
        return BadRow("line", f"is not JSON ({error}); write one object a line")
    if not isinstance(cells, dict):
        return BadRow("line", f"is a JSON {type(cells).__name__}; write one object a line")
    names = {field: field if field in columns.known else _name(field) for field in cells}
    if len(set(names.values())) == len(cells):
        cells = {names[field]: value for field, value in cells.items()}
    for field, value in cells.items():
        if field not in columns.known:
            return BadRow(shortened(field, limit=LIMIT), f"is not known{did_you_mean(field, columns.known)}")
        if not isinstance(value, str):
            found = f"a JSON {type(value).__name__}" if isinstance(value, list | dict) else json.dumps(value)
            return BadRow(shortened(field, limit=LIMIT), f"is {shortened(found, limit=LIMIT)}; write a string")
    missing = [field for field in columns.required if field not in cells]
    return BadRow(missing[0], "is missing; add it") if missing else cells


def _numbered(reader: Iterable[list[str]]) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Rows of a csv reader with the line that each starts at; what cannot be parsed is a BadRow."""
    iterator, start = iter(reader), 1
    while True:
        try:
            row: list[str] | BadRow = next(iterator)
        except StopIteration:
            return
        except csv.Error as error:
            row = BadRow("line", f"cannot be read as CSV ({error}); check its quotation marks")
            if "field limit" in str(error):
                row = BadRow("line", f"has a cell of more than {MAX_CELL:,} characters; {TOO_LONG}")
        if row:
            yield start, row
        start = iterator.line_num + 1  # type: ignore[attr-defined]


def _with_header(
    path: str, rows: Iterable[tuple[int, list[str] | BadRow]], *, separator: str, expected: Columns
) -> Iterator[tuple[int, Cells]]:
    iterator = iter(rows)
    line, header = next(iterator, (1, []))
    if isinstance(header, BadRow):
        raise UserError(f"{path}, line {line}: {header.reason}")
    if header and header[0].lower().startswith("sep="):
        line, header = next(iterator, (2, []))
        if isinstance(header, BadRow):
            raise UserError(f"{path}, line {line}: {header.reason}")
    if any("\0" in column for column in header):
        raise UserError(f"{path}, line {line}: is not UTF-8 text (UTF-16, perhaps); save the file as UTF-8")
    columns = [_name(column) for column in header]
    first = next((place for place, column in enumerate(columns) if column), 0)
    columns = columns[first:]
    while columns and not columns[-1]:
        columns.pop()
    _check_columns(path, columns, separator, expected)
    for line, row in iterator:
        cells = row if isinstance(row, BadRow) else row[first:]
        if isinstance(cells, BadRow):
            yield line, cells
            continue
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if not any(map(str.strip, cells)):
            continue
        if len(cells) != len(columns):
            quoting = '; put a cell that holds a comma in "quotation marks"' if separator == "," else ""
            yield line, BadRow("line", f"has {len(cells)} cells where the header has {len(columns)}{quoting}")
        else:
            yield line, dict(zip(columns, cells, strict=True))


def _check_columns(path: str, columns: list[str], separator: str, expected: Columns) -> None:
    known = expected.required + expected.optional
    if not all(column.replace("\t", "").isprintable() for column in columns):
        raise UserError(f"{path}, line 1: is not UTF-8 text (UTF-16, perhaps); save the file as UTF-8")
    for column in columns:
        if column not in known:
            others = [other for other in "\t;,|" if other != separator and other in column]
            hint = f"; the cells seem to be separated by {others[0]!r}, not {separator!r}" if others else ""
            if is_code(column) and "language" in expected.required and "language" not in columns:
                hint = "; write one row for each caption, with its language in a column 'language'"
            hint = hint or f"{did_you_mean(column, known)} or remove the column"
            if others := [other for other in columns if other not in known and other != column]:
                hint += f"; unknown as well: {', '.join(map(shown, others[:8]))}{', ...' * (len(others) > 8)}"
            raise UserError(
                f"{path}, line 1: unknown column {shown(column)}{hint}",
                id="caption-columns",
            )
        if columns.count(column) > 1:
            raise UserError(f"{path}, line 1: column {column!r} is there twice; remove one")
    for column in expected.required:
        if column not in columns:
            raise UserError(f"{path}, line 1: column {column!r} is missing; the first line names the columns")


def shown(value: str) -> str:
    """A cell for a message, shortened."""
    return repr(shortened(value, limit=LIMIT))


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """The nearest of the known names as the end of a message, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(value[:LIMIT], names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; use one of {', '.join(names)}"
