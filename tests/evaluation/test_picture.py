from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.evaluation import fonts
from cl2cm_jax.evaluation.picture import AMBER, GREEN, Queries, draw_retrieval, hit_share, query_rows, retrieval_picture

CAPTIONS = {"en": "a red apple", "de": "ein roter Apfel", "ru": "красное яблоко", "ar": "تفاحة حمراء", "ja": "りんご",
            "zh": "红苹果", "ko": "빨간 사과", "th": "แอปเปิ้ลสีแดง"}  # fmt: skip
IMAGES = 8


@pytest.fixture
def rows(tmp_path):
    vision = np.eye(IMAGES, dtype=np.float32)
    paths: list[str | None] = []
    for number in range(IMAGES - 1):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (30 + 20 * number, 60), (200, 30 * number, 80)).save(paths[-1])
    vectors = vision + 0.1
    vectors[5] = -vision[5]  # the query of image 5 finds everything else first
    queries = {
        language: Queries([f"{text} {i}" for i in range(IMAGES)], vectors, np.arange(IMAGES))
        for language, text in CAPTIONS.items()
    }
    return query_rows(
        queries,
        vision,
        image_ids=[f"id{i}" for i in range(IMAGES)],
        paths=[*paths, None],
        glosses=["an apple"] * IMAGES,
    )


def test_two_hits_then_a_miss_at_even_steps(rows) -> None:
    assert [row.text[-1] for row in rows] == list("01534567")
    assert [row.found[0].is_right for row in rows] == [True, True, False] * 2 + [True, True]
    assert [len(row.found) for row in rows] == [5] * IMAGES
    for row in (rows[2], rows[5]):
        assert row.missed is not None and row.missed.rank == IMAGES and row.missed.image_id == "id5"
    assert [row.missed for number, row in enumerate(rows) if number % 3 != 2] == [None] * 6


def test_a_split_of_hits_only_shows_hits() -> None:
    vision = np.eye(4, dtype=np.float32)
    queries = {language: Queries(list("abcd"), vision, np.arange(4)) for language in ("en", "de", "fr")}
    rows = query_rows(queries, vision, image_ids=list("wxyz"), paths=[None] * 4, glosses=[""] * 4, top=2)
    assert [row.missed for row in rows] == [None] * 3
    assert hit_share(queries, vision, top=2) == 1.0


def test_hit_share_counts_every_query() -> None:
    vision = np.eye(4, dtype=np.float32)
    queries = {
        "en": Queries(list("ab"), vision[:2], np.array([0, 1])),
        "de": Queries(list("ab"), vision[:2], np.array([0, 3])),
    }
    assert hit_share(queries, vision, top=1) == 0.75


@pytest.mark.parametrize("packaged", [True, False])
def test_right_results_are_framed_green(rows, tmp_path, monkeypatch, packaged) -> None:
    if not packaged:
        monkeypatch.setattr(fonts, "PACKAGED", {})
    path = tmp_path / "out" / "retrieval.png"
    draw_retrieval(path, rows, title="Test", note="eight pictures")
    with Image.open(path) as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    green = (colours == tuple(int(GREEN[i : i + 2], 16) for i in (1, 3, 5))).all(axis=1).sum()
    assert green > 6 * 4 * 124 * 4  # six frames of four sides at least four pixels thick
    assert [file.name for file in path.parent.iterdir()] == ["retrieval.png"]


def test_a_query_without_a_picture_of_its_own_is_neither_right_nor_missed(rows) -> None:
    free = [
        row._replace(found=tuple(one._replace(is_right=False) for one in row.found), missed=None, remark="not trained")
        for row in rows
    ]
    picture = np.asarray(retrieval_picture(free, title="Test", note="")).reshape(-1, 3)
    for colour in (GREEN, AMBER):
        assert not (picture == tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))).all(axis=1).any()
    without = np.asarray(retrieval_picture([row._replace(remark="") for row in free], title="Test", note=""))
    assert without.size == picture.size and not np.array_equal(without.reshape(-1, 3), picture)  # the remark is there


def test_a_broken_picture_becomes_a_labelled_tile(rows, tmp_path) -> None:
    (tmp_path / "0.png").write_bytes(b"broken")
    draw_retrieval(tmp_path / "retrieval.png", rows, title="Test", note="")
    assert (tmp_path / "retrieval.png").stat().st_size > 0


def test_unusual_text_is_drawn(rows, tmp_path) -> None:
    odd = ["", "\n", "two\nlines", "x" * 500, "红" * 300, "🍎", "\x00", "mixed 红 яблоко"]
    changed = [row._replace(text=text, gloss=text) for row, text in zip(rows, odd, strict=True)]
    draw_retrieval(tmp_path / "retrieval.png", changed, title="Test", note="")
    with Image.open(tmp_path / "retrieval.png") as picture:
        assert picture.width < 4000  # long text is cut


def test_scripts() -> None:
    assert fonts.scripts_of("ein Apfel, 3 €") == {"LATIN"}
    assert fonts.scripts_of("赤いリンゴ") == {"CJK", "HIRAGANA", "KATAKANA"}
    assert fonts.scripts_of("12 — ?") == frozenset()


def test_packaged_fonts_cover_the_languages_of_the_demo() -> None:
    for package, _ in fonts.PACKAGED:
        pytest.importorskip(package)
    for language in ("en", "de", "ru", "ja", "zh", "ko"):
        assert fonts.font_for(CAPTIONS[language], size=20) is not None, language
    assert fonts.font_for("תפוח אדום", size=20) is None
    # A glyph that a font lacks is drawn as a box, the same for every such character.
    for text in ("사과", "红苹", "яб", "ığ", "ان", "ลส"):
        font = fonts.font_for(text, size=40)
        if font is not None:  # Arabic needs Pillow's raqm
            assert bytes(font.getmask(text[0])) != bytes(font.getmask(text[1]))
