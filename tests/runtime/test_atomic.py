"""Temporary files of killed processes do not stay."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cl2cm_jax.runtime import atomic

DEAD = 10**9  # more than any system numbers its processes


def test_the_next_writer_removes_what_killed_processes_have_left(tmp_path: Path) -> None:
    names = {
        f".model.safetensors.{DEAD}.partial": 7200,
        f".of.a\nname.{DEAD}{DEAD}{DEAD}.partial": 7200,
        f".results.json.{DEAD}.partial": 60,  # of another machine, which is writing it
        f".results.json.{os.getppid()}.partial": 7200,
        ".mine.partial": 7200,
        f"results.json.{DEAD}.partial": 7200,
    }
    for name, age in names.items():
        (tmp_path / name).write_text("part")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / f".folder.{DEAD}.partial").mkdir()
    os.utime(tmp_path / f".folder.{DEAD}.partial", (0, 0))
    atomic.write_text(tmp_path / "results.json", "whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*list(names)[2:], f".folder.{DEAD}.partial", "results.json"}
    with atomic.replacing(tmp_path / "results.json") as temporary:  # as this process names its own
        temporary.write_text("again")
        os.utime(temporary, (0, 0))
        atomic._remove_abandoned.__wrapped__(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "results.json").read_text() == "again"
