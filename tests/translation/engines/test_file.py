"""Existing translations from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.translation.engine import Item
from cl2cm_jax.translation.engines.file import TranslatedFile

ROWS = [Item(number, "a.png", text, "") for number, text in enumerate(["dog", "dog", "cat"])]
LINES = [Item(number, f"{name}#enc2de#0", name, "") for number, name in enumerate(["1.jpg", "2.jpg"])]


def engine(folder: Path, content: bytes, items: list[Item] = ROWS) -> TranslatedFile:
    (folder / "de.txt").write_bytes(content)
    return TranslatedFile(folder / "de.txt", items)


def test_line_n_is_caption_n(tmp_path: Path) -> None:
    found = engine(tmp_path, "\ufeffHund\r\nDogge\u2028\n\n".encode())
    assert [text.strip() for text in found.translate([ROWS[2], ROWS[1], ROWS[0]])] == ["", "Dogge", "Hund"]
    assert found.model.startswith("de.txt@sha256:")
    assert found.model != engine(tmp_path, b"Hund\nDogge\nKatze\n").model


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Hund\nDogge\n", "has 2 lines for 3 captions"),
        (b"Hund\nDogge\nKatze\nKuh\n", "has 4 lines for 3 captions"),
        (b"", "has 0 lines for 3 captions"),
        (b"Hund\nDogge\n\xff\n", "is not valid UTF-8"),
    ],
)
def test_a_wrong_number_of_lines_is_an_error_with_counts(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine(tmp_path, content)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        TranslatedFile(tmp_path / "none.txt", ROWS)


def test_cap_ids_match_lines_and_captions(tmp_path: Path) -> None:
    found = engine(tmp_path, b"2#enc2de#0 zwei\n3#enc2de#0 drei\n1.jpg#whatever#0 eins\n", LINES)
    assert found.translate(LINES) == ["eins", "zwei"]
    with pytest.raises(UserError, match="has 1 lines for 2 captions and lacks 1 of them, first '1.jpg#enc2de#0'"):
        engine(tmp_path, b"2#enc2de#0 zwei\n", LINES)
    with pytest.raises(UserError, match="line 2: .* occurs twice"):
        engine(tmp_path, b"2#enc2de#0 zwei\n2#enc2de#0 zwo\n", LINES)


def test_lines_without_cap_ids_are_in_order(tmp_path: Path) -> None:
    assert engine(tmp_path, b"eins\nzwei\n", LINES).translate(LINES) == ["eins", "zwei"]
