"""Lines `media#tag#k sentence`: what they mean, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl2cm_jax.data.readers.cap_ids import media_id
from cl2cm_jax.data.sets.paper.captions import partners, read_caption_lines
from cl2cm_jax.errors import UserError


def write(folder: Path, content: str, name: str = "c.caption.txt") -> Path:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return folder / name


def test_media_ids() -> None:
    names = ("12.jpg#enc#0", "12#enc2de#0", "12.jpg", "12", "12.JPG")
    assert {media_id(name) for name in names} == {"12"}
    assert media_id("Ptf_2VRj-V0_000122_000132.mp4#zh#3") == "Ptf_2VRj-V0_000122_000132"
    assert media_id("a.b#enc#0") == "a.b"


def test_lines_are_split_once_and_the_last_may_lack_its_newline(tmp_path: Path) -> None:
    content = "\ufeff12.jpg#enc#0 two  dogs # run \r\n12.jpg#enc#1 a line\u2028within, \x85 and\ttabs\n13#enc#0 x"
    found = read_caption_lines(write(tmp_path, content), tags=["enc"])
    assert found.problems == []
    assert [(key, line.number, line.text) for key, line in found.lines.items()] == [
        (("12", "0"), 1, "two  dogs # run"),
        (("12", "1"), 2, "a line\u2028within, \x85 and\ttabs"),
        (("13", "0"), 3, "x"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1#de#0 ein Hund", "'1#de#0' has the tag 'de'; this file has 'enc'"),
        ("1#enc a dog", "'1#enc' is not an id of the form media#tag#k"),
        ("1#enc#0#1 a dog", "is not an id of the form"),
        ("#enc#0 a dog", "is not an id of the form"),
        ("", "'' is not an id of the form"),
        ("1#enc#0", "'1#enc#0' has no sentence"),
        ("1#enc#0   ", "'1#enc#0' has no sentence"),
        ("1#enc#0\ta dog", "is not an id of the form"),
        ("9.jpg#enc#9 again", "duplicate id '9#enc#9', first in line 1"),
        ("1#enc#0 a\0dog", "NUL byte"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, f"9#enc#9 first\n{line}\n8#enc#8 last\n")
    found = read_caption_lines(path, tags=["enc"])
    (problem,) = found.problems
    assert str(problem).startswith(f"{path}, line 2, ")
    assert reason in problem.reason
    assert list(found.lines) == [("9", "9"), ("8", "8")]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"1#enc#0 good\n2#enc#0 caf\xe9\n")
    (problem,) = read_caption_lines(tmp_path / "c.txt", tags=["enc"]).problems
    assert problem.line == 2 and "not valid UTF-8" in problem.reason


def test_a_file_without_lines_or_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="c.caption.txt is empty"):
        read_caption_lines(write(tmp_path, "\n"), tags=["enc"])
    with pytest.raises(UserError, match="cannot be read"):
        read_caption_lines(tmp_path, tags=["enc"])


def test_partners_share_media_and_number(tmp_path: Path) -> None:
    english = read_caption_lines(write(tmp_path, "1.jpg#enc#0 a\n1.jpg#enc#1 b\n2#enc#0 c", "en"), tags=["enc"])
    german = read_caption_lines(write(tmp_path, "2#enc2de#0 C\n1#enc2de#0 A\n3#enc2de#7 D", "de"), tags=["enc2de"])
    keys, problems = partners(english, [german])
    assert keys == [("1", "0"), ("2", "0")]
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'en'}, line 2, field cap_id: 1#enc#1 has no partner 1#enc2de#1 in de; add it or remove this line",
        f"{tmp_path / 'de'}, line 3, field cap_id: 3#enc2de#7 has no partner 3#enc#7 in en; add it or remove this line",
    ]
