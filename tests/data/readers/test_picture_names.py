"""Names in caption files find their pictures in other writings, and nothing outside of the folder."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.readers.picture_names import matched, similar, similar_files, with_files

NFC, NFD = (unicodedata.normalize(form, "sub/Käse.jpg") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "sub/b.JPG", NFD, "one.png", "one.PNG"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "secret.png").touch()
    return "photos"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.PNG", "a.png"),
        ("sub/b.jpg", "sub/b.JPG"),
        ("sub\\b.JPG", "sub/b.JPG"),
        ("sub\\b.jpg", "sub/b.JPG"),
        (NFC, NFD),
        ("photos/a.png", "a.png"),
        ("photos\\sub\\b.jpg", "sub/b.JPG"),
        ("./sub/../a.png", "a.png"),
    ],
)
def test_other_writings_of_a_name(folder: str, name: str, file: str) -> None:
    assert matched([name], folder) == ({} if name.startswith("./") else {name: file})


def test_absolute_paths_inside_the_folder(folder: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("photos")
    for root in ("photos", "link"):
        name = str(tmp_path / root / "sub" / "b.jpg")
        assert matched([name], root) == {name: "sub/b.JPG"}


@pytest.mark.parametrize(
    "name", ["a.png", "ONE.png", "One.png", "A.png", "one.Png", "../secret.png", "nowhere.png", ""]
)
def test_names_that_are_right_ambiguous_outside_or_unknown_stay(folder: str, name: str) -> None:
    assert matched([name], folder) == {}


def test_absolute_paths_outside_the_folder_stay(folder: str, tmp_path: Path) -> None:
    names = [
        str(tmp_path / "secret.png"),
        str(tmp_path / "photos" / ".." / "secret.png"),
        str(tmp_path / "photos2/a.png"),
    ]
    assert matched(names, folder) == {}


def test_a_folder_is_listed_only_for_names_that_are_not_there(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.walk", lambda *_, **__: pytest.fail("the folder is listed"))
    assert matched(["a.png", "sub/b.JPG"], folder) == {} and similar_files([], folder) == {}


def test_captions_get_the_names_of_the_files_in_one_line(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [Caption(name, "en", "x") for name in ("a.PNG", "sub\\b.jpg", "a.png", NFC, "photos/a.png")]
    with caplog.at_level(logging.INFO):
        assert [row.image for row in with_files(rows, folder)] == ["a.png", "sub/b.JPG", "a.png", NFD, "a.png"]
    (record,) = caplog.records
    assert "'a.PNG' is 'a.png'" in record.getMessage() and "and 1 more" in record.getMessage()


def test_a_near_name_is_offered(folder: str) -> None:
    names = ["other/A.png", "b", "sub/c.JPG", "zebra.png", r"C:\photos\b.jpg"]
    found = similar_files(names, folder)
    assert found["other/A.png"] == "a.png" and found["b"] == found[r"C:\photos\b.jpg"] == "sub/b.JPG"
    assert found["sub/c.JPG"] == "sub/b.JPG" and "zebra.png" not in found


def test_a_number_that_lost_its_zeros_is_like_the_one_that_has_them() -> None:
    ids = ["000000001", "000000017", "0001x", "0"]
    assert similar(["1", "17.0", "17.jpg", "00", "2"], ids) == {
        "1": "000000001",
        "17.0": "000000017",
        "17.jpg": "000000017",
        "00": "0",
    }
