"""Caption files: the selection of captions, and the translated file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl2cm_jax.data.readers.caption_file import read_caption_file
from cl2cm_jax.errors import UserError
from cl2cm_jax.translation import documents
from cl2cm_jax.translation.documents import Document, Written, cap_key, read_document, translated_cap_id

CSV = 'image,language,caption\na.png,en,"a dog, red"\na.png,en,"a ""cat"""\nb.png,en,a dog\nb.png,fr,un chien\n'


def read(
    folder: Path, text: str, name: str = "in.csv", *, splits: tuple[str, ...] = (), target: str = "fr"
) -> Document:
    (folder / name).write_text(text, encoding="utf-8")
    return read_document(folder / name, source="en", target=target, splits=splits)


def write(document: Document, texts: list[str]) -> Written:
    return document.written(dict(zip(document.chosen, texts, strict=True)))


@pytest.mark.parametrize("name", ["in.csv", "in.tsv", "in.jsonl"])
def test_rows_are_kept_and_translations_added_in_each_format(tmp_path: Path, name: str) -> None:
    rows = [("a, b.png", "en", 'a "dog", red', "train"), ("c.png", "en", "a\u2028cat", "test")]
    text = {
        "in.csv": 'image,language,caption,split\n"a, b.png",en,"a ""dog"", red",train\nc.png,en,a cat,test\n',
        "in.tsv": 'image\tlanguage\tcaption\tsplit\na, b.png\ten\ta "dog", red\ttrain\nc.png\ten\ta cat\ttest\n',
        "in.jsonl": '{"image":"a, b.png","language":"en","caption":"a \\"dog\\", red","split":"train"}\n'
        '{"image":"c.png","language":"en","caption":"a cat","split":"test"}\n',
    }[name]
    document = read(tmp_path, text, name, target="de")
    (tmp_path / f"out{Path(name).suffix}").write_text(
        write(document, ['ein "Hund", rot', "Katze"]).text, encoding="utf-8"
    )
    found = read_caption_file(str(tmp_path / f"out{Path(name).suffix}"), image_is_path=True)
    assert found.problems == []
    assert [(r.image, r.language, r.caption, r.split, r.origin) for r in found.rows] == [
        (rows[0][0], "en", 'a "dog", red', "train", "human"),
        (rows[1][0], "en", "a cat", "test", "human"),
        (rows[0][0], "de", 'ein "Hund", rot', "train", "machine"),
        (rows[1][0], "de", "Katze", "test", "machine"),
    ]


def test_images_with_target_captions_are_left_as_they_are(tmp_path: Path) -> None:
    document = read(tmp_path, CSV)
    assert [item.name for item in document.items] == ["a.png", "a.png", "b.png"]
    assert [item.text for item in document.chosen] == ["a dog, red", 'a "cat"']


def test_duplicate_and_empty_translations_are_left_out(tmp_path: Path) -> None:
    document = read(tmp_path, CSV, target="de")
    written = write(document, ["Hund", "Hund", ""])
    assert (written.added, written.duplicates, written.empty) == (1, 1, 1)
    assert written.text.splitlines()[-1] == "a.png,de,Hund,machine"


def test_queries_are_one_row_for_each_caption_in_their_order(tmp_path: Path) -> None:
    text = "image,language,caption\na.png,en,dog\na.png,en,hound\nb.png,en,cat\nb.png,fr,chat\n"
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    document = read_document(tmp_path / "in.csv", source="en", target="fr", are_queries=True)
    assert document.language == "en2fr"
    (tmp_path / "out.csv").write_text(write(document, ["chien", "chien", "chat"]).text, encoding="utf-8")
    found = read_caption_file(str(tmp_path / "out.csv"), image_is_path=True)
    assert found.problems == []
    queries = [(row.image, row.caption) for row in found.rows if row.language == "en2fr"]
    assert queries == [("a.png", "chien"), ("a.png", "chien"), ("b.png", "chat")]
    with pytest.raises(UserError, match="1 captions have no translation, first 'hound' of 'a.png'"):
        write(document, ["chien", "", "chat"])


def test_splits_select_captions(tmp_path: Path) -> None:
    text = "image,language,caption,split\na.png,en,dog,train\nb.png,en,cat,dev\nc.png,en,cow,test\n"
    assert [item.name for item in read(tmp_path, text, splits=("train", "validation")).chosen] == ["a.png", "b.png"]
    assert len(read(tmp_path, text, splits=("train",)).items) == 3
    with pytest.raises(UserError, match="has no column split"):
        read(tmp_path, CSV, splits=("train",))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("image,language,caption\na.png,de,Hund\n", "in.csv", "--source='en': .* has no captions in it; it has de"),
        ("image,language,caption\na.png,en,\nb.png,en,\n", "in.csv", r"line 2, field caption: .*\(2 lines are wrong\)"),
        ("image,language,caption\n", "in.csv", "has no rows"),
        ("a.jpg#enc#0\n", "in.txt", "line 1, .* has no sentence"),
        ("a.jpg#enc#0 a dog\nno id here\n", "in.txt", "line 2, .* write media#tag#k"),
        ("a#enc#0 dog\na#enc#0 cat\n", "in.txt", "line 2, .* already in line 1"),
        ("1.jpg#enc#0 a\n1#enc#0 b\n", "in.txt", "line 2.*'1#enc#0' is already in line 1"),
        ("a#de#0 Hund\n", "in.txt", "has the tag 'de', not that of --source='en' \\('enc'\\)"),
        ("x\n", "in.xlsx", "must end in .csv, .tsv, .jsonl, or .txt"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, name)


def test_cap_id_lines_get_the_tag_of_a_translation(tmp_path: Path) -> None:
    text = "7.jpg#enc#0 a dog\u2028runs\r\n7.jpg#enc#1 a  cat\nvideo9#enc#0 a cow # 1"
    document = read(tmp_path, text, "in.txt", target="de")
    assert [item.text for item in document.items] == ["a dog runs", "a cat", "a cow # 1"]
    assert write(document, ["Hund", "", "Kuh"]).text == "7.jpg#enc2de#0 Hund\nvideo9#enc2de#0 Kuh\n"
    assert read(tmp_path, f"{text}\n\n", "in.txt", target="de").items == document.items
    with pytest.raises(UserError, match="has no splits"):
        read(tmp_path, text, "in.txt", splits=("train",))


def test_cap_ids_of_translations() -> None:
    assert translated_cap_id("7.jpg#enc#0", "de") == "7.jpg#enc2de#0"
    assert translated_cap_id("7.jpg#enc2de#0", "en") == "7.jpg#enc2de2enc#0"
    assert translated_cap_id("7#zh#3", "en") == "7#zh2enc#3"
    assert cap_key("7.JPG#enc#0") == cap_key("7#enc2de#0") == ("7", "0")
    assert cap_key("a.png") is None


def test_quotation_marks_around_a_caption_survive_a_tsv(tmp_path: Path) -> None:
    captions = ['"Stop"', 'a "red" dog', '"a ""b"""']
    rows = [json.dumps({"image": f"{n}.png", "language": "en", "caption": text}) for n, text in enumerate(captions)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows), encoding="utf-8")
    table = documents._formatted(read_caption_file(str(tmp_path / "in.jsonl"), image_is_path=True).rows, ".tsv")
    (tmp_path / "out.tsv").write_text(table, encoding="utf-8")
    found = read_caption_file(str(tmp_path / "out.tsv"), image_is_path=True)
    assert [row.caption for row in found.rows] == captions
