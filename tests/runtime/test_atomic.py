"""Temporary files of killed processes do not stay."""

from __future__ import annotations

import os
from pathlib import Path

from cl2cm_jax.runtime import atomic

DEAD = 10**9  # more than any system numbers its processes
HERE, THERE = atomic._MACHINE, "0" * 8


def test_the_next_writer_removes_what_killed_processes_have_left(tmp_path: Path) -> None:
    removed = f".model.safetensors.{HERE}-{DEAD}.partial", f".a\nname.{HERE}-{DEAD}{DEAD}{DEAD}.partial"
    kept = {
        f".results.json.{THERE}-{DEAD}.partial",  # of a machine that writes to the same folder
        f".results.json.{HERE}-{os.getppid()}.partial",
        f"results.json.{HERE}-{DEAD}.partial",
        ".mine.partial",
    }
    for name in (*removed, *kept):
        (tmp_path / name).write_text("part")
    (tmp_path / f".folder.{HERE}-{DEAD}.partial").mkdir()
    atomic.write_text(tmp_path / "results.json", "whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, f".folder.{HERE}-{DEAD}.partial", "results.json"}
    with atomic.replacing(tmp_path / "results.json") as temporary:  # as this process names its own
        temporary.write_text("again")
        atomic._remove_abandoned.__wrapped__(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "results.json").read_text() == "again"
