"""`cl2cm tune`: search space, folds and score, stopping and resuming, and the files that it writes."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import Outcome, call
from support.flipped_bits import flipped_bits

pytest.importorskip("tensorflow")
pytest.importorskip("optuna")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.features import cache
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.studies.tuning import __main__ as tune
from cl2cm_jax.studies.tuning.scoring import Measured, fold_of, parts_of, score_of
from cl2cm_jax.studies.tuning.space import SPACE, read_space
from cl2cm_jax.studies.tuning.study import UNPRUNED, Study
from cl2cm_jax.training import loop

TUNED = "weights.transfer=log:0.5..4 student.dropout=0..0.5 train.steps=times:0.5..1.5 confidence.kind=none|posterior"
FIELDS = [item.split("=")[0] for item in TUNED.split()]


def study(home: Path, workdir: Path, *changes: str, space: str = TUNED) -> Outcome:
    given = [f"--space={space}"] if space else []
    return call(
        tune.main,
        f"--config={home / 'config.py'}",
        f"--workdir={workdir}",
        "--config.train.log_every=2",
        "--folds=2",
        *given,
        *changes,
    )


def without_times(workdir: Path) -> dict[str, Any]:
    content = json.loads((workdir / "tune.json").read_text(encoding="utf-8"))
    content["trials"] = [{k: v for k, v in trial.items() if k != "seconds"} for trial in content["trials"]]
    return {name: value for name, value in content.items() if name not in ("seconds", "command", "date")}


# --- a real study -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(home: Path) -> tuple[Path, Outcome]:
    workdir, corpora = home / "tune", cache.corpora
    with pytest.MonkeyPatch.context() as patch:  # reading the test split would fail
        patch.setattr(cache, "corpora", lambda config: corpora(config)._replace(test=None))
        return workdir, study(home, workdir, "--trials=2")


def test_the_table_has_the_baseline_and_every_trial_with_its_values(finished: tuple[Path, Outcome]) -> None:
    workdir, outcome = finished
    assert outcome.code == 0, outcome.err
    content = json.loads((workdir / "tune.json").read_text(encoding="utf-8"))
    assert [trial["number"] for trial in content["trials"]] == [0, 1]
    assert content["trials"][0]["values"] == {
        "weights.transfer": "1.0",
        "student.dropout": "0.1",
        "train.steps": "8",
        "confidence.kind": "posterior",
    }
    assert content["best"] in (0, 1) and content["space"] == TUNED.split()
    lost = content["baseline"]["source"] - 1
    for trial in content["trials"]:
        assert trial["state"] == "done" and list(trial["values"]) == FIELDS and trial["seconds"] > 0
        means = [np.mean(list(run["targets"].values())) for run in trial["runs"]]
        assert [run["part"] for run in trial["runs"]] == ["fold-0-seed-0", "fold-1-seed-0"]
        assert trial["targets"] == pytest.approx(np.mean(means))
        assert trial["score"] == pytest.approx(trial["targets"] - max(0, lost - trial["source"]))
        assert set(trial["runs"][0]["targets"]) == {"de", "fr"}
        assert f"{trial['score']:.1f}" in outcome.out
    markdown = (workdir / "tune.md").read_text(encoding="utf-8")
    for word in (*FIELDS, "baseline", "0: the config", "cl2cm tune", "The test split was not read", "one more hit is"):
        assert word in markdown, word
    assert all(field in outcome.out for field in FIELDS)


@pytest.mark.slow
def test_best_py_is_a_config_that_trains(home: Path, finished: tuple[Path, Outcome], tmp_path: Path) -> None:
    workdir, _ = finished
    content = json.loads((workdir / "tune.json").read_text(encoding="utf-8"))
    config = configuration.read(str(workdir / "best.py"))
    tuned = content["trials"][content["best"]]["values"]
    own = configuration.read(str(home / "config.py"), {"train.log_every": "2"} | tuned)
    assert configuration.differences(configuration.flatten(config), configuration.flatten(own)) == {}
    header = (workdir / "best.py").read_text(encoding="utf-8").split('"""')[1]
    for word in ("Tuned by:  cl2cm tune", "Date:", "Score:", "of 2 (2 done"):
        assert word in header, word
    trained = call(main.main, f"--config={workdir / 'best.py'}", f"--workdir={tmp_path}", "--config.train.steps=2")
    assert trained.code == 0, trained.err


def test_rerunning_a_finished_command_trains_nothing(home: Path, finished: tuple[Path, Outcome]) -> None:
    workdir, first = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", lambda *_, **__: pytest.fail("trained again"))
        again = study(home, workdir, "--trials=2")
    assert again.code == 0, again.err
    assert again.out.splitlines()[1:-2] == first.out.splitlines()[1:-2]  # the other lines have the minutes


def test_another_config_or_space_is_refused(home: Path, finished: tuple[Path, Outcome]) -> None:
    workdir, _ = finished
    for change, space, says in (
        ("--config.student.dim=8", TUNED, "with other configuration: student.dim (16 there, 8 now)"),
        ("--folds=3", TUNED, "with other settings: folds (2 there, 3 now)"),
        ("--trials=2", "student.dropout", "with other settings: space"),
    ):
        outcome = study(home, workdir, change, space=space)
        assert outcome.code == 2 and says in outcome.err and outcome.err.count("\n") == 1, outcome.err


@pytest.mark.slow
def test_sigterm_in_a_run_stops_with_the_command_to_resume(home: Path, tmp_path: Path) -> None:
    put, calls = loop.put_batch, iter(range(10_000))

    def interrupting(batch: Any, mesh: Any) -> Any:
        if next(calls) == 26:  # within trial 0
            signal.raise_signal(signal.SIGTERM)
        return put(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", interrupting)
        stopped = study(home, tmp_path, "--trials=1")
    assert stopped.code == 143, stopped.err
    assert "resume with: cl2cm tune" in stopped.out and not (tmp_path / "tune.md").exists()
    assert list((tmp_path / "trials" / "0000").iterdir()) != []
    resumed = study(home, tmp_path, "--trials=1")
    assert resumed.code == 0 and len(without_times(tmp_path)["trials"]) == 1, resumed.err


# --- studies with fake runs ------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Replaces runs: the targets' SumR depends on the dropout alone; `error` is raised at the call `break_at`."""
    control: dict[str, Any] = {"calls": 0, "break_at": None, "error": KeyboardInterrupt(), "seconds": 0.0, "for": 1}

    def stand_in(config: Any, data: Any, folder: Path) -> bool:
        control["calls"] += 1
        if control["break_at"] and 0 <= control["calls"] - control["break_at"] < control["for"]:
            raise control["error"]
        worth = 200.0 if "baseline" in folder.parts else 300 - 100 * abs(config.student.dropout - 0.3)
        control[str(folder)] = Measured(250.0, {"de": worth, "fr": worth})
        return True

    def measure(tuning: Any, values: dict[str, str], folder: Path, part: Any) -> Measured:
        config = configuration.override_all(tuning.config.copy_and_resolve_references(), values)
        name = str(folder / part.name)
        tuning.study.add_seconds(0.0 if name in control else control["seconds"])
        tune.run_once(config, part.corpora, folder / part.name)
        return control[name]

    monkeypatch.setattr(tune, "run_once", stand_in)
    monkeypatch.setattr(tune.Tuning, "measure", measure)
    yield control


@pytest.mark.slow
def test_a_killed_and_resumed_study_equals_an_uninterrupted_one(
    home: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert study(home, whole, "--trials=9").code == 0
    for calls in (4, 8, 11):  # within trials 0, 1 (its second part) and a later one
        measured |= {"calls": 0, "break_at": calls, "error": RuntimeError("killed")}
        with pytest.raises(RuntimeError, match="killed"):
            study(home, killed, "--trials=9")
        with (killed / "study.log").open("a") as journal:
            journal.write('{"op_code": 5, "half')  # an incomplete line
        (killed / "study.log.lock").symlink_to("study.log")
    measured["break_at"] = None
    assert study(home, killed, "--trials=9").code == 0
    assert without_times(killed) == without_times(whole)
    assert len(without_times(killed)["trials"]) == 9
    assert [p.name for p in sorted((whole).glob("trials/*"))] == [p.name for p in sorted((killed).glob("trials/*"))]


def test_ctrl_c_between_runs_prints_no_traceback(home: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    measured["break_at"] = 4
    stopped = study(home, tmp_path, "--trials=2")
    assert stopped.code == 130 and stopped.out.startswith("stopped and saved; resume with: cl2cm tune")


def test_bad_trials_are_pruned_and_the_best_is_near_the_optimum(
    home: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    outcome = study(home, tmp_path, "--trials=25", space="student.dropout=0..0.9")
    assert outcome.code == 0, outcome.err
    content = without_times(tmp_path)
    states = [trial["state"] for trial in content["trials"]]
    assert "cut off" in states[UNPRUNED:] and "cut off" not in states[:UNPRUNED]
    assert all(len(trial["runs"]) == 1 for trial in content["trials"] if trial["state"] == "cut off")
    best = content["trials"][content["best"]]
    assert float(best["values"]["student.dropout"]) == pytest.approx(0.3, abs=0.1) and best["state"] == "done"
    assert content["importances"] == {"student.dropout": 1.0} and "importance of the fields" in outcome.out


def test_minutes_count_over_all_starts(home: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    measured["seconds"] = 10.0  # per run: 20 for the baseline, 20 per trial
    assert study(home, tmp_path, "--minutes=0.9").code == 0
    assert len(without_times(tmp_path)["trials"]) == 2
    outcome = study(home, tmp_path, "--minutes=0.9")
    assert len(without_times(tmp_path)["trials"]) == 2 and "minutes: 1.0" in outcome.out
    assert study(home, tmp_path, "--minutes=1.5").code == 0
    assert len(without_times(tmp_path)["trials"]) == 4


def test_a_diverging_trial_fails_and_the_study_continues(home: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    measured |= {"break_at": 6, "error": loop.Diverged("step 3: the term 'total' is nan")}
    outcome = study(home, tmp_path, "--trials=3")
    assert outcome.code == 0, outcome.err
    content = without_times(tmp_path)
    assert [trial["state"] for trial in content["trials"]] == ["done", "failed", "done"]
    assert content["trials"][1]["score"] is None and "the term 'total' is nan" in content["trials"][1]["reason"]
    assert "trial 1 failed: step 3" in outcome.out


def test_repeated_failures_stop_the_study(home: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    measured |= {"break_at": 5, "for": 99, "error": UserError("no room")}
    outcome = study(home, tmp_path, "--trials=9")
    assert outcome.code == 2 and "5 trials in a row failed, the last one with: no room" in outcome.err
    assert [trial["state"] for trial in without_times(tmp_path)["trials"]] == ["done", *["failed"] * 5]
    measured |= {"calls": 0, "break_at": 3}  # in trial 0, the config itself
    outcome = study(home, tmp_path / "other", "--trials=9")
    assert outcome.code == 2 and outcome.err == "error: no room\n"


def test_a_study_file_of_an_earlier_version_opens_and_resumes(home: Path, tmp_path: Path) -> None:
    """The golden file has two complete trials, and a third that was interrupted after its values were drawn."""
    shutil.copy(Path(__file__).parents[2] / "golden" / "tune_study.log", tmp_path / "study.log")
    earlier = Study(tmp_path, seed=0)
    earlier.check(settings={"score": "folds", "seeds": 1, "folds": 2, "space": TUNED.split()})
    baseline = [Measured(325.0, {"de": 337.5, "fr": 325.0}), Measured(312.5, {"de": 337.5, "fr": 337.5})]
    results = earlier.results(baseline)
    assert [(result.number, result.state) for result in results] == [(0, "done"), (1, "done")]
    assert results[1].values == dict(zip(FIELDS, ("1.19", "0.3602", "4", "none"), strict=True))
    assert results[1].runs[0] == (362.5, {"de": 375, "fr": 350}) and earlier.seconds > 104
    trial = earlier.begin(read_space(TUNED, configuration.read(str(home / "config.py"))))
    assert trial.number == 2 and trial.values == dict(zip(FIELDS, ("1.238", "0.01296", "7", "none"), strict=True))


def test_a_study_whose_data_were_moved_resumes(tmp_path: Path) -> None:
    """Places are no part of its configuration; a study of an earlier version has them there."""
    before = configuration.flatten(configuration.defaults()) | {"data.images": "old/photos", "seed": 1}
    Study(tmp_path, seed=0).check(configuration=before)
    now = {name: value for name, value in before.items() if name not in configuration.PLACES}
    Study(tmp_path, seed=0).check(configuration=now)
    with pytest.raises(UserError, match=r"was tuned with other configuration: seed \(1 there, 2 now\); use another"):
        Study(tmp_path, seed=0).check(configuration=now | {"seed": 2})


def test_a_flipped_bit_of_a_study_is_an_error(tmp_path: Path) -> None:
    study = Study(tmp_path, seed=0)
    study.check(settings={"seeds": 1, "score": "folds"})
    study.add_seconds(12.5)
    for file in ("study.log", "study.checksum.json"):
        for _ in flipped_bits(tmp_path / file, count=12):
            with pytest.raises(UserError, match=r"study.(log changed after it was written|checksum.json is damaged)"):
                Study(tmp_path, seed=0)
    assert Study(tmp_path, seed=0).seconds == 12.5


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--minutes=0"], "--minutes=0 must be more than 0"),
        (["--folds=1"], "--folds=1 must be 2 or more"),
        (["--trials=0"], "argument --trials: '0' is"),
        (["--space=weights.transfr=1..2"], "did you mean 'weights.transfer'?"),
        (["--space=weights.transfr"], "did you mean 'weights.transfer'?"),
        (["--space=confidence.kind=none|posteror"], "did you mean 'posterior'?"),
        (["--space=student.dropout=0..2"], "config.student.dropout=2.0 must be between 0 and 0.99"),
        (["--space=student.dropout=0.5"], "write --config.student.dropout=0.5"),
        (["--space=student.dropout=0.5..0.1"], "must go from a lower number to a higher one"),
        (["--space=train.steps=4..8epochs"], "use the same unit"),
        (["--space=optimizer.learning_rate=log:1e-3..1e400"], "must have finite bounds"),
        (["--space=weights.transfer=-1..2"], "must be 0 or more, or a schedule"),
        (["--space=seed=0..9"], "seed decides which data is read or how a trial is scored"),
        (["--space=data.train_share=0.4..1"], "data.train_share decides which data is read"),
        (["--space=evaluation.captions_per_image=all|first"], "write --config.evaluation.captions_per_image="),
        (["--space=text.max_tokens=8|16"], "text.max_tokens decides which data is read"),
        (["--config.student.dimm=3"], "did you mean 'student.dim'?"),
    ],
)
def test_argument_errors_are_one_line(home: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    given = "" if any(argument.startswith("--space") for argument in arguments) else TUNED
    outcome = study(home, tmp_path / "new", *arguments, space=given)
    assert outcome.code == 2 and says in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert not (tmp_path / "new").exists()


def test_errors_of_a_busy_workdir_and_a_damaged_study_are_one_line(home: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / ".lock"):
        busy = study(home, tmp_path)
    assert busy.code == 2 and "is in use by another tuning process" in busy.err
    for content in ('{"op_code": 0}\n', "none\n\n", "[]\n{}\n"):
        (tmp_path / "study.log").write_text(content)
        damaged = study(home, tmp_path)
        assert damaged.code == 2 and "study.log is damaged" in damaged.err and damaged.err.count("\n") == 1
    (tmp_path / "file").write_text("")
    assert study(home, tmp_path / "file").code == 2


def test_the_error_without_optuna_says_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    outcome = study(home, tmp_path)
    assert (
        outcome.code == 2
        and "run: pip install optuna, or in a checkout -e '.[tune]'" in outcome.err
        and outcome.err.count("\n") == 1
    )


def test_docs_show_the_default_space() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "tune.md").read_text(encoding="utf-8")
    for field, values in SPACE.items():
        shown = ", ".join(f"`{value}`" for value in values.split("|"))
        assert f"| `{field}` | {shown} |" in page


# --- space, folds and score -------------------------------------------------------------------------------------------


def test_the_default_space_has_only_fields_that_the_config_reads(home: Path) -> None:
    config = configuration.read(str(home / "config.py"))
    assert [dimension.field for dimension in read_space("", config)] == list(SPACE)
    config.teacher.head, config.weights.transfer = "none", "0:0 20%:1"
    left = [dimension.field for dimension in read_space("", config)]
    assert not any(field.startswith(("teacher.", "weights.")) for field in left) and "transfer.temperature" in left
    config.weights.transfer = "0.0"
    assert not any("transfer" in dimension.field for dimension in read_space("", config))


def test_a_space_is_read_from_text_and_from_a_file(home: Path, tmp_path: Path) -> None:
    config = configuration.read(str(home / "config.py"), {"train.steps": "40epochs"})
    typed = (
        "transfer.temperature weights.transfer=log:2..8 train.steps=20..50epochs teacher.steps=times:0.5..2 "
        "optimizer.warmup=0..10 transfer.relations=cross|cross,intra_target teacher.residual=true|false"
    )
    (tmp_path / "space").write_text(typed.replace(" ", "\n").replace("log:2..8", "log:2..8  # was 6\n"))
    for text in (typed, str(tmp_path / "space")):
        space = {dimension.field: dimension for dimension in read_space(text, config)}
        assert len(space) == 7 and space["transfer.temperature"].low == 0.03
        assert (space["weights.transfer"].low, space["weights.transfer"].own) == (
            1.0,
            1.0,
        )  # widened to include the config's value
        assert space["train.steps"].text(33) == "33epochs" and space["train.steps"].text(40) == "40epochs"
        assert space["teacher.steps"].text(1.6) == "6" and space["teacher.steps"].text(0.01) == "1"
        assert space["transfer.relations"].choices == ("cross", "cross,intra_target")
        assert space["teacher.residual"].choices == ("True", "False")
        for dimension in space.values():  # the config itself is a point of the space
            same = configuration.override_all(
                config.copy_and_resolve_references(), {dimension.field: dimension.present}
            )
            assert dimension.text(dimension.own) == dimension.present and same.to_dict() == config.to_dict()


def test_the_source_language_may_lose_one_point_without_penalty() -> None:
    baseline = [Measured(260.0, {"de": 180.0, "fr": 190.0}), Measured(262.0, {"de": 181.0, "fr": 191.0})]
    assert score_of(baseline, baseline) == (185.5, 185.5, 261.0)
    for source, penalty in ((300.0, 0.0), (260.0, 0.0), (259.0, 1.0), (241.0, 19.0)):
        runs = [Measured(source, {"de": 200.0, "fr": 100.0})] * 2
        assert score_of(runs, baseline) == (150.0 - penalty, 150.0, source)
    assert score_of([Measured(258.0, {"de": 1.0})], baseline).score == 0.0  # against the same part: 260 - 1 - 258


def test_folds_keep_concepts_together_and_have_similar_sizes() -> None:
    concepts = [f"concept-{number // 3}" for number in range(60)]
    fold = fold_of(concepts, folds=3)
    assert all(len(set(fold[3 * n : 3 * n + 3])) == 1 for n in range(20))
    assert sorted(np.bincount(fold)) == [18, 21, 21]
    order = np.random.default_rng(0).permutation(60)
    assert (fold_of([concepts[i] for i in order], folds=3) == fold[order]).all()
    with pytest.raises(UserError, match="has 20 concepts; use fewer"):
        fold_of(concepts, folds=21)


def test_parts_never_contain_the_test_split(home: Path) -> None:
    config = configuration.read(str(home / "config.py"))
    train_split, validation, test = cache.corpora(config)
    outside = set(test.image_ids.tolist())
    parts = parts_of(config, train_split, validation, score="folds", folds=4, seeds=2)
    assert len(parts) == 8 and {part.seed for part in parts} == {0, 1}
    held = [set(part.corpora.test.image_ids.tolist()) for part in parts[:4]]
    assert set().union(*held) == set(train_split.image_ids.tolist()) and sum(map(len, held)) == 16
    for part, ids in zip(parts, held, strict=False):
        learned = set(part.corpora.train.image_ids.tolist())
        assert not learned & ids and learned | ids == set(train_split.image_ids.tolist())
        assert set(part.corpora.validation.image_ids.tolist()) == set(validation.image_ids.tolist())
        assert not (learned | ids) & outside
    on_validation = parts_of(config, train_split, validation, score="validation", folds=4, seeds=3)
    assert [part.name for part in on_validation] == ["seed-0", "seed-1", "seed-2"]
    assert on_validation[0].corpora.train is train_split and on_validation[0].corpora.test is validation
    config.data.train_origin = "machine"  # but the captions of the tiny set are by people
    with pytest.raises(AssertionError, match="machine"):
        parts_of(config, train_split, validation, score="folds", folds=4, seeds=1)
    config.evaluation.query = "fused"
    with pytest.raises(UserError, match="use --score=validation"):
        parts_of(config, train_split, validation, score="folds", folds=4, seeds=1)
