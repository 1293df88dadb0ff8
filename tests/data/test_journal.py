"""A journal gives back what was added in the same state, whatever happened to its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.flipped_bits import flipped_bits

from cl2cm_jax.data import journal
from cl2cm_jax.data.journal import Journal


def test_the_last_result_of_a_name_is_that_of_its_state(tmp_path: Path) -> None:
    file = tmp_path / "checks.jsonl"
    for state, result in (("1", ["", "a"]), ("2", ["ü\n", 3])):
        Journal(file).add("picture", state, result)
    assert Journal(file).get("picture", "2") == ["ü\n", 3]
    assert Journal(file).get("picture", "1") is None and Journal(file).get("other", "2") is None


def test_a_damaged_or_cut_line_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "checks.jsonl"
    for name in "ab":
        Journal(file).add(name, "state", name)
    for _ in flipped_bits(file, count=60):
        assert [Journal(file).get(name, "state") in (None, name) for name in "ab"] == [True, True]
    file.write_bytes(file.read_bytes()[:-5])
    Journal(file).add("c", "state", "c")
    assert [Journal(file).get(name, "state") for name in "abc"] == ["a", None, "c"]


def test_replaced_lines_are_dropped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SPARE", 5)
    file = tmp_path / "checks.jsonl"
    for number in range(50):
        Journal(file).add(str(number % 2), str(number), number)
    assert len([line for line in file.read_text().splitlines() if line]) <= 2 * 2 + 5 + 1
    assert [Journal(file).get(str(number % 2), str(number)) for number in (48, 49)] == [48, 49]
    assert all(json.loads(line.partition(" ")[2]) for line in file.read_text().splitlines() if line)


def test_a_folder_that_is_only_read_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kept = Journal(tmp_path / "file" / "checks.jsonl")
    kept.add("a", "state", 1)
    assert kept.get("a", "state") == 1
