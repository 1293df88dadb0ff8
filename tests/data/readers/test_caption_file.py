"""Every kind of bad row is named by file, line and field."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from pathlib import Path

import pytest

from cl2cm_jax.data.captions import CaptionTable
from cl2cm_jax.data.readers import caption_file, tables, text_lines
from cl2cm_jax.data.readers.caption_file import REQUIRED, read_caption_file
from cl2cm_jax.errors import UserError

HEADER = b"image,language,caption\n"
LONG = "x" * 100_000


def read(folder: Path, content: bytes, name: str = "captions.csv") -> CaptionTable:
    (folder / name).write_bytes(content)
    return read_caption_file(str(folder / name), image_is_path=True)


def test_csv_tsv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    csv_rows = read(tmp_path, HEADER + b'a.png,en,"a cat, red"\nb.png,de,Hund\n').rows
    tsv_rows = read(tmp_path, b"image\tlanguage\tcaption\na.png\ten\ta cat, red\nb.png\tde\tHund\n", "c.tsv").rows
    lines = (
        b'{"image":"a.png","language":"en","caption":"a cat, red"}\n{"image":"b.png","language":"de","caption":"Hund"}'
    )
    jsonl_rows = [(r.image, r.language, r.caption) for r in read(tmp_path, lines, "c.jsonl").rows]
    assert csv_rows == tsv_rows
    assert jsonl_rows == [(r.image, r.language, r.caption) for r in csv_rows]
    assert jsonl_rows == [("a.png", "en", "a cat, red"), ("b.png", "de", "Hund")]


@pytest.mark.parametrize("name", ["c.csv.gz", "c.CSV.GZ", "c.tsv.gz", "c.jsonl.gz"])
def test_gzipped_files_say_the_same(tmp_path: Path, name: str) -> None:
    plain = {
        "csv": b"image,language,caption\na.png,en,a cat\n",
        "tsv": b"image\tlanguage\tcaption\na.png\ten\ta cat\n",
        "jsonl": b'{"image":"a.png","language":"en","caption":"a cat"}\n',
    }[name.lower().split(".")[1]]
    (row,) = read(tmp_path, gzip.compress(plain), name).rows
    assert (row.image, row.language, row.caption) == ("a.png", "en", "a cat")


def test_a_gzipped_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = gzip.compress(HEADER + b"a.png,en,a cat\n" * 30)
    with pytest.raises(UserError, match=r"c.csv.gz cannot be read \(Compressed file ended .*\); get a fresh copy"):
        read(tmp_path, good[:-12], "c.csv.gz")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path, HEADER, "c.csv.gz")
    monkeypatch.setattr(text_lines, "MAX_LINES", 20)
    with pytest.raises(UserError, match="has 31 lines, and 20 are read"):
        read(tmp_path, good, "c.csv.gz")
    monkeypatch.setattr(text_lines, "MAX_UNPACKED", 100)
    with pytest.raises(UserError, match="unpacks to more than 100 bytes"):
        read(tmp_path, good, "c.csv.gz")


def test_a_machine_may_find_the_words_of_a_person(tmp_path: Path) -> None:
    header = b"image,language,caption,origin\n"
    found = read(tmp_path, header + b"a.png,de,Hund,human\na.png,de,Hund,machine\na.png,de,Hund,human\n")
    assert [row.origin for row in found.rows] == ["human", "machine"]
    assert [(problem.line, problem.field) for problem in found.problems] == [(4, "caption")]


def test_byte_order_mark_windows_lines_and_column_order(tmp_path: Path) -> None:
    content = "\ufeffcaption,image,split,language,origin\r\nein Hund,./x/../b.png,dev,de,machine\r\n".encode()
    (row,) = read(tmp_path, content).rows
    assert (row.image, row.language, row.caption) == ("b.png", "de", "ein Hund")
    assert (row.split, row.origin, row.line) == ("validation", "machine", 2)


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (b"a.png,en,", "caption", "is empty"),
        (b"a.png,en,   ", "caption", "is empty"),
        (b",en,a cat", "image", "is empty"),
        (b"a.png,,a cat", "language", "is empty"),
        (b"a.png,german!,a cat", "language", "'german!'"),
        (b"a.png,en,a\0cat", "caption", "NUL byte"),
        (b"a.png,en,caf\xe9", "caption", "not valid UTF-8"),
        (b"\xff.png,en,a cat", "image", "not valid UTF-8"),
        (b"a.png,en", "line", "has 2 cells where the header has 3"),
        (b"a.png,en,red, round", "line", "quotation marks"),
        (b"a.png,en,dog", "caption", "same as in line 2"),
        (b'a.png,en,"dog', "line", "cannot be read as CSV"),
    ],
)
def test_bad_row_is_named_and_the_others_are_read(tmp_path: Path, bad: bytes, field: str, reason: str) -> None:
    after = b"" if bad.endswith(b'"dog') else b"b.png,en,cat\n"  # an open quotation mark swallows the rest
    found = read(tmp_path, HEADER + b"a.png,en,dog\n" + bad + b"\n" + after)
    (problem,) = found.problems
    assert (problem.line, problem.field) == (3, field)
    assert reason in problem.reason
    assert str(problem).startswith(f"{tmp_path}/captions.csv, line 3, field {field}: ")
    assert [row.caption for row in found.rows] == (["dog", "cat"] if after else ["dog"])


def test_line_numbers_count_quoted_line_breaks(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + b'a.png,en,"two\nlines"\n\nb.png,en,\n')
    assert found.rows[0].caption == "two lines"
    assert [problem.line for problem in found.problems] == [5]


@pytest.mark.parametrize(
    ("bad", "field", "reason"),
    [
        (b"not json", "line", "is not JSON"),
        (b"[1, 2]", "line", "JSON list"),
        (b"[" * 200_000, "line", "is not JSON"),
        (b'{"image": [' + b"[]," * 100_000 + b"[]]}", "line", "values, and 100,000 are read"),
        (b'{"image": ' + b"[" * 500 + b"]" * 500 + b', "language": "en", "caption": "x"}', "image", "is a JSON list"),
        (b'{"image": "a", "language": "en"}', "caption", "is missing"),
        (b'{"image": "a", "language": "en", "caption": 3}', "caption", "write a string"),
        (b'{"image": "a", "language": "en", "caption": "x", "caption": "y"}', "line", "'caption' is there twice"),
        (b'{"image": "a", "language": "en", "caption": null}', "caption", "is null"),
        (b'{"image": "a", "language": "en", "captoin": "x"}', "captoin", "did you mean 'caption'?"),
        (b'{"image": "a", "language": "en", "caption": "\\ud800"}', "caption", "not valid UTF-8"),
        (b'{"image": "a", "language": "en", "caption": "\\u0000"}', "caption", "NUL byte"),
        (b'{"image": "a", "language": "en", "caption": "y", "split": "test"}', "split", "in all rows or in none"),
    ],
)
def test_bad_json_row(tmp_path: Path, bad: bytes, field: str, reason: str) -> None:
    found = read(tmp_path, b'{"image": "b", "language": "en", "caption": "x"}\n\n' + bad, "c.jsonl")
    (problem,) = found.problems
    assert (problem.line, problem.field) == (3, field)
    assert reason in problem.reason


def test_split_and_origin_values(tmp_path: Path) -> None:
    header = b"image,language,caption,split,origin\n"
    rows = b"a,en,x,train,human\na,de,y,test,human\nb,en,x,trian,human\nc,en,x,test,humann\n"
    found = read(tmp_path, header + rows)
    assert [(p.line, p.field) for p in found.problems] == [(3, "split"), (4, "split"), (5, "origin")]
    assert "in line 2 image 'a' is in 'train'" in found.problems[0].reason
    assert "did you mean 'train'?" in found.problems[1].reason
    assert "did you mean 'human'?" in found.problems[2].reason


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("image,language,caption\n".encode("utf-16-le"), "c.csv", "line 1: is not UTF-8 text"),
        (b"\xff\xfei\0m\0", "c.csv", "unknown column 'im'"),
        (b"\xff\xfei", "c.csv", r"c.csv is not valid UTF-16 \(byte 2\)"),
        (b"image,language,captoin\n", "c.csv", "unknown column 'captoin'; did you mean 'caption'?"),
        (b"image;language;captoin\n", "c.csv", "separated by ';'"),
        (b"filepath\ttitle\n", "c.csv", r"separated by '\\t'"),
        (b"image,en,de\n", "c.csv", "unknown column 'en'; write one row for each caption"),
        (b'[\n {"image": "a"}]', "c.jsonl", "is one JSON array; write one object a line"),
        (b"PK\3\4", "c.xlsx", "must end in .csv.*; save the sheet as CSV UTF-8"),
        (b"image,language,caption,id\n", "c.csv", "unknown column 'id'; use one of .* or remove the column"),
        (
            b"image,language,caption,title,artist,year\n",
            "c.csv",
            "unknown column 'title'.*; unknown as well: 'artist', 'year'",
        ),
        (b"\x1f\x8b\x08", "c.csv", "c.csv is a gzipped file; add .gz"),
        (b"PK\3\4", "c.csv", "c.csv is a workbook"),
        (b"x", "c.ndjson", "must end in .csv.*; name it .jsonl"),
        (b"PAR1", "c.parquet", "must end in .csv.*; write it as CSV, with pandas"),
        (b'{"images": []}', "c.json", "must end in .csv.*; write one object"),
        (b"image,language\n", "c.csv", "column 'caption' is missing"),
        (b"image,language,caption,image\n", "c.csv", "'image' is there twice"),
        (b"", "c.csv", "column 'image' is missing"),
        (HEADER, "c.csv", "has no rows"),
        (b"\n\n", "c.jsonl", "has no rows"),
        (b"x", "c.txt", "must end in .csv, .tsv or .jsonl"),
    ],
)
def test_a_wrong_file_stops(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, content, name)


def test_a_missing_file_stops(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        read_caption_file(str(tmp_path / "none.csv"), image_is_path=True)


def test_translations_of_queries_may_be_the_same(tmp_path: Path) -> None:
    lines = "a.png,de,ein Hund\na.png,de,der Hund\na.png,de2en,a dog\na.png,de2en,a dog\na.png,zh-TW2en,a dog\n"
    found = read(tmp_path, HEADER + lines.encode())
    assert [row.language for row in found.rows] == ["de", "de", "de2en", "de2en", "zh-TW2en"]
    assert found.problems == []
    again = read(tmp_path, HEADER + lines.encode() + b"a.png,de,ein Hund\na.png,2en,a dog\n").problems
    assert [(problem.line, problem.field) for problem in again] == [(7, "caption"), (8, "language")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", f"image,language,caption,{LONG}\n"),
        ("a.tsv", f"image\tlanguage\tcaption\n{LONG}\t{LONG}\tdog\n"),
        ("a.tsv", f"image\tlanguage\tcaption\tsplit\na\tde\tdog\t{LONG}\n"),
        ("a.tsv", f"image\tlanguage\tcaption\torigin\na\tde\tdog\t{LONG}\n"),
        ("a.tsv", "image\tlanguage\tcaption\n" + f"{LONG}\tde\tdog\n" * 2),
        ("a.jsonl", f'{{"{LONG}": "a"}}\n'),
        ("a.jsonl", f'{{"image": {"1" * 4000}}}\n'),
    ],
    ids=["column", "language", "split", "origin", "image", "field", "number"],
)
def test_a_long_cell_is_not_shown_whole(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    try:
        said = str(read_caption_file(str(tmp_path / name), image_is_path=True).problems[0])
    except UserError as error:
        said = str(error)
    assert "..." in said and len(said) < len(str(tmp_path)) + 300


def test_a_language_of_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    language = b"de" + b"-x2de" * 200_000
    start = time.process_time()
    found = read(tmp_path, b"image\tlanguage\tcaption\na\t" + language + b"!\tx\n", "c.tsv")
    assert found.problems[0].field == "language" and time.process_time() - start < 5


ROWS = [["image", "language", "caption"], ["a.png", "en", 'a "red" dog, running'], ["a.png", "de", "ein Hund; é"]]
PLAIN = [["image", "language", "caption"], ["a.png", "en", "a red dog"], ["a.png", "de", "ein Hund, é"]]


def table(rows: list[list[str]], separator: str = ",", end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("excel.tsv", table(ROWS, "\t", "\r\n")),
        ("all_quoted.tsv", table(ROWS, "\t", quoting=csv.QUOTE_ALL)),
        ("excel.csv", "\ufeff" + table(ROWS, ",", "\r\n")),
        ("german_excel.csv", table(ROWS, ";", "\r\n")),
        ("tabs.csv", table(ROWS, "\t")),
        ("commas.tsv", table(ROWS, ",")),
        ("sep.csv", "sep=,\r\n" + table(ROWS, ",", "\r\n")),
        ("sep_quoted.csv", '"sep=;"\r\n' + table(ROWS, ";", "\r\n")),
        ("sep_tab.csv", "sep=\t\r\n" + table(ROWS, "\t", "\r\n")),
        ("sep_semicolon.csv", "\ufeffsep=;\r\n" + table(ROWS, ";", "\r\n")),
        ("old_mac.csv", table(ROWS, ",", "\r")),
        ("old_mac.tsv", "\r".join("\t".join(row) for row in ROWS) + "\r"),
        ("plain.tsv", "\n".join("\t".join(row) for row in ROWS)),
        ("trailing.csv", table([[*row, ""] for row in ROWS])),
        ("trailing_rows.csv", table([ROWS[0], *([*row, "", ""] for row in ROWS[1:])])),
        ("pandas_index.csv", table([["", *ROWS[0]], *([str(n), *row] for n, row in enumerate(ROWS[1:]))])),
        ("pandas_index_twice.csv", table([["", "Unnamed: 0", *ROWS[0]], *(["0", "0", *row] for row in ROWS[1:])])),
        ("bars.csv", table(ROWS, "|")),
        (
            "spaced.csv",
            'Image, language , CAPTION\u00a0\na.png, en, "a ""red"" dog, running"\na.png, de, ein Hund; é\n',
        ),
        ("blank_rows.csv", table(ROWS) + ",,\n , ,\n\n\n"),
        ("blank_rows.tsv", table(ROWS, "\t") + "\t\t\n\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_files_of_common_programs_say_the_same(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    found = read(tmp_path, content.encode(encoding), name)
    assert [[row.image, row.language, row.caption] for row in found.rows] == ROWS[1:]
    assert found.problems == []


@pytest.mark.parametrize(
    "captions",
    [
        ['"Stop" on a sign', "two dogs"],
        ['"Stop', "it", 'now"'],  # of one file: the mark of a line does not join it with a later one
        ['5" of snow', '"'],
    ],
)
def test_quotation_marks_of_a_plain_tsv_are_kept(tmp_path: Path, captions: list[str]) -> None:
    lines = [f"{number}.png\ten\t{caption}\n" for number, caption in enumerate(captions)]
    found = read(tmp_path, ("image\tlanguage\tcaption\n" + "".join(lines)).encode(), "c.tsv")
    assert [row.caption for row in found.rows] == captions
    assert [row.line for row in found.rows] == list(range(2, 2 + len(captions)))


def test_a_quoted_cell_among_plain_ones_is_unquoted(tmp_path: Path) -> None:
    lines = 'image\tlanguage\tcaption\na.png\ten\t"Stop" sign\nb.png\ten\t"a ""red"" dog"\n'
    assert [row.caption for row in read(tmp_path, lines.encode(), "c.tsv").rows] == ['"Stop" sign', 'a "red" dog']


@pytest.mark.parametrize("size", [tables.MAX_CELL + 1, 200_000])  # Python's csv reads 131,072
@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
def test_a_cell_that_is_too_long_is_a_line_in_every_format(tmp_path: Path, name: str, size: int) -> None:
    rows = [["a.png", "en", "x" * size], ["b.png", "en", "x" * tables.MAX_CELL]]
    separator = "," if name == "c.csv" else "\t"
    text = "".join(separator.join(row) + "\n" for row in [list(REQUIRED), *rows])
    if name == "c.jsonl":
        text = "\n" + "".join(json.dumps(dict(zip(REQUIRED, row, strict=True))) + "\n" for row in rows)
    found = read(tmp_path, text.encode(), name)
    assert [row.image for row in found.rows] == ["b.png"]
    (problem,) = found.problems
    assert problem.line == 2 and "100,000" in problem.reason and "characters" in problem.reason
    assert problem.reason.endswith("; close its quotation mark, or shorten it")


def test_only_what_is_seen_of_a_caption_counts(tmp_path: Path) -> None:
    rows = [
        "a.png,en,\u200ba\u00a0red\u2003dog\ufeff",
        "b.png,DE,\u202aHu\u00adnd\u202c",
        "c.png,fr,\u200b",
        "d.png,fa,\u0645\u06cc\u200c\u0631\u0648\u0645",
        "e.png,en,family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "f.png,fr,cafe\u0301",
    ]
    found = read(tmp_path, HEADER + "\n".join(rows).encode())
    assert [row.caption for row in found.rows] == [
        "a red dog",
        "Hund",
        "\u0645\u06cc\u200c\u0631\u0648\u0645",
        "family \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "caf\u00e9",
    ]
    assert [(problem.line, problem.field, problem.reason[:8]) for problem in found.problems] == [
        (4, "caption", "is empty")
    ]


def test_values_that_programs_write_for_something_else_are_named(tmp_path: Path) -> None:
    rows = "a.png,de,NaN\na.png,de,#REF!\nhttps://example.com/a.png,de,ein Hund\na.png,de,caf\xe9\n".encode("cp1252")
    reasons = [f"{problem.field} {problem.reason}" for problem in read(tmp_path, HEADER + rows).problems]
    assert reasons[0].startswith("caption is 'NaN', a missing value")
    assert reasons.pop(1).startswith("caption is '#REF!', a missing value")
    assert reasons[1].startswith("image is the address 'https://example.com/a.png'; download")
    assert reasons[2].startswith("caption is not valid UTF-8 (in Windows-1252, 'caf\xe9'); save the file as UTF-8")
    ids = read_caption_file(str(tmp_path / "captions.csv"), image_is_path=False)
    assert [row.image for row in ids.rows] == ["https://example.com/a.png"]


def test_restval_is_training_in_karpathys_split(tmp_path: Path) -> None:
    found = read(tmp_path, b"image,language,caption,split\na,en,x,restval\nb,en,x,val\n")
    assert [row.split for row in found.rows] == ["train", "validation"]


def test_forms_of_one_language_code_are_one_language(tmp_path: Path) -> None:
    rows = "a.png,DE,x\nb.png,de-DE,x\nc.png,de_de,x\nd.png,zh_CN,x\ne.png,zh-Hans,x\na.png,de,x\nf.png,deu2EN,x\n"
    found = read(tmp_path, HEADER + rows.encode())
    assert [row.language for row in found.rows] == ["de", "de", "de", "zh", "zh", "de2en"]
    assert [(problem.line, problem.field) for problem in found.problems] == [(7, "caption")]


def test_a_file_that_is_mostly_bad_is_refused_before_its_rows_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_file, "MAX_PROBLEMS", 100)
    good = "".join(f"{number}.png,en,a cat\n" for number in range(300)).encode()
    assert len(read(tmp_path, HEADER + good + b"x\n" * 250).problems) == 250
    with pytest.raises(
        UserError, match=r"more than half of .*captions.csv cannot be used; .*line 2, field line: has 1 c"
    ):
        read(tmp_path, HEADER + b"x\n" * 101)


def test_a_line_of_megabytes_is_refused_before_it_is_divided(tmp_path: Path) -> None:
    for name, content in (
        ("c.csv", HEADER + b"," * 2_000_001),
        ("c.csv", b"x," * 1_000_001),
        ("c.jsonl", b"[" * 2_000_001),
    ):
        with pytest.raises(UserError, match=r"line \d: has 2,000,00\d characters, and 2,000,000 are read"):
            read(tmp_path, content, name)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl"])
def test_very_many_short_lines_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(tables, "SHORT_ROWS", 100)
    long = "".join(f"{number}.png,en,a cat\n" for number in range(100, 300))
    assert len(read(tmp_path, HEADER + long.encode()).rows) == 200
    header = {"c.csv": HEADER, "c.tsv": HEADER.replace(b",", b"\t"), "c.jsonl": b"{}\n"}[name]
    with pytest.raises(UserError, match="has 201 lines of fewer than 15 characters on average"):
        read(tmp_path, header + b"x\n" * 200, name)
