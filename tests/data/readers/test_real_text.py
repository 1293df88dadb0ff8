"""The readers on real text in many scripts, where it lies beside the project; none of it is copied or printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl2cm_jax.data.captions import by_split
from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.data.readers.parallel_text import read_parallel
from cl2cm_jax.data.sets.paper.captions import partners, read_caption_lines

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"
XFLICKR = ("de", "en", "es", "id", "ja", "ru", "tr", "zh")


def real(name: str) -> Path:
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"no ../shared/data/{name} beside the project: nothing real to read")
    return folder


def xflickr(language: str) -> list[tuple[str, str]]:
    """(image id, caption) in the order of the file."""
    file = real("iglue-xflickrco") / "xFlickrCO" / language / "test.jsonl"
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [(Path(row["img_path"]).stem, row["sentences"][0]) for row in rows]


def coco_cn() -> list[tuple[str, str, str]]:
    """(image id, number, caption) in the order of the file."""
    file = real("coco-cn-ext") / "coco-cn_ext.icap2020.txt"
    lines = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return [(*name.split("#"), caption) for name, caption in lines]  # pyright: ignore[reportReturnType]


WIDE = {code: code - 0xFEE0 for first, last in ("０９", "ＡＺ", "ａｚ") for code in range(ord(first), ord(last) + 1)}


def plain(text: str) -> str:
    """As a caption is kept: in one line, of letters of usual width, without zero-width spaces and backspaces."""
    return " ".join(text.translate(WIDE | {0x200B: None, 8: None}).split())


@pytest.mark.parametrize("language", ["ar_arab", "es", "uk", "zh_hans", "zh_hant"])
def test_multiscript30ks_translations_are_as_long_as_multi30k(language: str) -> None:
    rows = read_parallel(real("multiscript30k") / f"en-{language}", languages=(language,)).rows
    records = by_split(rows)
    assert {split: len(found) for split, found in records.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    assert {row.language for row in rows} == {language}


def test_a_caption_file_of_eight_languages_and_its_two_empty_captions(tmp_path: Path) -> None:
    rows = [(image, language, caption) for language in XFLICKR for image, caption in xflickr(language)]
    keys = ("image", "language", "caption")
    lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "c.jsonl").write_text("".join(lines), encoding="utf-8", newline="")
    read = read_caption_file(str(tmp_path / "c.jsonl"), image_is_path=False)
    empty = [number for number, row in enumerate(rows, start=1) if not row[2].strip()]
    assert [problem.line for problem in read.problems if not problem.is_note] == empty and len(empty) == 2
    assert ["HTML" in problem.reason for problem in read.problems if problem.is_note] == [True]
    expected = [(image, language, plain(caption)) for image, language, caption in rows if caption.strip()]
    are_equal = [(row.image, row.language, row.caption) for row in read.rows] == expected
    assert are_equal  # their text is not ours to print
    assert len(rows) == 2000 * len(XFLICKR)


def test_tab_separated_captions_of_coco_cn(tmp_path: Path) -> None:
    rows = coco_cn()
    lines = ["image\tlanguage\tcaption", *(f"{image}\tzh\t{caption}" for image, _, caption in rows)]
    (tmp_path / "c.tsv").write_text("\n".join(lines), encoding="utf-8", newline="")
    read = read_caption_file(str(tmp_path / "c.tsv"), image_is_path=False)
    are_equal = [(row.image, row.caption) for row in read.rows] == [(image, plain(text)) for image, _, text in rows]
    assert are_equal and len(read.problems) == 0 and len(rows) == 4712


def test_cap_id_lines_and_their_partners(tmp_path: Path) -> None:
    for language, tag in (("en", "enc"), ("ja", "ja")):
        lines = (f"{image}.jpg#{tag}#0 {plain(caption)}" for image, caption in xflickr(language))
        (tmp_path / tag).write_text("\n".join(lines), encoding="utf-8", newline="")
    english, japanese = (read_caption_lines(tmp_path / tag, tags=[tag]) for tag in ("enc", "ja"))
    assert len(english.problems) + len(japanese.problems) == 0
    are_equal = [line.text for line in japanese.lines.values()] == [plain(caption) for _, caption in xflickr("ja")]
    assert are_equal
    keys, problems = partners(english, [japanese])
    assert keys == [(image, "0") for image, _ in xflickr("en")] and len(problems) == 0
