"""Captions that are read as they are and may be meant otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cl2cm_jax.data.readers.caption_file import read_caption_file, read_rows
from cl2cm_jax.data.readers.odd_captions import OddCaptions


def noted(*captions: str) -> list[str]:
    odd = OddCaptions()
    for line, caption in enumerate(captions, start=2):
        odd.see(line, caption)
    return [note.reason for note in odd.notes("c.csv")]


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251"])
@pytest.mark.parametrize("text", ["Käse über Brot", "crème brûlée à la carte", "красная машина", "红苹果", "قطة"])
def test_utf8_that_was_read_as_another_encoding_is_noted(text: str, encoding: str) -> None:
    wrong = "".join(bytes([byte]).decode(encoding, "replace") for byte in text.encode())
    if "\ufffd" in wrong:  # a byte that the encoding has not; programs keep it as it is
        wrong = "".join(bytes([b]).decode(encoding, "ignore") or chr(b) for b in text.encode())
    (reason,) = noted("a dog", wrong)
    assert reason.startswith("1 captions look like UTF-8 that was read as another encoding")
    assert repr(text) in reason and noted(text) == []


@pytest.mark.parametrize(
    ("captions", "reason"),
    [
        (["K\ufffdse"], "1 captions have a mark (U+FFFD)"),
        (
            ["fish &amp; chips", "<i>Mona Lisa</i>"],
            "2 captions have HTML in them, which is read as words, the first is 'fish",
        ),
        (["nan", "N/A", "-", "???"], "4 captions look like missing values, the first is 'nan'"),
    ],
)
def test_odd_captions_are_counted_by_kind(captions: list[str], reason: str) -> None:
    (found,) = noted("a dog", *captions)
    assert found.startswith(reason)


@pytest.mark.parametrize(
    "caption", ["AT&T and R&D;", "3 < 5 and 7 > 2", "I <3 you", "NÃO", "«É»", "Ünlü", "И…", "🍎", "数", "#1", "nano"]
)
def test_other_captions_are_not_odd(caption: str) -> None:
    assert noted(caption) == []


def test_notes_leave_nothing_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "c.csv"
    file.write_text("image,language,caption\na.png,en,nan\nb.png,en,a cat\n")
    table = read_caption_file(str(file), image_is_path=True)
    assert len(table.rows) == 2 and not table.serious and [note.is_logged for note in table.problems] == [True]
    with caplog.at_level(logging.WARNING):
        assert read_rows(str(file), flag="--captions") == table.rows
    assert "look like missing values" in caplog.text
