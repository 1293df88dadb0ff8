"""After its planned end a run goes on with more steps or another batch size, and another starts from its weights."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.command import Outcome, call
from support.run_ends import last_state, rows
from support.tiny_models import write_tiny_bert
from support.tiny_set import write_tiny_set

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.trained.initial import initial_student
from cl2cm_jax.training import experiment, identity, loop
from cl2cm_jax.training.workdir import read_config


def training(home: Path, workdir: Path, *changes: str, mode: str = "train", init: Path | None = None) -> Outcome:
    fields = [f"--config.{change}" for change in changes]
    start = [] if init is None else [f"--init={init}"]
    return call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", f"--mode={mode}", *fields, *start)


@pytest.fixture
def run(trained_workdir: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of 4 steps of the teacher and 8 of the student."""
    return Path(shutil.copytree(trained_workdir, tmp_path / "run"))


def test_a_finished_run_goes_on_with_more_steps(run: Path, home: Path) -> None:
    before = rows(run)
    outcome = training(home, run, "train.steps=12")
    assert outcome.code == 0, outcome.err
    assert "config.train.steps='12' in place of '8': going on after step 12, to step 16" in outcome.err
    assert "the learning rate goes from " in outcome.err and "resuming from step 12 of 16" in outcome.err
    assert rows(run)[: len(before)] == before and rows(run)[-1]["step"] == 16
    results = json.loads((run / "results.json").read_text())
    assert results["config"]["train.steps"] == "12" and read_config(run).train.steps == "12"
    assert "finished before" in training(home, run, "train.steps=12").out
    outcome = training(home, run)
    assert outcome.code == 2 and "is at step 16, and the training ends at 12; use a larger" in outcome.err, outcome.err


def test_a_run_that_goes_on_and_is_stopped_is_not_taken_for_finished(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = loop.put_batch, iter(range(1, 100))

    def stopping(batch: object, mesh: object) -> object:
        if next(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return put(batch, mesh)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "put_batch", stopping)
        assert "stopped and saved" in training(home, run, "train.steps=12").out
    assert (run / "results.json").exists()  # those of the 8 steps, until there are others
    assert training(home, run, "train.steps=12", mode="evaluate").code == 0
    outcome = training(home, run, "train.steps=12")
    assert outcome.code == 0 and "resuming from step 14 of 16" in outcome.err, outcome.err
    assert "finished before" in training(home, run, "train.steps=12").out


def test_the_batch_size_may_change_with_the_steps(run: Path, home: Path) -> None:
    before = (run / "config.json").read_bytes()
    outcome = training(home, run, "train.batch_size=16")
    assert outcome.code == 2 and "is at step 12, and the training ends at 12" in outcome.err, outcome.err
    assert (run / "config.json").read_bytes() == before
    outcome = training(home, run, "train.batch_size=16", "train.steps=10")
    assert outcome.code == 0, outcome.err
    assert "config.train.batch_size=16 in place of 8: going on after step 12, to step 14" in outcome.err


def test_stages_that_are_over_do_not_move(run: Path, home: Path) -> None:
    with_epochs = home / "run-epochs"
    assert training(home, with_epochs, "teacher.steps=2epochs").code == 0  # 4 steps with 8 pictures, 2 with 16
    outcome = training(home, with_epochs, "teacher.steps=2epochs", "train.batch_size=16", "train.steps=20")
    assert outcome.code == 2 and "the stages of the training would change (teacher 4, " in outcome.err, outcome.err
    assert f"start another --workdir with --init={with_epochs}" in outcome.err


def test_other_fields_are_refused_with_the_way_out(run: Path, home: Path) -> None:
    outcome = training(home, run, "train.steps=12", "optimizer.learning_rate=0.5")
    assert outcome.code == 2 and "train.steps" not in outcome.err
    assert f"use another --workdir, which --init={run} starts from these weights" in outcome.err
    outcome = training(home, run, "train.steps=12", mode="evaluate")
    assert outcome.code == 2 and "train.steps ('8' there, '12' now)" in outcome.err


def test_without_a_checkpoint_nothing_goes_on(run: Path, home: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    outcome = training(home, run, "train.steps=12")
    assert (
        outcome.code == 2
        and f"has no checkpoint to go on from; start another --workdir with --init={run}" in outcome.err
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny set, a small BERT, and a run that trained its last layers in `run`."""
    home = tmp_path_factory.mktemp("init")
    write_tiny_set(home)
    write_tiny_bert(home / "bert")
    outcome = training(home, home / "run", *on_bert(home))
    assert outcome.code == 0, outcome.err
    write_bundle(read_trained(home / "run"), home / "bundle")
    return home


def on_bert(home: Path) -> tuple[str, ...]:
    fields = {"text.backbone": "bert", "text.path": home / "bert", "text.max_tokens": 8, "confidence.kind": "none"}
    fields |= {"teacher.head": "none", "student.text.trainable": "layers 1-2", "train.steps": 2}
    return tuple(f"{name}={value}" for name, value in fields.items())


@pytest.mark.parametrize("model", ["run", "bundle"])
def test_another_run_starts_from_the_weights(tuned: Path, tmp_path: Path, model: str) -> None:
    still = (*on_bert(tuned), "optimizer.learning_rate=0", "seed=7")
    outcome = training(tuned, tmp_path / "new", *still, init=tuned / model)
    assert outcome.code == 0, outcome.err
    config = read_config(tuned / "run")
    expected = initial_student(str(tuned / "run"), config).student
    found = initial_student(str(tmp_path / "new"), config).student
    assert "text_backbone" in expected
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    record = json.loads((tmp_path / "new" / "built_on.json").read_text())
    assert record["init"]["model"] == str(tuned / model)
    shutil.copytree(tuned / model, tmp_path / "moved")  # the same model at another place, and not another one
    for same in (tuned / model, tmp_path / "moved"):
        assert "finished before" in training(tuned, tmp_path / "new", *still, init=same).out


def test_the_state_has_the_weights_and_an_average_of_its_own(tuned: Path) -> None:
    built = experiment.build(
        configuration.read(str(tuned / "config.py"), dict(f.split("=", 1) for f in on_bert(tuned)))
    )
    student = initial_student(str(tuned / "run"), built.config).student
    state = loop.started(built, student)
    for part in (state["params"]["student"], state["ema"]):
        jax.tree.map(np.testing.assert_array_equal, part, student)
    state, _ = built.step.step(state, loop.put_batch(next(loop.training_batches(built, 0)), built.mesh), 0)  # donated
    assert last_state(built, tuned / "run")[0] == 2 and int(state["step"]) == 1


def test_mistakes_with_init_are_one_line(tuned: Path, home: Path, tmp_path: Path) -> None:
    fields = on_bert(tuned)
    outcome = training(tuned, tmp_path / "a", *fields, "student.dim=8", init=tuned / "run")
    assert outcome.code == 2 and "its student is not the one of this configuration: " in outcome.err
    assert "(16,) there, (8,) here" in outcome.err or "16) there" in outcome.err
    outcome = training(tuned, tmp_path / "a", *fields[1:], "text.backbone=use_multilingual", init=tuned / "run")
    assert outcome.code == 2
    other = write_tiny_bert(tmp_path / "other") / "model.safetensors"
    save_file({name: array + np.float32(0.1) for name, array in load_file(other).items()}, other)
    for model in ("run", "bundle"):
        outcome = training(tuned, tmp_path / "a", *fields, f"text.path={tmp_path / 'other'}", init=tuned / model)
        assert outcome.code == 2 and "was trained on other weights of the text backbone" in outcome.err, outcome.err
    outcome = training(tuned, tmp_path / "a", *fields, init=tmp_path / "nowhere")
    assert outcome.code == 2 and "nowhere" in outcome.err
    outcome = training(tuned, tmp_path / "a", *fields, init=tuned / "run", mode="evaluate")
    assert outcome.code == 2 and "starts a training; leave it out with --mode=evaluate" in outcome.err
    shutil.copytree(tuned / "run", tmp_path / "b", ignore=shutil.ignore_patterns("checkpoints", "results.*", "ranks*"))
    identity.write_record(tmp_path / "b", read_config(tuned / "run"), "", init={"model": "m", "weights": ""})
    outcome = training(tuned, tmp_path / "b", *fields)
    assert outcome.code == 2 and "was started with --init=m; give it again" in outcome.err, outcome.err
    outcome = training(tuned, tmp_path / "b", *fields, mode="evaluate")
    assert outcome.code == 2 and "has no checkpoint; train first" in outcome.err, outcome.err
    outcome = training(tuned, tuned / "run", *fields, init=tuned / "bundle")
    assert outcome.code == 2 and "was started without --init; leave it out, or give another --workdir" in outcome.err
    assert not (tmp_path / "a").exists()
