"""A run is known by the content of its data and backbones: the same content elsewhere goes on, another is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.command import Outcome, call
from support.tiny_models import write_tiny_bert
from support.tiny_set import write_tiny_set

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

import cl2cm_jax
from cl2cm_jax import config as configuration
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.export.bundle import read_trained
from cl2cm_jax.runtime.checksums import write_checked
from cl2cm_jax.training import experiment, identity
from cl2cm_jax.training.workdir import read_config

OTHER = "since .* was trained .SHA-256 in its built_on.json.; put the old one back"


def training(home: Path, workdir: Path, *changes: str, mode: str = "train") -> Outcome:
    fields = [f"--config.{change}" for change in changes]
    return call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}", f"--mode={mode}", *fields)


def on_bert(path: object) -> tuple[str, ...]:
    return "text.backbone=bert", f"text.path={path}", "text.max_tokens=8", "teacher.head=none", "confidence.kind=none"


@pytest.fixture(scope="module")
def bert_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny set, a BERT in `bert`, and a run on both in `run`."""
    home = tmp_path_factory.mktemp("identity")
    write_tiny_set(home)
    outcome = training(home, home / "run", *on_bert(write_tiny_bert(home / "bert")))
    assert outcome.code == 0, outcome.err
    return home


@pytest.fixture
def place(bert_run: Path, tmp_path: Path) -> Path:
    """A copy of it at another place, whose workdir names the BERT of the copy."""
    place = Path(shutil.copytree(bert_run, tmp_path / "place"))
    outcome = call(main.main, f"--workdir={place / 'run'}", "--mode=evaluate", f"--config.text.path={place / 'bert'}")
    assert outcome.code == 0, outcome.err
    return place


def exchange_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({name: array + np.float32(0.1) for name, array in load_file(file).items()}, file)


def test_the_record_has_the_hashes_of_the_model_and_no_place_of_the_data(bert_run: Path) -> None:
    record = json.loads((bert_run / "run" / "built_on.json").read_text())
    assert record["text"]["backbone"] == "bert" and "vision" not in record
    assert set(record["text"]["files"]) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert record["data"].startswith("content:")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_another_model_at_the_same_path_is_refused(place: Path, file: str) -> None:
    bert, run = place / "bert", place / "run"
    if file == "model.safetensors":
        exchange_weights(bert)
    else:
        (bert / file).parent.mkdir(exist_ok=True)
        content = (bert / file).read_text() if (bert / file).exists() else '{"pooling_mode": "cls"}'
        (bert / file).write_text(content + " ")
    named = f"config.text.path='{bert}': {file} (has changed|is new), {OTHER}"
    for opening in (cl2cm_jax.load, read_trained):
        with pytest.raises(UserError, match=named):
            opening(run)
    outcome = call(main.main, f"--workdir={run}", "--mode=evaluate")
    assert outcome.code == 2 and f"{file} " in outcome.err and "built_on.json" in outcome.err, outcome.err
    (run / "results.json").unlink()
    outcome = training(place, run, *on_bert(bert))
    assert outcome.code == 2 and f"{file} " in outcome.err and "built_on.json" in outcome.err, outcome.err


def test_a_model_that_was_moved_is_named_once(place: Path) -> None:
    shutil.move(place / "bert", place / "models")
    with pytest.raises(UserError, match=r"is not there; if it was moved, name its place: cl2cm train --mode=evaluate"):
        cl2cm_jax.load(place / "run")
    fields = f"--workdir={place / 'run'}", "--mode=evaluate"
    assert call(main.main, *fields, f"--config.text.path={place / 'models'}").code == 0
    assert cl2cm_jax.load(place / "run").encode_text(["red car"]).shape == (1, 16)
    assert read_config(place / "run").text.path == str(place / "models")


def test_a_relative_folder_that_is_gone_is_no_hub_id(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library, "snapshot_download", lambda *_, **__: pytest.fail("the hub is asked"))
    monkeypatch.chdir(place)
    for folder in ("models/bert", "elsewhere"):
        (place / folder).parent.mkdir(exist_ok=True)
        shutil.move(place / ("bert" if folder == "models/bert" else "models/bert"), place / folder)
        if folder == "models/bert":
            assert call(main.main, "--workdir=run", "--mode=evaluate", f"--config.text.path={folder}").code == 0
            (place / "run" / "built_on.json").unlink()
            assert call(main.main, "--workdir=run", "--mode=evaluate").code == 0  # writes it anew
    with pytest.raises(UserError, match="'models/bert', the backbone of run, is not there; if it was moved, name its"):
        cl2cm_jax.load("run")


def test_a_run_of_an_earlier_version_has_no_record_and_opens(place: Path) -> None:
    (place / "run" / "built_on.json").unlink()
    exchange_weights(place / "bert")
    assert cl2cm_jax.load(place / "run").dim == 16


def test_a_damaged_record_is_one_line(place: Path) -> None:
    for content in ("", "[]", '{"text": 3}', '{"text": {"path": 1}}', "[" * 100_000):
        write_checked(place / "run" / "built_on.json", content)
        with pytest.raises(UserError, match=r"built_on.json cannot be read .*; restore it, or delete it"):
            cl2cm_jax.load(place / "run")


class Hub:
    """A stand-in for the hub with one repository, in the layout of its cache; it counts what is asked for."""

    def __init__(self, folder: Path):
        self.folder, self.head, self.asked = folder, "", list[str | None]()

    def push(self, bert: Path, commit: str) -> None:
        self.head = commit * 40
        shutil.copytree(bert, self.folder / "snapshots" / self.head)

    def download(self, name: str, *, revision: str | None = None, **_: object) -> str:
        self.asked.append(revision)
        return str(self.folder / "snapshots" / (revision or self.head))


def test_a_hub_id_stays_at_the_commit_of_the_training(
    bert_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, hub, run = pytest.importorskip("huggingface_hub"), Hub(tmp_path / "hub"), tmp_path / "run"
    monkeypatch.setattr(library, "snapshot_download", hub.download)
    hub.push(bert_run / "bert", "a")
    assert training(bert_run, run, *on_bert("someone/bert")).code == 0
    assert hub.asked[0] is None and set(hub.asked[1:]) == {"a" * 40}
    before = cl2cm_jax.load(run).encode_text(["red car"])

    exchange_weights(bert_run / "bert")
    hub.push(bert_run / "bert", "b")
    shutil.copyfile(
        hub.folder / "snapshots" / ("a" * 40) / "model.safetensors", bert_run / "bert" / "model.safetensors"
    )
    hub.asked.clear()
    np.testing.assert_array_equal(cl2cm_jax.load(run).encode_text(["red car"]), before)
    assert training(bert_run, run, *on_bert("someone/bert"), mode="evaluate").code == 0
    assert read_trained(run).config.text.path == f"someone/bert@{'a' * 40}"
    assert set(hub.asked) == {"a" * 40}
    outcome = training(bert_run, run, *on_bert(f"someone/bert@{'b' * 40}"), mode="evaluate")
    assert outcome.code == 2 and "model.safetensors has changed" in outcome.err


def test_the_same_data_elsewhere_are_evaluated_and_resumed(trained_workdir: Path, home: Path, tmp_path: Path) -> None:
    other, run = tmp_path / "elsewhere", tmp_path / "run"
    write_tiny_set(other if other.mkdir() is None else other)
    shutil.copytree(trained_workdir, run)
    outcome = call(main.main, f"--config={other / 'config.py'}", f"--workdir={run}", "--mode=evaluate")
    assert outcome.code == 0, outcome.err
    assert read_config(run).data.captions == str(other / "captions.csv")
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / "12")
    outcome = training(other, run)
    assert outcome.code == 0 and "resuming from step" in outcome.err, outcome.err


def test_other_data_elsewhere_are_refused(trained_workdir: Path, tmp_path: Path) -> None:
    other, run = tmp_path / "elsewhere", tmp_path / "run"
    write_tiny_set(other if other.mkdir() is None else other)
    shutil.copytree(trained_workdir, run)
    np.save(other / "features.npy", np.load(other / "features.npy") + np.float32(1e-3))
    for mode in ("evaluate", "train"):  # a finished run whose data moved is not taken for one of other data
        outcome = call(main.main, f"--config={other / 'config.py'}", f"--workdir={run}", f"--mode={mode}")
        assert outcome.code == 2 and "was trained on other data; use another --workdir" in outcome.err, outcome.err
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / "12")  # nor is one resumed
    outcome = call(main.main, f"--config={other / 'config.py'}", f"--workdir={run}")
    assert outcome.code == 2 and "was trained on other data; use another --workdir" in outcome.err, outcome.err
    assert str(other) not in (run / "config.json").read_text()


def test_features_of_another_machine_are_the_same_data(trained_workdir: Path, home: Path) -> None:
    corpora = experiment.build(configuration.read(str(home / "config.py"))).read
    nearly = [dataclasses.replace(corpus, vision=corpus.vision + np.float32(1e-6)) for corpus in corpora]
    assert all(corpus.content for corpus in corpora)
    assert identity.fingerprint(nearly) == identity.fingerprint(corpora)
    changed = [dataclasses.replace(corpora.train, content="other"), corpora.validation, corpora.test]
    assert identity.fingerprint(changed) != identity.fingerprint(corpora)


def test_a_fingerprint_of_an_earlier_version_is_of_computed_features(home: Path) -> None:
    corpora = experiment.build(configuration.read(str(home / "config.py"))).read
    old = identity.fingerprint([dataclasses.replace(corpus, content="") for corpus in corpora]).removeprefix("content:")
    assert identity.is_same_data(old, corpora) and identity.is_same_data(identity.fingerprint(corpora), corpora)
    nearly = [dataclasses.replace(corpus, vision=corpus.vision + np.float32(1e-6)) for corpus in corpora]
    assert not identity.is_same_data(old, nearly)


def test_a_record_is_compared_with_the_data_that_are_read(home: Path) -> None:
    corpora = experiment.build(configuration.read(str(home / "config.py"))).read
    identity.check_recorded_data("", corpora, name="run")
    identity.check_recorded_data(identity.fingerprint(corpora), corpora, name="run")
    with pytest.raises(UserError, match="^run was trained on other data; use another --workdir, or give the pictures"):
        identity.check_recorded_data("content:0123", corpora, name="run")
