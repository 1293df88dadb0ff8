"""The command that draws queries in several languages, and the queries of docs/languages.png."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.colour_encoder import ColourEncoder
from support.command import call

from cl2cm_jax.config import defaults, flatten
from cl2cm_jax.evaluation.fonts import scripts_of
from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, save_gallery
from cl2cm_jax.evaluation.report import to_json
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.search import draw_queries
from cl2cm_jax.search.query import Answer, Result
from cl2cm_jax.training.workdir import CONFIG_FILE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model sees colours: a gallery of three drawings of a built set, one of them without a file."""
    drawn = tmp_path / "data" / "emoji" / "1.0.0"
    drawn.mkdir(parents=True)
    write(drawn / "dataset_info.json", "{}")
    for name in ("red", "lime"):
        Image.new("RGB", (40, 30), name).save(drawn / f"{name}.png")
    gallery = Gallery(
        np.eye(3, dtype=np.float32),
        ("red", "lime", "blue"),
        ("", "", ""),
        (str(drawn / "red.png"), str(drawn / "lime.png"), ""),
        "step 10",
    )
    save_gallery(tmp_path / "run" / GALLERY_FILE, gallery)
    about = flatten(defaults()) | {"data.name": "emoji", "data.dir": str(tmp_path / "data")}
    write_checked(tmp_path / "run" / CONFIG_FILE, to_json(about))
    monkeypatch.setattr("cl2cm_jax.load", lambda path: ColourEncoder().model("colours", "en", "de"))
    return tmp_path / "run"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_each_query_is_a_row_with_its_best_pictures(workdir, tmp_path) -> None:
    queries = write(tmp_path / "q.csv", "language,query,meaning\nde,rot,red\nja,赤,red\n")
    done = call(
        draw_queries.main, f"--model={workdir}", f"--queries={queries}", f"--out={tmp_path / 'x.png'}", "--top=1"
    )
    assert done.code == 0 and "queries 2, pictures 3" in done.out, done.err
    with Image.open(tmp_path / "x.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (colours == (255, 0, 0)).all(axis=1).sum() > 2 * 100 * 80  # the red picture twice, and no green one
    assert not (colours == (0, 255, 0)).all(axis=1).any()


def test_a_file_that_a_workdir_names_is_not_opened_unasked(workdir, tmp_path) -> None:
    """Nor one that a link or ".." leads to from the drawings of the package."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 30), "red").save(secret)
    drawn = tmp_path / "data" / "emoji" / "1.0.0"
    (drawn / "link.png").symlink_to(secret)
    queries = write(tmp_path / "q.csv", "language,query\nde,rot\n")
    arguments = (f"--model={workdir}", f"--queries={queries}", f"--out={tmp_path / 'x.png'}", "--top=3")
    for path in (secret, drawn / "link.png", drawn / ".." / ".." / ".." / "secret.png", "~/secret.png", "file:///etc"):
        gallery = Gallery(np.eye(1, 3, dtype=np.float32), ("id",), ("",), (str(path),), "step 10")
        save_gallery(workdir / GALLERY_FILE, replace(gallery, root=str(drawn) if ".." in str(path) else ""))
        done = call(draw_queries.main, *arguments)
        assert done.code == 0 and "if they are yours, show them with --images=DIR" in done.err
        with Image.open(tmp_path / "x.png") as picture:
            assert not (np.asarray(picture.convert("RGB")) == (255, 0, 0)).all(axis=2).any()


def test_a_folder_of_pictures(workdir, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "photos" / "sea.png")
    queries = write(tmp_path / "q.csv", "language,query\nde,blau\n")
    arguments = (f"--model={workdir}", f"--queries={queries}", f"--out={tmp_path / 'x.png'}")
    assert "pictures 1" in call(draw_queries.main, *arguments, f"--images={tmp_path / 'photos'}").out


def test_a_row_marks_trained_languages_and_no_right_pictures() -> None:
    answer = Answer("สุนัข", (Result(1, "1F415", 0.5, "dog", ""),))
    query = {"language": "th", "meaning": "dog", "remark": "known to the encoder"}
    (row,) = draw_queries.query_rows([query], [answer], languages=("en", "de"))
    assert row.text == "สุนัข" and row.gloss == "dog" and row.remark == "not trained, known to the encoder"
    assert [(found.is_right, found.path) for found in row.found] == [(False, None)] and row.missed is None
    assert draw_queries.query_rows([{"language": "th"}], [answer], languages=("en", "th"))[0].remark == "trained"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lang,query\nde,rot\n", "line 1: unknown column 'lang'; did you mean 'language'?"),
        ("query\nrot\n", "line 1: column 'language' is missing"),
        ("language,query\nde,\n", "line 2, query: is empty"),
        ("language,query\n", "has no rows; give it lines of language and query"),
        ("", "column 'language' is missing"),
        ("language,query,query\nde,rot,blau\n", "column 'query' is there twice; remove one"),
        ("language,query\nde,rot,blau\n", "line 2, line: has 3 cells where the header has 2"),
        ("language,query\nde,ro\0t\n", "line 2, query: holds a NUL byte"),
        ('language,query\nde,"rot\n', "quotation marks"),
    ],
)
def test_mistakes_in_the_queries(workdir, tmp_path, text, message) -> None:
    queries = write(tmp_path / "q.csv", text)
    done = call(draw_queries.main, f"--model={workdir}", f"--queries={queries}", f"--out={tmp_path / 'x.png'}")
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_missing_file_and_one_that_is_not_utf8(workdir, tmp_path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"language,query\nde,gr\xfcn\n")
    for name, message in (("nothing.csv", "cannot be read"), ("latin.csv", "line 2, query: is not valid UTF-8")):
        done = call(
            draw_queries.main, f"--model={workdir}", f"--queries={tmp_path / name}", f"--out={tmp_path / 'x.png'}"
        )
        assert done.code == 2 and name in done.err and message in done.err


def test_csv_of_a_spreadsheet(tmp_path) -> None:
    text = 'language,meaning,query\r\nde,"red\napple",rot\u2028er Apfel\r\n\r\nja,,赤\r\n'
    rows = draw_queries.read_queries(write(tmp_path / "q.csv", text))
    assert rows == [
        {"language": "de", "meaning": "red apple", "query": "rot er Apfel", "remark": ""},
        {"language": "ja", "meaning": "", "query": "赤", "remark": ""},
    ]


def test_the_documented_queries_have_twelve_languages_and_eight_scripts() -> None:
    rows = draw_queries.read_queries(ROOT / "docs" / "languages.csv")
    assert len({row["language"] for row in rows}) == 12
    assert all(row["meaning"] for row in rows if row["language"] != "en")
    scripts = frozenset().union(*(scripts_of(row["query"]) for row in rows))
    assert scripts >= {"LATIN", "ARABIC", "CYRILLIC", "CJK", "HIRAGANA", "HANGUL", "THAI", "DEVANAGARI"}
