"""The noise curve on the tiny set: it shares the runs of the ablation, and its numbers are those of the runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import Outcome, call

pytest.importorskip("tensorflow")

from cl2cm_jax.evaluation.retrieval import load_ranks, metrics
from cl2cm_jax.studies import noise_curve
from cl2cm_jax.studies.ablation import __main__ as ablate
from cl2cm_jax.studies.ablation.variants import BASELINE, DEFAULT, ROWS, SOURCE_ONLY
from cl2cm_jax.training import loop

NOISE = "--noise=0.4,0"


def curve(home: Path, workdir: Path, *arguments: str) -> Outcome:
    return call(
        noise_curve.main,
        f"--config={home / 'config.py'}",
        f"--workdir={workdir}",
        "--seeds=2",
        f"--rows={DEFAULT}",
        *arguments,
    )


@pytest.fixture(scope="module")
def finished(home: Path) -> tuple[Path, Outcome]:
    workdir = home / "curve"
    return workdir, curve(home, workdir, NOISE)


def test_levels_are_the_means_of_the_runs_within_their_intervals(finished: tuple[Path, Outcome]) -> None:
    workdir, outcome = finished
    assert outcome.code == 0, outcome.err
    content = json.loads((workdir / "noise_curve.json").read_text())
    assert content["noise"] == [0.0, 0.4]
    baseline, full = content["rows"]
    assert (baseline["name"], full["name"]) == (BASELINE, DEFAULT)
    assert baseline["differences"] == {}
    folders = sorted((workdir / "noise-0.4" / "v-t-baseline").iterdir())
    german = [metrics(load_ranks(folder / "ranks.npz")["de"])["SumR"] for folder in folders]
    level = baseline["levels"]["de"][1]
    assert level["mean"] == pytest.approx(np.mean(german))
    assert level["low"] <= level["mean"] <= level["high"]
    for group, differences in full["differences"].items():
        for place, difference in enumerate(differences):
            gained = full["levels"][group][place]["mean"] - baseline["levels"][group][place]["mean"]
            assert difference["mean"] == pytest.approx(gained, abs=1e-6)


def test_table_and_chart_have_every_share(finished: tuple[Path, Outcome]) -> None:
    workdir, outcome = finished
    markdown = (workdir / "noise_curve.md").read_text(encoding="utf-8")
    assert "|  | 0% | 40% |" in markdown and "de: difference" in markdown and "captions_per_image=all" in markdown
    assert DEFAULT in outcome.out
    with Image.open(workdir / "noise_curve.png") as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
    assert colours is not None and len(colours) > 50  # lines, bands and text


def test_finished_runs_of_the_ablation_are_reused(home: Path, finished: tuple[Path, Outcome]) -> None:
    workdir, first = finished
    arguments = (f"--config={home / 'config.py'}", f"--workdir={workdir}", "--seeds=2", f"--rows={DEFAULT}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
        assert call(ablate.main, *arguments, "--noise=0,0.4").code == 0
        again = curve(home, workdir, NOISE)
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]  # the last line names the seconds


def test_default_is_seven_shares_of_three_rows() -> None:
    options, overrides = noise_curve.parse(["--config=x", "--config.student.dim=8"])
    assert options.noise == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert options.rows == [BASELINE, DEFAULT, SOURCE_ONLY]
    assert overrides == {"student.dim": "8"}


def test_more_rows_than_colours_are_refused(home: Path, tmp_path: Path) -> None:
    rows = ";".join(list(ROWS)[:5])
    outcome = call(noise_curve.main, f"--config={home / 'config.py'}", f"--workdir={tmp_path / 'x'}", f"--rows={rows}")
    assert outcome.code == 2 and "the chart has room for at most 4" in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "x").exists()
