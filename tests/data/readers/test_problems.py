"""The list of problems beside a built set."""

from __future__ import annotations

from pathlib import Path

from cl2cm_jax.data.readers.problems import Problem, write_report


def test_a_report_has_no_control_characters(tmp_path: Path) -> None:
    write_report(tmp_path / "r.tsv", [Problem("a\x1b[31m\u202e.csv", 2, "image\t\n", "no file 'x\x9b\x07'")])
    kind, file, line, field, reason = (tmp_path / "r.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")
    assert (kind, file, line, field) == ("problem", "a\\x1b[31m\\u202e.csv", "2", "image")
    assert reason == "no file 'x\\x9b\\x07'"
