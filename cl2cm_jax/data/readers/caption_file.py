"""Reads a caption file: CSV, TSV or JSONL, perhaps gzipped, with the columns of `REQUIRED` and `OPTIONAL`.

A file that cannot be read or has wrong columns raises; a wrong row becomes a `Problem` and is left out.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from cl2cm_jax.data.captions import ORIGINS, SPLITS, Caption, CaptionTable
from cl2cm_jax.data.readers.odd_captions import OddCaptions
from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.data.readers.tables import (
    MAX_CELL,
    TOO_LONG,
    BadRow,
    Cells,
    Columns,
    did_you_mean,
    json_cells,
    shown,
    table_cells,
    text_of,
)
from cl2cm_jax.errors import UserError
from cl2cm_jax.text.languages import canonical, is_code, is_translation
from cl2cm_jax.text.visible import visible

REQUIRED = ("image", "language", "caption")
OPTIONAL = ("split", "origin")
_SPLITS = {"train": "train", "restval": "train", "test": "test"} | dict.fromkeys(
    ("validation", "val", "valid", "dev"), "validation"
)
_UNDECODED = re.compile("[\ud800-\udfff]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# what programs write for a missing value, and Excel for a formula that has none
_MISSING = frozenset(
    {"NaN", "<NA>", "#N/A", "NULL", "None", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!"}
)
_INSTEAD = {  # what to do about files of other kinds
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as CSV UTF-8"),
    **dict.fromkeys((".parquet", ".feather", ".arrow"), "write it as CSV, with pandas for example"),
    ".txt": "name it .tsv if its cells are separated by tabs, as in Excel's Unicode text",
    **dict.fromkeys((".tab", ".psv"), "name it .tsv or .csv"),
    ".ndjson": "name it .jsonl",
    ".json": "write one object with image, language and caption for each caption, one a line, as .jsonl",
}
MAX_PROBLEMS = 100_000  # bad rows of a file that is mostly bad


CAPTIONS = Columns(REQUIRED, OPTIONAL)
_SEPARATOR = {".csv": ",", ".tsv": "\t", ".jsonl": ""}


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
    suffix = Path(file.name.lower().removesuffix(".gz")).suffix
    if suffix not in _SEPARATOR:
        instead = f"; {_INSTEAD[suffix]}" if suffix in _INSTEAD else ""
        raise UserError(
            f"config.data.captions={path!r} must end in .csv, .tsv or .jsonl, each with .gz or without{instead}"
        )
    text, separator = text_of(file), _SEPARATOR[suffix]
    if separator:
        found = table_cells(path, text, separator=separator, columns=CAPTIONS)
    else:
        found = json_cells(text, path=path, columns=CAPTIONS)
    rows: list[Caption] = []
    problems: list[Problem] = []
    seen, odd = _Seen(), OddCaptions()
    for line, cells in found:
        try:
            row = _checked(line, cells)
            if image_is_path:
                if _URL.match(row.image):
                    raise BadRow("image", f"is the address {shown(row.image)}; download the picture and name its file")
                row = row._replace(image=posixpath.normpath(row.image))
            seen.check(row)
            rows.append(row)
            odd.see(line, "" if isinstance(cells, BadRow) else cells["caption"])  # which `_checked` has refused
        except BadRow as bad:
            problems.append(Problem(path, line, bad.field, bad.reason))
            if len(problems) > max(MAX_PROBLEMS, len(rows)):
                first = problems[0]
                raise UserError(f"more than half of {path} cannot be used; the first row of these: {first}") from bad
    if not rows and not problems:
        raise UserError(f"{path} has no rows; give it lines of image, language and caption")
    return CaptionTable(rows, [*problems, *odd.notes(path)])


def without_repeats(rows: Iterable[Caption], problems: Iterable[Problem], *, path: str) -> CaptionTable:
    """The table of rows whose images were renamed: one that now repeats or contradicts an earlier one is a problem."""
    seen, table = _Seen(), CaptionTable([], list(problems))
    for row in rows:
        try:
            seen.check(row)
            table.rows.append(row)
        except BadRow as bad:
            table.problems.append(Problem(path, row.line, bad.field, bad.reason))
    return table


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
    if serious := content.serious:
        raise UserError(f"{flag}={path}: {serious[0]}; {len(serious)} such rows in all")
    for note in content.problems:
        logging.warning("%s=%s: %s", flag, path, note.reason)
    return content.rows


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
        text = text_of(Path(path))
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be read ({error.strerror}); name a CSV file in UTF-8") from error
    rows: list[tuple[int, dict[str, str]]] = []
    for line, cells in table_cells(f"{flag}={path}", text, separator=",", columns=columns):
        try:
            rows.append((line, _clean(cells, columns.required)))
        except BadRow as bad:
            raise UserError(f"{flag}={path}, line {line}, {bad.field}: {bad.reason}") from bad
    if not rows:
        raise UserError(f"{flag}={path} has no rows; give it lines of {' and '.join(columns.required)}")
    return rows


def _clean(cells: Cells, filled: Iterable[str]) -> dict[str, str]:
    """Checked cells, what is white space in them one blank; those of the columns `filled` are not empty."""
    if isinstance(cells, BadRow):
        raise cells
    for field, value in cells.items():
        if not value.isascii() and _UNDECODED.search(value):
            raise BadRow(field, f"is not valid UTF-8{_guessed(value)}; save the file as UTF-8 (Excel: CSV UTF-8)")
        if len(value) > MAX_CELL:
            raise BadRow(field, f"has {len(value):,} characters, and {MAX_CELL:,} are read; {TOO_LONG}")
        if "\0" in value:
            raise BadRow(field, "holds a NUL byte; remove it")
    clean = {field: visible(value) for field, value in cells.items()}
    for field in filled:
        if not clean[field]:
            raise BadRow(field, "is empty; fill it in or remove the row")
    return clean


def _guessed(value: str) -> str:
    """How a cell that is not UTF-8 reads as Windows-1252, for a message; "" if it does not."""
    try:
        return f" (in Windows-1252, {shown(value.encode('utf-8', 'surrogateescape').decode('cp1252'))})"
    except UnicodeError:
        return ""


def _checked(line: int, cells: Cells) -> Caption:
    if isinstance(cells, BadRow):
        raise cells
    clean = _clean(cells, cells)
    if clean["caption"] in _MISSING:
        raise BadRow("caption", f"is {clean['caption']!r}, a missing value; fill it in or remove the row")
    if not is_code(clean["language"]) and not is_translation(clean["language"]):
        raise BadRow("language", f"is {shown(clean['language'])}; write a code such as 'de' or 'zh-TW'")
    split = clean.get("split", "")
    if split and split.lower() not in _SPLITS:
        raise BadRow("split", f"is {shown(split)}{did_you_mean(split.lower(), SPLITS)}")
    origin = clean.get("origin", "human").lower()
    if origin not in ORIGINS:
        raise BadRow("origin", f"is {shown(origin)}{did_you_mean(origin, ORIGINS)}")
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
    except BadRow as bad:
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
            raise BadRow("split", f"must be in all rows or in none, and line {self._first.line} differs from this")
        # a machine translation may equal a human caption, and the origin chooses between them
        first = self._line_of.setdefault((row.image, row.language, row.caption, row.origin), row.line)
        # two captions may have one translation, and each needs its own row
        if first != row.line and not is_translation(row.language):
            raise BadRow("caption", f"is the same as in line {first} for image {shown(row.image)}; remove one")
        split, line = self._split_of.setdefault(row.image, (row.split, row.line))
        if split != row.split:
            raise BadRow(
                "split", f"is {row.split!r} but in line {line} image {shown(row.image)} is in {split!r}; keep one"
            )
