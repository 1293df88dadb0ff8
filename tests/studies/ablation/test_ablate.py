"""The ablation on the tiny set: tables, verdicts, resuming, and errors for wrong arguments."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import Outcome, call
from support.tiny_set import write_tiny_set

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax.evaluation.retrieval import Ranks, load_ranks, metrics
from cl2cm_jax.studies.ablation import __main__ as ablate
from cl2cm_jax.studies.ablation import runs
from cl2cm_jax.studies.ablation.variants import (
    BACKBONE,
    BASELINE,
    CEILING,
    DEFAULT,
    LEAST_SQUARES,
    PROBE,
    SOURCE_ONLY,
    TRANSLATED,
    absent_rows,
    variant,
)
from cl2cm_jax.studies.ablation.variants import ROWS as VARIANTS
from cl2cm_jax.training import loop

ROWS = [BASELINE, SOURCE_ONLY, DEFAULT]


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
    assert markdown.count("images: one more hit is") == 4


def test_a_rows_numbers_are_those_of_its_runs(finished: tuple[Path, Outcome]) -> None:
    workdir, _ = finished
    row = json.loads((workdir / "ablation.json").read_text())[0]["rows"][1]
    folders = sorted((workdir / "noise-0" / "source-only").iterdir())
    assert [folder.name for folder in folders] == ["seed-0", "seed-1"]
    german = [metrics(load_ranks(folder / "ranks.npz")["de"])["SumR"] for folder in folders]
    assert row["target_sum_recall"]["de"] == pytest.approx(german)
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "validation/selection" in line]
    assert row["validation"][0] == max(validated, key=lambda line: line["validation/selection"])["validation/SumR"]


def test_finished_runs_are_not_repeated(home: Path, finished: tuple[Path, Outcome]) -> None:
    workdir, first = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
        again = ablation(home, workdir)
    assert again.code == 0, again.err
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]  # the last line names the seconds


@pytest.mark.slow
def test_sigterm_stops_with_the_command_that_resumes(home: Path, tmp_path: Path) -> None:
    put, calls = loop.put_batch, iter(range(1000))

    def interrupting(batch: Any, mesh: Any) -> Any:
        if next(calls) == 11:  # within the second run
            signal.raise_signal(signal.SIGTERM)
        return put(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", interrupting)
        stopped = ablation(home, tmp_path, "--seeds=1", "--noise=0")
    assert stopped.code == 143, stopped.err
    assert "resume with: cl2cm ablate" in stopped.out and not (tmp_path / "ablation.md").exists()
    resumed = ablation(home, tmp_path, "--seeds=1", "--noise=0")
    assert resumed.code == 0 and (tmp_path / "ablation.md").exists()
    assert f"1/3 noise 0 seed 0 {BASELINE}" not in resumed.err


def test_a_row_differs_from_the_config_in_its_fields(home: Path) -> None:
    config = configuration.read(str(home / "config.py"))
    changed = variant(config, SOURCE_ONLY, noise=0.4, seed=3)
    differing = configuration.differences(configuration.flatten(changed), configuration.flatten(config))
    named = {*VARIANTS[SOURCE_ONLY], "seed", "data.translation_noise"}
    assert {"seed", "data.translation_noise", "weights.target"} <= differing.keys() <= named
    assert VARIANTS[DEFAULT] == {}


@pytest.mark.parametrize("start", ["0", "60%"])
@pytest.mark.parametrize("name", configuration.LANGUAGES_OF)
def test_rows_with_a_trained_teacher_are_valid_or_left_out_with_the_reason(name: str, start: str) -> None:
    config = configuration.read(f"configs/{name}.py", {"student.text.start": start})
    absent = absent_rows(config, None, noise=0.4, untranslated="")  # type: ignore[arg-type]
    assert absent.keys() >= {"cross-fitted + intra relations"}
    assert (BACKBONE in absent) == (start == "0"), "its vectors are cached where the heads learn first"
    assert len(VARIANTS.keys() - absent.keys()) >= 12
    for row in VARIANTS.keys() - absent.keys():
        changed = variant(config, row, noise=0.4, seed=0)  # checks names, values and what contradicts
        assert configuration.cut_layer(changed) == configuration.cut_layer(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=0"], "argument --seeds: '0'"),
        (["--noise=much"], "--noise='much' must be shares"),
        (["--noise=1.5"], "config.data.translation_noise=1.5 must be between 0 and 1"),
        (["--rows=source onyl"], "'source onyl' is not a row; did you mean 'source only'?"),
        (["--config.student.dimm=3"], "did you mean 'student.dim'?"),
    ],
)
def test_a_wrong_argument_is_one_line(home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = call(ablate.main, f"--config={home / 'config.py'}", f"--workdir={tmp_path / 'new'}", *arguments)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_workdir_of_another_config_is_refused(home: Path, finished: tuple[Path, Outcome]) -> None:
    outcome = ablation(home, finished[0], "--config.student.dim=8")
    assert outcome.code == 2 and "student.dim" in outcome.err and "use another --workdir" in outcome.err


def test_the_data_of_finished_runs_may_be_elsewhere_but_not_others(
    finished: tuple[Path, Outcome], tmp_path: Path
) -> None:
    workdir, elsewhere = Path(shutil.copytree(finished[0], tmp_path / "moved")), tmp_path / "elsewhere"
    write_tiny_set(elsewhere if elsewhere.mkdir() is None else elsewhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
        again = ablation(elsewhere, workdir)
        assert again.code == 0 and again.out.splitlines()[:-1] == finished[1].out.splitlines()[:-1], again.err
        captions = elsewhere / "captions.csv"
        captions.write_text(captions.read_text(encoding="utf-8").replace("rot Auto", "rote Kiste"), encoding="utf-8")
        other = ablation(elsewhere, workdir)
    assert other.code == 2 and f"--workdir={workdir} was trained on other data" in other.err, other.err


@pytest.mark.parametrize("file", ["ranks.npz", "read.json"])
def test_results_of_another_run_are_refused(
    home: Path, finished: tuple[Path, Outcome], tmp_path: Path, file: str
) -> None:
    workdir = Path(shutil.copytree(finished[0], tmp_path / "copy"))
    there, other = (workdir / "noise-0" / row / "seed-0" / file for row in ("source-only", "v-t-baseline"))
    there.write_bytes(other.read_bytes())
    outcome = ablation(home, workdir)
    assert outcome.code == 2 and f"{there} changed after it was written, by its checksum" in outcome.err, outcome.err


ALTERNATIVES = [BASELINE, SOURCE_ONLY, CEILING, LEAST_SQUARES, TRANSLATED]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set with machine translations beside the human captions in training, and translated queries."""
    folder = tmp_path_factory.mktemp("mixed")
    write_tiny_set(folder)
    head, *lines = (folder / "captions.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{line},human" for line in lines]
    for line in lines:
        image, language, caption, split = line.split(",")
        if language != "en" and split == "train":
            rows.append(f"{image},{language},{caption.split()[0]} Fehler,{split},machine")
        elif language != "en":
            rows.append(f"{image},{language}2en,{image.replace('-', ' ')},{split},machine")
    (folder / "captions.csv").write_text("\n".join([f"{head},origin", *rows]) + "\n", encoding="utf-8")
    return folder


def ranks_of(workdir: Path, *, noise: str = "0", row: str) -> dict[str, Ranks]:
    return load_ranks(workdir / f"noise-{noise}" / row / "seed-0" / "ranks.npz")


def same(one: dict[str, Ranks], other: dict[str, Ranks], language: str) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one[language], other[language], strict=True))


@pytest.mark.slow
def test_the_ceiling_and_alternatives_to_the_baseline(mixed: Path, tmp_path: Path) -> None:
    machine = "--config.data.train_origin=machine"
    outcome = ablation(mixed, tmp_path, "--seeds=1", machine, rows=[*ALTERNATIVES, DEFAULT])
    assert outcome.code == 0, outcome.err
    fields = json.loads((tmp_path / "noise-0/ceiling-baseline-on-human-target-captions/seed-0/config.json").read_text())
    assert (fields["data.train_origin"], fields["data.translation_noise"]) == ("human", 0)
    assert not list(tmp_path.glob("noise-0.4/ceiling*")) and not list(tmp_path.glob("noise-0.4/source*"))
    alone = ranks_of(tmp_path, row="source-only")
    mapped = ranks_of(tmp_path, row="least-squares-map-over-source-only")
    translated = ranks_of(tmp_path, row="translate-the-query-search-in-source")
    for ranks in (mapped, translated):
        assert same(ranks, alone, "en")
    # the translation of every query is an English caption of its image
    for german in (translated["de"], translated["fr"]):
        assert german.text_to_vision.tolist() == alone["en"].text_to_vision.tolist()
    for noise, table in zip(("0", "0.4"), json.loads((tmp_path / "ablation.json").read_text()), strict=True):
        assert table["ceiling"] == CEILING and table["absent"] == {}
        rows = {row["name"]: row for row in table["rows"]}
        assert list(rows) == [*ALTERNATIVES, DEFAULT]
        assert rows[LEAST_SQUARES]["validation"] and rows[TRANSLATED]["validation"]
        assert rows[CEILING]["headroom_share"] is None
        read = json.loads((tmp_path / f"noise-{noise}/least-squares-map-over-source-only/seed-0/read.json").read_text())
        assert read["ridges"].keys() == {"de", "fr"}
    assert "headroom won back [95 %]" in (tmp_path / "ablation.md").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.slow
def test_without_held_out_human_captions_the_ceiling_is_the_baseline_without_noise(home: Path, tmp_path: Path) -> None:
    outcome = ablation(home, tmp_path, "--seeds=1", rows=[BASELINE, PROBE, CEILING, TRANSLATED])
    assert outcome.code == 0, outcome.err
    clean, noisy = json.loads((tmp_path / "ablation.json").read_text())
    assert clean["ceiling"] is None and noisy["ceiling"] == CEILING
    assert clean["absent"].keys() == {CEILING, TRANSLATED} and noisy["absent"].keys() == {TRANSLATED}
    assert f"{CEILING}: left out: no ceiling above translations without noise" in outcome.out
    assert "no captions 'de2en'; create them with cl2cm translate" in outcome.out
    ceiling = noisy["rows"][-1]
    assert ceiling["target_sum_recall"] == clean["rows"][0]["target_sum_recall"]
    assert len(list(tmp_path.rglob("ranks.npz"))) == 3  # the baseline twice, the probe once
    assert "headroom won back" in (tmp_path / "ablation.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_row_of_a_shared_model_is_evaluated_after_a_kill_or_later(home: Path, tmp_path: Path) -> None:
    rows = [BASELINE, SOURCE_ONLY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "mapped_ranks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ablate.main(
                [f"--config={home / 'config.py'}", f"--workdir={tmp_path}", "--seeds=1", "--noise=0"]
                + [f"--rows={';'.join([*rows, LEAST_SQUARES])}"]
            )
    assert not (tmp_path / "noise-0/source-only/seed-0/ranks.npz").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", lambda *_: pytest.fail("trained again"))
        resumed = ablation(home, tmp_path, "--seeds=1", "--noise=0", rows=[*rows, LEAST_SQUARES])
    assert resumed.code == 0, resumed.err
    first = json.loads((tmp_path / "ablation.json").read_text())[0]["rows"][2]
    for path in tmp_path.glob("noise-0/least*/seed-0/ranks.npz"):
        path.unlink()
    again = ablation(home, tmp_path, "--seeds=1", "--noise=0", rows=[*rows, LEAST_SQUARES])  # its model is gone
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "ablation.json").read_text())[0]["rows"][2] == first


@pytest.mark.slow
def test_folds_test_every_image_once(home: Path, tmp_path: Path) -> None:
    rows = [BASELINE, SOURCE_ONLY, LEAST_SQUARES]
    outcome = ablation(home, tmp_path, "--seeds=1", "--noise=0", "--folds=3", rows=rows)
    assert outcome.code == 0, outcome.err
    (table,) = json.loads((tmp_path / "ablation.json").read_text())
    assert table["protocol"]["images"] == 32 and table["protocol"]["folds"] == 3
    assert "3 folds over concepts, gallery of about 11, 32 images in all, 96 captions" in table["protocol"]["line"]
    folders = sorted(path.name for path in (tmp_path / "folds-3/noise-0/v-t-baseline").iterdir())
    assert folders == ["seed-0-fold-0", "seed-0-fold-1", "seed-0-fold-2"]
    refused = ablation(home, tmp_path, "--folds=2")
    assert refused.code == 2 and "--folds=2 must be 0" in refused.err


@pytest.mark.slow
def test_runs_that_share_programs_equal_those_of_a_separate_process(
    home: Path, finished: tuple[Path, Outcome], tmp_path: Path
) -> None:
    outcome = ablation(home, tmp_path, "--seeds=1", "--first-seed=1", "--noise=0.4", rows=[DEFAULT])
    assert outcome.code == 0, outcome.err
    for path in tmp_path.rglob("ranks.npz"):
        shared = load_ranks(finished[0] / path.relative_to(tmp_path))
        assert all(same(load_ranks(path), shared, language) for language in ("en", "de", "fr"))
