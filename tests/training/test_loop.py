"""The main command on a tiny set: trains, stops, resumes bit for bit, evaluates, searches, and says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command import Outcome, call
from support.run_ends import assert_same_end, last_state
from support.tiny_set import PLANTED

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.data.batches import batches
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.runtime.metrics import MetricWriter
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.training import experiment, loop, results

ROOT = Path(__file__).resolve().parents[2]
STEPS, TEACHER_STEPS = 12, 4


def training(home: Path, workdir: Path, *changes: str, mode: str = "train") -> Outcome:
    fields = [f"--config.{change}" for change in changes]
    return call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", f"--mode={mode}", *fields)


@pytest.fixture(scope="session")
def finished(trained_run: tuple[Path, Outcome]) -> tuple[Path, Outcome]:
    """A run of 4 teacher and 8 student steps without an interruption."""
    return trained_run


@pytest.fixture(scope="session")
def interrupted(home: Path) -> tuple[Path, Outcome]:
    """The same, stopped by SIGTERM while it draws its eighth batch."""
    workdir = home / "interrupted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "put_batch", at_call(8, lambda: signal.raise_signal(signal.SIGTERM)))
        outcome = training(home, workdir)
    return workdir, outcome


def at_call(number: int, act: Callable[[], object]) -> Callable[[Any, Any], Any]:
    """`put_batch`, which does something else first at its n-th call."""
    put, calls = loop.put_batch, iter(range(1, 1000))

    def wrapped(batch: Any, mesh: Any) -> Any:
        if next(calls) == number:
            act()
        return put(batch, mesh)

    return wrapped


@pytest.fixture(scope="session")
def built(home: Path) -> experiment.Run:
    return experiment.build(configuration.read(str(home / "config.py")))


def test_a_run_writes_all_outputs(finished: tuple[Path, Outcome]) -> None:
    workdir, outcome = finished
    assert outcome.code == 0, outcome.err
    files = ["config.json", "gallery.npz", "metrics.csv", "metrics.jsonl", "model.safetensors", "ranks.npz"]
    for name in [*files, "results.json", "results.md", "retrieval.png", "tensorboard", "checkpoints"]:
        assert (workdir / name).exists(), name
    assert "Retrieval on the test split" in outcome.out and str(workdir) in outcome.out
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {"source", "target", "sentence", "transfer", "total"} <= {
        name.removeprefix("train/") for row in rows for name in row
    }


def test_layout_of_results_json(finished: tuple[Path, Outcome]) -> None:
    results = json.loads((finished[0] / "results.json").read_text())
    keys = {"protocol", "test", "validation", "mean_target", "language_gap", "config", "seconds"}
    assert keys <= set(results)
    assert set(results["test"]) == set(results["validation"]) == {"en", "de", "fr"}
    names = {f"{direction}/R@{k}" for direction in ("text_to_vision", "vision_to_text") for k in (1, 5, 10)}
    for metrics in results["test"].values():
        assert names | {"SumR"} <= set(metrics)
        assert metrics["SumR"] == pytest.approx(sum(metrics[name] for name in names))
    mean = (results["test"]["de"]["SumR"] + results["test"]["fr"]["SumR"]) / 2
    assert results["mean_target"]["SumR"] == pytest.approx(mean)
    assert results["language_gap"] == pytest.approx(results["test"]["en"]["SumR"] - mean)
    assert results["protocol"]["images"] == 8 and results["config"]["train.batch_size"] == 8
    assert {"build", "train", "evaluate"} <= set(results["seconds"])


def test_sigterm_saves_exits_143_and_prints_the_resume_command(interrupted: tuple[Path, Outcome], home: Path) -> None:
    workdir, outcome = interrupted
    assert outcome.code == 143, outcome.err
    assert f"resume with: cl2cm train --config={home / 'config.py'} --workdir={workdir}" in outcome.out
    assert "8" in os.listdir(workdir / "checkpoints")
    assert not (workdir / "results.json").exists()


def test_stopped_and_resumed_equals_uninterrupted(
    finished: tuple[Path, Outcome], interrupted: tuple[Path, Outcome], built: experiment.Run, home: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "resumed"
    shutil.copytree(interrupted[0], workdir)
    outcome = training(home, workdir)
    assert outcome.code == 0, outcome.err
    assert f"resuming from step 8 of {STEPS}" in outcome.err
    assert_same_end(built, finished[0], workdir)
    actual, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, finished[0]))
    assert actual["test"] == expected["test"] and actual["validation"] == expected["validation"]


def test_a_signal_after_the_last_step_stops_too(
    finished: tuple[Path, Outcome], built: experiment.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, calibrate = tmp_path / "run", loop._calibrate
    shutil.copytree(finished[0], workdir)

    def stopping(run: experiment.Run, state: Any, step: int) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return calibrate(run, state, step)

    left = [workdir / "checkpoints" / name for name in ("3.deleted", "9.orbax-checkpoint-tmp")]
    for folder in left:  # by a kill while the last checkpoint was saved
        shutil.copytree(workdir / "checkpoints" / str(STEPS), folder)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_calibrate", stopping)
        assert loop.train(built, workdir) is None
    assert loop.train(built, workdir) is not None
    assert_same_end(built, finished[0], workdir)
    assert not any(folder.exists() for folder in left)


def test_one_process_at_a_time_trains_in_a_workdir(built: experiment.Run, home: Path, tmp_path: Path) -> None:
    with experiment.claim(tmp_path, built.config):
        outcome = training(home, tmp_path)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith(f"error: --workdir={tmp_path} is in use"), outcome.err
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_seven_and_five_steps_equal_twelve(
    finished: tuple[Path, Outcome], built: experiment.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "put_batch", at_call(7, lambda: signal.raise_signal(signal.SIGTERM)))
        assert loop.train(built, tmp_path) is None
    assert last_state(built, tmp_path)[0] == 7
    starts: list[int] = []
    monkeypatch.setattr(loop, "batches", lambda *a, **k: starts.append(k["start_step"]) or batches(*a, **k))
    assert loop.train(built, tmp_path) is not None
    assert starts == [7]
    assert_same_end(built, finished[0], tmp_path)


KILLED = """
import os, signal, sys
from cl2cm_jax import main
from cl2cm_jax.training import loop
put, left = loop.put_batch, [int(sys.argv[1])]

def put_or_die(batch, mesh):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(batch, mesh)

loop.put_batch = put_or_die
main.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_ends_the_same(
    finished: tuple[Path, Outcome], built: experiment.Run, home: Path, tmp_path: Path
) -> None:
    steps = random.SystemRandom().randrange(1, STEPS)
    arguments = [str(steps), f"--config={home / 'config.py'}", f"--workdir={tmp_path}"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    outcome = training(home, tmp_path)
    assert outcome.code == 0, f"killed after {steps} steps: {outcome.err}"
    assert_same_end(built, finished[0], tmp_path)


def test_a_corrupt_newest_checkpoint_falls_back(
    finished: tuple[Path, Outcome], interrupted: tuple[Path, Outcome], built: experiment.Run, home: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "corrupt"
    shutil.copytree(interrupted[0], workdir)
    steps = sorted(int(name) for name in os.listdir(workdir / "checkpoints"))
    for file in (workdir / "checkpoints" / str(steps[-1])).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    outcome = training(home, workdir)
    assert outcome.code == 0, outcome.err
    assert f"taking step {steps[-2]} instead" in outcome.err
    assert_same_end(built, finished[0], workdir)


@pytest.mark.parametrize(
    ("evaluate_every", "what"),
    [("100", r"the term '(?!total)\w+' is (nan|inf|-inf)"), ("1", "7 query vectors hold NaN or infinity")],
    ids=["term", "vectors"],
)
def test_a_loss_that_is_not_finite_stops_with_step_and_term(
    home: Path, tmp_path: Path, evaluate_every: str, what: str
) -> None:
    changes = ("optimizer.learning_rate=1e38", "optimizer.clip=0", f"train.evaluate_every={evaluate_every}")
    outcome = training(home, tmp_path, *changes, "teacher.head=none", "train.checkpoint_every=1")
    assert outcome.code == 2
    message = outcome.err.strip().splitlines()[-1]
    assert re.match(rf"error: step 1: {what}.*; lower config.optimizer.learning_rate", message), message
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "checkpoints" / "2").exists()  # the state after the bad step


def test_early_stop(home: Path, tmp_path: Path) -> None:
    changes = ("train.early_stop=1", "train.evaluate_every=1", "optimizer.learning_rate=1e-30", "train.ema=0")
    outcome = training(home, tmp_path, *changes, "teacher.head=none", "train.steps=9")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if any(name.startswith("validation/") for name in row)] == [1, 2]
    assert json.loads((tmp_path / "results.json").read_text())["config"]["selected_step"] == 2  # of equals the newest


def test_a_workdir_of_another_configuration_is_refused(finished: tuple[Path, Outcome], home: Path) -> None:
    workdir = finished[0]
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    outcome = training(home, workdir, "optimizer.learning_rate=0.5", "data.targets=fr", "train.log_every=1")
    assert outcome.code == 2
    assert "optimizer.learning_rate (0.01 there, 0.5 now)" in outcome.err and "data.targets" in outcome.err
    assert "log_every" not in outcome.err  # changes no number
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_a_finished_workdir_prints_its_table_and_trains_nothing(
    finished: tuple[Path, Outcome], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "build", lambda _: pytest.fail("nothing is to be built"))
    outcome = training(home, finished[0])
    assert outcome.code == 0, outcome.err
    assert (finished[0] / "results.md").read_text().strip() in outcome.out and "finished before" in outcome.out


def test_evaluate_rewrites_the_results(finished: tuple[Path, Outcome], home: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "evaluated"
    shutil.copytree(finished[0], workdir)
    written = ("results.json", "results.md", "gallery.npz", "model.safetensors", "retrieval.png")
    for name in written:
        (workdir / name).unlink()
    outcome = call(main.main, f"--workdir={workdir}", "--mode=evaluate")  # the workdir knows its configuration
    assert outcome.code == 0, outcome.err
    assert all((workdir / name).exists() for name in written)
    actual, expected = (json.loads((folder / "results.json").read_text()) for folder in (workdir, finished[0]))
    assert {k: v for k, v in actual.items() if k != "seconds"} == {k: v for k, v in expected.items() if k != "seconds"}
    assert actual["seconds"]["train"] == expected["seconds"]["train"]
    assert (workdir / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


def test_a_workdir_of_an_earlier_version_resumes(finished: tuple[Path, Outcome], home: Path, tmp_path: Path) -> None:
    """The field had its default's effect; with another value it is another configuration."""
    workdir = tmp_path / "older"
    shutil.copytree(finished[0], workdir)
    fields = json.loads((workdir / "config.json").read_text())
    del fields["student.text.start"], fields["train.targets_per_image"]
    write_checked(workdir / "config.json", json.dumps(fields))
    other = training(home, workdir, "train.targets_per_image=2")
    assert other.code == 2 and "train.targets_per_image (1 there, 2 now)" in other.err
    assert training(home, workdir).code == 0


def test_evaluate_without_a_checkpoint(home: Path, tmp_path: Path) -> None:
    outcome = training(home, tmp_path / "empty", mode="evaluate")
    assert outcome.code == 2 and "has no checkpoint; train first" in outcome.err


def test_training_without_a_config(tmp_path: Path) -> None:
    outcome = call(main.main, f"--workdir={tmp_path}")
    assert (outcome.code, outcome.err) == (2, "error: --config is missing; name a file such as configs/emoji.py\n")
    outcome = call(main.main, f"--workdir={tmp_path}", "--mode=evaluate")
    assert outcome.code == 2 and "config.json" in outcome.err


def test_check_describes_the_training_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    outcome = training(home, tmp_path / "new", mode="check")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "new").exists()
    assert "train 16 images 48 captions" in outcome.out and "data 8" in outcome.out
    assert "8 steps after 4 of the teacher alone" in outcome.out and "student/text" in outcome.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.batch_size=12", 'config.train.batch_size=12 is not divisible by the 8 devices of mesh axes "data"'),
        ("train.batch_size=32", "config.train.batch_size=32 is more than the 16 images"),
        ("data.targets=de,ja", "the train split has no caption in 'ja'; it has de, en, fr"),
        ("train.batchsize=8", "config.train.batchsize is not a field; did you mean 'train.batch_size'?"),
        ("train.steps=ten", "config.train.steps='ten' is not a duration"),
        ("weights.target=high", "config.weights.target='high' must be 0 or more, or a schedule"),
        ("weights.target=nan", "config.weights.target='nan' must be 0 or more"),
        ("data.dir=/proc/none", "config.data.dir='/proc/none' cannot be made"),
        ("train.steps=0", "config.train.steps='0' is 0 steps; it must be 1 or more"),
        ("train.evaluate_every=0", "config.train.evaluate_every='0' is 0 steps"),
        ("teacher.steps=0", "config.teacher.steps='0' is 0 steps"),
        ("train.targets_per_image=3", "config.train.targets_per_image=3 must be -1 or from 1 to the 2"),
        ("mesh.fsdp=3", "3 does not divide the 8 devices"),
        ("data.captions=nowhere.csv", "config.data.captions='nowhere.csv' is not a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(home: Path, tmp_path: Path, change: str, message: str) -> None:
    outcome = training(home, tmp_path, change)
    assert outcome.code == 2
    assert message in outcome.err.strip().splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "config.json").exists()  # the corrected line may use the same workdir


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_checkpoint_leaves_its_workdir_free(home: Path, tmp_path: Path) -> None:
    failed = training(home, tmp_path, "optimizer.learning_rate=1e38", "optimizer.clip=0", "train.checkpoint_every=100")
    assert failed.code == 2 and (tmp_path / "config.json").exists()
    outcome = training(home, tmp_path)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "config.json").read_text())["optimizer.learning_rate"] == 0.01


def test_a_workdir_that_cannot_be_created(home: Path) -> None:
    outcome = training(home, Path("/proc/none"))
    assert outcome.code == 2 and "--workdir=/proc/none cannot be made" in outcome.err


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_config_in_the_workdir(
    finished: tuple[Path, Outcome], home: Path, tmp_path: Path, content: str
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    write_checked(workdir / "config.json", content)
    for outcome in (training(home, workdir), call(search.main, f"--workdir={workdir}", "red car")):
        assert outcome.code == 2 and "config.json" in outcome.err and "Traceback" not in outcome.err


def test_a_deleted_results_table_is_written_again(finished: tuple[Path, Outcome], home: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "results.md").unlink()
    assert training(home, workdir).code == 0
    assert (workdir / "results.md").read_text() == (finished[0] / "results.md").read_text()


def test_damaged_features_and_sets_are_named_and_rebuilt(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(home / "data", data)
    changed = f"data.dir={data}"
    assert training(home, tmp_path / "x", changed, mode="check").code == 0
    for folder in (data / "features").glob("[!.]*"):
        (folder / "train" / "vision.npy").write_bytes(b"cut")
    outcome = training(home, tmp_path / "x", changed, mode="check")
    assert outcome.code == 2 and "is damaged" in outcome.err and "delete it, and it is computed again" in outcome.err
    for folder in (data / "features").glob("[!.]*"):
        (folder / "done.json").unlink()  # deleted in part
    assert training(home, tmp_path / "x", changed, mode="check").code == 0
    shutil.rmtree(data / "features")
    for shard in data.rglob("*train.tfrecord*"):
        shard.write_bytes(shard.read_bytes()[:-20])
    outcome = training(home, tmp_path / "x", changed, mode="check")
    assert outcome.code == 2 and "delete it, and it is built again" in outcome.err.strip().splitlines()[-1]


def test_a_workdir_that_is_a_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    outcome = training(home, tmp_path / "file")
    assert outcome.code == 2 and "is a file; name a folder" in outcome.err
    assert (tmp_path / "file").read_text() == "mine"


def test_changed_data_are_not_trained_on_in_the_same_workdir(
    interrupted: tuple[Path, Outcome], home: Path, tmp_path: Path
) -> None:
    workdir, other = tmp_path / "run", tmp_path / "data"
    shutil.copytree(interrupted[0], workdir)
    shutil.copytree(home, other)
    captions = (other / "captions.csv").read_text(encoding="utf-8").replace("red car", "crimson car")
    (other / "captions.csv").write_text(captions, encoding="utf-8")
    before = {path: path.read_bytes() for path in home.glob("captions.csv")}
    try:
        shutil.copy(other / "captions.csv", home / "captions.csv")  # the same path, other content
        outcome = training(home, workdir)
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert outcome.code == 2 and "was trained on other data; use another --workdir" in outcome.err


def test_a_full_disk_is_one_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(MetricWriter, "write", full)
    outcome = training(home, tmp_path)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    assert outcome.err.strip().splitlines()[-1] == "error: No space left on device: metrics.jsonl; free disk space"


@pytest.mark.slow
def test_search_finds_the_planted_picture(home: Path, tmp_path: Path) -> None:
    changes = ("teacher.head=none", "student.dropout=0", "train.steps=40", "train.select=last", "train.ema=0")
    lasting = ("train.evaluate_every=40", "train.checkpoint_every=40", "optimizer.learning_rate=0.02")
    assert "Retrieval on the test split" in (outcome := training(home, tmp_path, *changes, *lasting)).out, outcome
    outcome = call(search.main, f"--workdir={tmp_path}", "red car", "rot Auto", "--top=3", "--json")
    assert outcome.code == 0, outcome.err
    answers = json.loads(outcome.out)
    assert [answer["query"] for answer in answers] == ["red car", "rot Auto"]
    for answer in answers:
        assert [result["rank"] for result in answer["results"]] == [1, 2, 3]
        # a dozen steps on a handful of pictures: among the first three
        captions = {result["id"]: result["caption"] for result in answer["results"]}
        assert captions.get(PLANTED) == "red car"


@pytest.mark.slow
def test_a_bert_from_a_model_folder_trains_and_searches(home: Path, tmp_path: Path, minilm: Path) -> None:
    pytest.importorskip("tokenizers")
    outcome = training(home, tmp_path, "text.backbone=bert", f"text.path={minilm}", "text.max_tokens=16")
    assert outcome.code == 0, outcome.err
    outcome = call(search.main, f"--workdir={tmp_path}", "red car", "--top=3", "--json")
    assert outcome.code == 0 and len(json.loads(outcome.out)[0]["results"]) == 3, outcome.err
    missing = training(home, tmp_path / "other", "text.backbone=bert", f"text.path={tmp_path / 'none'}")
    assert missing.code == 2 and "is not a folder" in missing.err


def test_search_does_not_load_tensorflow(finished: tuple[Path, Outcome]) -> None:
    code = (
        "import sys; from cl2cm_jax.search.__main__ import main; main(sys.argv[1:]); "
        "print(sorted({'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, f"--workdir={finished[0]}", "red car"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_search_needs_a_finished_run(interrupted: tuple[Path, Outcome], tmp_path: Path) -> None:
    outcome = call(search.main, f"--workdir={interrupted[0]}", "red car")
    assert outcome.code == 2 and "finish its training with" in outcome.err


def test_a_run_is_finished_when_its_results_are_there(finished: tuple[Path, Outcome], tmp_path: Path) -> None:
    assert results.is_finished(finished[0]) and not results.is_finished(tmp_path)
