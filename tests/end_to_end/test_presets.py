"""configs/captions.py:model=...: each model that one can start at takes a step, with a tiny folder of its shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Outcome, call
from support.drawn_set import write_drawn_set
from support.finished_runs import GOLDEN
from support.tiny_e5 import write_tiny_e5

from cl2cm_jax import config as configs
from cl2cm_jax import main

CONFIG = "configs/captions.py"
TOWERS = {"siglip2": ("dual_siglip", 16), "openclip-xlmr": ("open_clip_xlm", 10), "metaclip2": ("dual_clip", 10)}
SHORT = ["teacher.steps=1", "train.steps=1", "train.evaluate_every=1", "train.batch_size=8"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_set(tmp_path_factory.mktemp("drawn"))


def train(drawn: Path, workdir: Path, model: str, *fields: str) -> Outcome:
    data = [f"data.images={drawn / 'photos'}", f"data.captions={drawn / 'captions.csv'}", "data.targets=de,fr"]
    data.append(f"data.dir={drawn / model}")
    flags = [f"--config.{field}" for field in (*data, *SHORT, *fields)]
    return call(main.main, f"--config={CONFIG}:model={model}", f"--workdir={workdir}", *flags)


@pytest.mark.slow
@pytest.mark.parametrize("model", TOWERS)
def test_both_towers_take_a_step(model: str, drawn: Path, tmp_path: Path) -> None:
    folder, dim = GOLDEN / TOWERS[model][0], TOWERS[model][1]
    paths = [f"text.path={folder}", f"vision.path={folder}", f"student.dim={dim}", "text.max_tokens=12"]
    done = train(drawn, tmp_path / "run", model, *paths, "student.text.trainable=layers 1-1")
    assert done.code == 0, done.err
    assert "before" in done.out and "after" in done.out
    assert {"en", "de", "fr"} <= set(json.loads((tmp_path / "run" / "results.json").read_text())["test"])


@pytest.mark.slow
def test_e5_takes_a_step_in_its_layers(drawn: Path, tmp_path: Path) -> None:
    file = write_tiny_e5(tmp_path / "it.bin")
    fields = [f"text.path={file}", "text.max_tokens=12", "student.text.trainable=layers 1-2", "student.text.start=0"]
    done = train(drawn, tmp_path / "run", "e5", *fields)
    assert done.code == 0, done.err


@pytest.mark.parametrize("model", [*TOWERS, "e5"])
def test_a_preset_is_a_valid_configuration(model: str) -> None:
    config = configs.read(f"{CONFIG}:model={model}", {})
    assert config.student.text.trainable == "layers 9-11"
    assert (config.text.path == config.vision.path != "") == (model in TOWERS)


def test_an_unknown_preset_is_one_line(tmp_path: Path) -> None:
    done = call(main.main, f"--config={CONFIG}:model=clip", f"--workdir={tmp_path / 'run'}")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "model is one of small, siglip2, openclip-xlmr, metaclip2, e5" in done.err


@pytest.mark.parametrize(
    ("targets", "backbone"), [("de,fr", "use_multilingual"), ("de,zh-TW", "use_multilingual"), ("de,fa", "e5_small")]
)
def test_the_encoder_is_one_that_knows_the_languages(
    targets: str, backbone: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        config = configs.read(CONFIG, {"data.targets": targets})
    assert config.text.backbone == backbone
    assert ("use_multilingual does not know fa" in caplog.text) == (backbone == "e5_small")
    named = configs.read(CONFIG, {"data.targets": targets, "text.backbone": "use_multilingual"})
    assert named.text.backbone == "use_multilingual"  # what is asked for is taken
