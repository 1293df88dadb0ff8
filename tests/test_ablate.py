"""The ablation on the tiny set: tables, verdicts, resuming, and what it says about wrong arguments."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Outcome, call

pytest.importorskip("tensorflow")

from cl2cm_jax import ablate, train
from cl2cm_jax import config as configuration
from cl2cm_jax.evaluation.retrieval import load_ranks, metrics

SOURCE_ONLY = "source only"
ROWS = [ablate.BASELINE, SOURCE_ONLY, ablate.DEFAULT]


def ablation(home: Path, workdir: Path, *changes: str, rows: list[str] = ROWS) -> Outcome:
    return call(
        ablate.main,
        f"--config={home / 'config.py'}",
        f"--workdir={workdir}",
        "--seeds=2",
        "--noise=0,0.4",
        f"--rows={';'.join(rows)}",
        *changes,
    )


@pytest.fixture(scope="module")
def finished(home: Path) -> tuple[Path, Outcome]:
    workdir = home / "ablation"
    return workdir, ablation(home, workdir)


def test_every_row_has_its_numbers_difference_and_verdict(finished: tuple[Path, Outcome]) -> None:
    workdir, outcome = finished
    assert outcome.code == 0, outcome.err
    clean, noisy = json.loads((workdir / "ablation.json").read_text())
    assert (clean["noise"], noisy["noise"]) == (0.0, 0.4)
    for table in (clean, noisy):
        assert [row["name"] for row in table["rows"]] == ROWS
        baseline, *others = table["rows"]
        for row in others:
            difference = row["difference"]
            gained = row["mean_target"]["mean"] - baseline["mean_target"]["mean"]
            assert difference["mean"] == pytest.approx(gained, abs=0.01)
            assert difference["low"] <= difference["mean"] <= difference["high"]
            assert row["name"] in outcome.out
            german = row["by_language"]["de"]
            assert german["sum_recall"] == row["target_sum_recall"]["de"]
            gained = np.mean(german["sum_recall"]) - np.mean(baseline["target_sum_recall"]["de"])
            assert german["difference"]["mean"] == pytest.approx(gained, abs=0.01)
    markdown = (workdir / "ablation.md").read_text(encoding="utf-8")
    assert "40% of the training translations wrong" in markdown and "captions_per_image=all" in markdown
    assert markdown.count("**By language") == 2


def test_a_rows_numbers_are_those_of_its_runs(finished: tuple[Path, Outcome]) -> None:
    workdir, _ = finished
    row = json.loads((workdir / "ablation.json").read_text())[0]["rows"][1]
    folders = sorted((workdir / "noise-0" / "source-only").iterdir())
    assert [folder.name for folder in folders] == ["seed-0", "seed-1"]
    german = [metrics(load_ranks(folder / "ranks.npz")["de"])["SumR"] for folder in folders]
    assert row["target_sum_recall"]["de"] == pytest.approx(german)
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    assert row["validation"][0] == max(line["validation/SumR"] for line in lines if "validation/SumR" in line)


def test_finished_runs_are_not_repeated(home: Path, finished: tuple[Path, Outcome]) -> None:
    workdir, first = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", lambda *_, **__: pytest.fail("trained again"))
        again = ablation(home, workdir)
    assert again.code == 0, again.err
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]  # the last line names the seconds


def test_sigterm_stops_with_the_command_that_goes_on(home: Path, tmp_path: Path) -> None:
    put, calls = train.put_batch, iter(range(1000))

    def interrupting(batch: Any, mesh: Any) -> Any:
        if next(calls) == 11:  # within the second run
            signal.raise_signal(signal.SIGTERM)
        return put(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "put_batch", interrupting)
        stopped = ablation(home, tmp_path, "--seeds=1", "--noise=0")
    assert stopped.code == 0, stopped.err
    assert "resume with: python -m cl2cm_jax.ablate" in stopped.out and not (tmp_path / "ablation.md").exists()
    resumed = ablation(home, tmp_path, "--seeds=1", "--noise=0")
    assert resumed.code == 0 and (tmp_path / "ablation.md").exists()
    assert f"1/3 noise 0 seed 0 {ablate.BASELINE}" not in resumed.err


def test_a_row_is_the_config_but_for_its_fields(home: Path) -> None:
    config = configuration.read(str(home / "config.py"))
    changed = ablate.variant(config, SOURCE_ONLY, noise=0.4, seed=3)
    differing = configuration.differences(configuration.flatten(changed), configuration.flatten(config))
    named = {*ablate.ROWS[SOURCE_ONLY], "seed", "data.translation_noise"}
    assert {"seed", "data.translation_noise", "weights.target"} <= differing.keys() <= named
    assert ablate.ROWS[ablate.DEFAULT] == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds=0"], "--seeds=0 must be 1 or more"),
        (["--noise=much"], "--noise='much' must be shares"),
        (["--noise=1.5"], "config.data.translation_noise=1.5 must be between 0 and 1"),
        (["--rows=source onyl"], "'source onyl' is not a row; did you mean 'source only'?"),
        (["--config.student.dimm=3"], "did you mean 'student.dim'?"),
    ],
)
def test_a_wrong_argument_is_one_line(home: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    outcome = call(ablate.main, f"--config={home / 'config.py'}", f"--workdir={tmp_path / 'new'}", *arguments)
    assert outcome.code == 2 and says in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_workdir_of_another_config_is_refused(home: Path, finished: tuple[Path, Outcome]) -> None:
    outcome = ablation(home, finished[0], "--config.student.dim=8")
    assert outcome.code == 2 and "student.dim" in outcome.err and "use another --workdir" in outcome.err
