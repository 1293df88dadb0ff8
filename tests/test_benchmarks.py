"""The benchmarks run and say what they measured; the figures themselves are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import losses, paper_step, start, train_step


def test_the_step_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    flags = ["--batch=8", "--tokens=8", "--layers=2", "--first=1", "--vocabulary=64", "--repeats=1", "--parts"]
    small = {"hidden": 32, "heads": 8, "intermediate": 64}
    monkeypatch.setattr(train_step, "Sizes", lambda *a, **k: paper_step.Sizes(*a, **k, **small))
    monkeypatch.setattr(sys, "argv", ["train_step", *flags, f"--json={tmp_path / 'step.json'}"])
    train_step.main()
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [row["what"] for row in rows] == [
        "whole step",
        "cached prefix",
        "forward",
        "forward + losses",
        "+ backward",
    ]
    assert all(row["seconds"] > 0 and row["flops"] > 0 and row["dtype"] == "float32" for row in rows)
    assert "compile and first step" in capsys.readouterr().out


def test_products_are_counted_once_a_multiplication_and_an_addition():
    sizes = paper_step.Sizes(batch=1, layers=2, first=1, hidden=10, heads=1, intermediate=20)
    layer, tower = 4 * 100 + 2 * 200 + 2 * 5 * 10, 100 + 800 + 2 * 5 * 10 + 10 * 1024
    assert sizes.flops(5, with_prefix=False) == 2 * 4 * 5 * 3 * (layer + tower)
    assert sizes.flops(5, with_prefix=True) == 2 * 4 * 5 * (3 * (layer + tower) + layer)


def test_all_forms_of_the_losses_agree_and_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    flags = ["--batches=64,128", "--timed=64", "--dim=16", "--block=4", "--repeats=1", f"--json={tmp_path / 'rows'}"]
    monkeypatch.setattr(sys, "argv", ["losses", *flags])
    monkeypatch.setattr(losses, "_process", lambda devices: losses.measure(losses.parse()))  # which compares the values
    losses.main()
    made = json.loads((tmp_path / "rows").read_text())
    assert [row["form"] for row in made["rows"][:4]] == list(losses.FORMS)
    assert all((row["seconds"] > 0) == (row["batch"] == 64) and row["temporary_mb"] > 0 for row in made["rows"])
    assert made["about"]["jax"] and "MB a device" in capsys.readouterr().out


def test_starts_share_a_cache_of_their_own_and_leave_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    kept = tmp_path / "data" / "compiled" / "program"
    kept.parent.mkdir(parents=True)
    kept.write_text("of the user")
    started = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        cache = Path(env["JAX_COMPILATION_CACHE_DIR"])
        started.append((cache, cache.exists()))
        cache.mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    config = Path(__file__).parents[1] / "configs" / "emoji.py"
    monkeypatch.setattr(sys, "argv", ["start", f"--config={config}", f"--config.data.dir={tmp_path / 'data'}"])
    start.main()
    assert kept.read_text() == "of the user"
    (check, _), (first, was_there), (second, is_there) = started
    assert check != first == second and (was_there, is_there) == (False, True)
    assert tmp_path not in first.parents and not first.exists()
    assert "first start" in capsys.readouterr().out
