"""Parallel text files and what can be wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cl2cm_jax.data.captions import by_split
from cl2cm_jax.data.readers.parallel_text import read_parallel
from cl2cm_jax.errors import UserError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "multi30k"
LINES = {"en": ["a dog", "a red car"], "de": ["ein Hund", "ein rotes Auto"]}


def write(folder: Path, *, ending: str = "", names: tuple[str, ...] = ("train", "val", "test")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for language, lines in LINES.items():
            content = "".join(f"{line}\n" for line in lines).encode()
            path = folder / f"{name}.{language}{ending}"
            path.write_bytes(gzip.compress(content) if ending else content)
    return folder


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_image_is_one_line_in_every_language(tmp_path: Path, ending: str) -> None:
    records = by_split(read_parallel(write(tmp_path, ending=ending), languages=("en", "de")).rows)
    assert list(records) == ["train", "validation", "test"]
    second = records["test"]["test-2"]
    assert [(row.language, row.caption) for row in second] == [("en", "a red car"), ("de", "ein rotes Auto")]
    assert {row.picture for row in second} == {""}


def test_a_copy_of_multi30ks_repository_will_do(tmp_path: Path) -> None:
    write(tmp_path / "data" / "task1" / "raw", ending=".gz", names=("train", "val", "test_2016_flickr"))
    assert len(by_split(read_parallel(tmp_path, languages=("en", "de")).rows)["test"]) == 2


def test_files_with_another_form_of_a_code_are_found(tmp_path: Path) -> None:
    write(tmp_path)
    for file in tmp_path.glob("*.de"):
        file.rename(file.with_suffix(".zh-Hant"))
    rows = read_parallel(tmp_path, languages=("en", "zh-TW")).rows
    assert {row.language for row in rows} == {"en", "zh-TW"}


def test_a_limit_shortens_training_alone(tmp_path: Path) -> None:
    records = by_split(read_parallel(write(tmp_path), languages=("de", "en"), limit=1).rows)
    assert [len(some) for some in records.values()] == [1, 2, 2]
    assert records["train"]["train-1"][0].caption == "ein Hund"


def test_a_line_separator_within_a_line_ends_none(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train.en").write_text("a\u2028dog\na car\r\n", encoding="utf-8")
    rows = read_parallel(tmp_path, languages=("en", "de")).rows
    english = [row.caption for row in rows if (row.split, row.language) == ("train", "en")]
    assert english == ["a\u2028dog", "a car"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val.de", b"ein Hund\n", "val.de has 1 lines but {}/val.en has 2; line i of each must be the same sentence"),
        ("val.de", b"ein Hund\n\n", "val.de: line 2 is empty"),
        ("val.de", b"", "val.de: is empty"),
        ("val.de", b"ein Hund\n\xff\n", "val.de is not valid UTF-8 (byte 9)"),
        ("val.de", None, "{} has no val.de[.gz] or validation.de[.gz] or valid.de[.gz] or dev.de[.gz]; add it"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    write(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_parallel(tmp_path, languages=("en", "de"))
    assert message.format(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_gzip_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path, ending=".gz")
    (tmp_path / "test.de.gz").write_bytes((tmp_path / "test.de.gz").read_bytes()[:20])
    with pytest.raises(UserError, match=r"test\.de\.gz cannot be read"):
        read_parallel(tmp_path, languages=("en", "de"))
    with pytest.raises(UserError, match=r"--text=.*none is not a folder; name one with train\.en"):
        read_parallel(tmp_path / "none", languages=("en", "de"))


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/multi30k is not there: no real text to read")
def test_multi30ks_own_text() -> None:
    records = by_split(read_parallel(REAL, languages=("en", "de", "fr", "cs")).rows)
    assert {split: len(some) for split, some in records.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    first = records["train"]["train-1"]
    assert [len(c.caption.split()) for c in first] == [9, 12, 9, 9]  # their text is not ours to print
    assert [c.language for c in first] == ["en", "de", "fr", "cs"]
