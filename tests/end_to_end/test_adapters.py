"""Training low-rank adapters of both towers, from the first step to search and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.command import Outcome, call
from support.drawn_set import write_drawn_set

pytest.importorskip("tensorflow")

import cl2cm_jax
from cl2cm_jax import config as configs
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.export import __main__ as export
from cl2cm_jax.models.layers.lora import merged
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.training.experiment import Run, build, evaluated_student
from cl2cm_jax.training.loop import training_batches

GOLDEN = Path(__file__).parents[1] / "golden" / "dual_clip"
FIELDS = {
    "vision.backbone": "clip_vit",
    "vision.path": str(GOLDEN),
    "text.backbone": "clip_text",
    "text.path": str(GOLDEN),
    "text.max_tokens": "12",
    "student.dim": "10",
    "student.text_residual": "True",
    "student.vision_residual": "True",
    "student.text.trainable": "lora 2",
    "student.vision.trainable": "lora 3 layers 1-1",
    "teacher.head": "none",
    "confidence.kind": "none",
    "weights.transfer": "0",
    "optimizer.backbone_rate": "1.0",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_set(tmp_path_factory.mktemp("drawn"))


def fields(**changes: str) -> dict[str, str]:
    return FIELDS | {key.replace("__", "."): value for key, value in changes.items()}


def built(folder: Path, **changes: str) -> Run:
    return build(configs.read(str(folder / "config.py"), fields(**changes)))


def training(folder: Path, workdir: Path, *flags: str, **changes: str) -> Outcome:
    given = [f"--config.{key}={value}" for key, value in fields(**changes).items()]
    return call(main.main, f"--config={folder}/config.py", f"--workdir={workdir}", *given, *flags)


def names(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path[-1:], simple=True) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_only_adapters_are_trained_and_saved(drawn: Path) -> None:
    run = built(drawn, train__ema="0")
    state = run.step.init()
    student = state["params"]["student"]
    assert names(student["text_backbone"]) == names(student["vision_backbone"]) == {"lora_a", "lora_b"}
    assert student["text_backbone"]["layers"]["query"]["kernel"]["lora_a"].shape == (2, 20, 2)
    assert student["vision_backbone"]["layers"]["query"]["kernel"]["lora_b"].shape == (1, 3, 16)
    moments = jax.tree.leaves(state["opt"]["student"])
    assert max(leaf.size for leaf in moments) <= 2 * 24 * 3  # no matrix of the layers, nor the embeddings
    plain = built(drawn, student__text__trainable="all", student__vision__trainable="layers 1-1", train__ema="0")
    first, same = evaluated_student(run, state), plain.step.init()["params"]["student"]
    jax.tree.map(np.testing.assert_array_equal, first, same)
    before = jax.device_get(first)
    for step in range(2):
        state, _ = run.step.step(state, put_batch(next(training_batches(run, step)), run.mesh), step)
    after = jax.device_get(evaluated_student(run, state))
    for part in ("text_backbone", "vision_backbone"):
        adapters = state["params"]["student"][part]
        expected = merged(before[part], adapters)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after[part], expected)
        moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before[part]["layers"], after[part]["layers"])
        for name in ("query", "key", "value", "attended"):
            assert moved[name]["kernel"] > 0 and moved[name]["bias"] == 0
        assert moved["mlp"]["up"]["kernel"] > 0 and moved["attention_norm"]["scale"] == 0
    run.step.init()  # donation must not delete pretrained arrays


@pytest.mark.parametrize("more", [{"train__accumulation": "2"}, {"text__remat": "True", "vision__scan": "False"}])
def test_other_ways_to_run_the_step_give_the_same_gradient(drawn: Path, more: dict[str, str]) -> None:
    quiet = {"student__dropout": "0", "student__text__dropout": "0", "train__ema": "0", "train__batch_size": "16"}

    def norm(**changes: str) -> float:
        run = built(drawn, **quiet, **changes)
        _, terms = run.step.step(run.step.init(), put_batch(next(training_batches(run, 0)), run.mesh), 0)
        return float(terms["gradient_norm"])

    assert norm(**more) == pytest.approx(norm(), rel=1e-4)


@pytest.fixture(scope="module")
def trained(drawn: Path) -> Path:
    outcome = training(drawn, drawn / "run")
    assert outcome.code == 0, outcome.err
    return drawn / "run"


def test_merged_weights_are_searched_and_exported(trained: Path, tmp_path: Path) -> None:
    weights = load_file(trained / "model.safetensors")
    assert not any("lora" in name for name in weights)
    assert weights["text_backbone/layers/query/kernel"].shape == (2, 20, 20)
    outcome = call(export.main, f"--model={trained}", f"--out={tmp_path / 'bundle'}")
    assert outcome.code == 0, outcome.err
    texts = ["rot Auto", "a green flower"]
    ours, bundle = (cl2cm_jax.load(folder).encode_text(texts) for folder in (trained, tmp_path / "bundle"))
    np.testing.assert_allclose(ours, bundle, atol=1e-5)


def test_a_stopped_run_goes_on_with_its_adapters(drawn: Path, trained: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    outcome = training(drawn, workdir, train__steps="10")
    assert outcome.code == 0, outcome.err
    assert "going on after step 8" in outcome.err and (workdir / "checkpoints" / "10").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student__text__trainable": "lora 0"},
            "student.text.trainable='lora 0' has rank 0, which trains nothing; use",
        ),
        (
            {"student__text__trainable": "lora"},
            "must be '' .none., 'all', or e.g. 'layers 3-11', 'lora 8' or 'lora 8 l",
        ),
        (
            {"student__text__trainable": "lora 11"},
            "'lora 11': adapters of rank 11 have .*; use a rank of at most 9, or",
        ),
        (
            {"student__vision__trainable": "lora 99"},
            "student.vision.trainable='lora 99': adapters of rank 99 .* most 7",
        ),
        ({"student__text__trainable": "lora 2 layers 0-4"}, "layers 0-1, and .*; use 'lora 2 layers 0-1'"),
        (
            {"vision__backbone": "efficientnet_lite0"},
            "trainable='lora 3 layers 1-1' needs config.vision.backbone='clip",
        ),
        ({"text__backbone": "use_multilingual"}, "trainable='lora 2' needs config.text.backbone='bert' or"),
        (
            {"teacher__head": "linear", "teacher__text__trainable": "lora 2"},
            "config.teacher.text.trainable='lora 2': adapters are the student's; use e.g. 'layers 3-11', or ''",
        ),
    ],
)
def test_adapters_that_cannot_be_trained_are_refused(drawn: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        built(drawn, **changes)
    assert "\n" not in str(caught.value)


def test_adapters_do_not_start_from_another_student(drawn: Path, trained: Path, tmp_path: Path) -> None:
    outcome = training(drawn, tmp_path / "run", f"--init={trained}")
    assert outcome.code == 2
    assert "'lora' adapts the pretrained layers and not those of another student" in outcome.err.splitlines()[-1]


def test_another_training_starts_from_the_merged_weights(drawn: Path, trained: Path, tmp_path: Path) -> None:
    layers = {"student__text__trainable": "all", "student__vision__trainable": "layers 1-1", "train__steps": "1"}
    outcome = training(drawn, tmp_path / "run", f"--init={trained}", **layers)
    assert outcome.code == 0, outcome.err
    before, then = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "run", trained))
    assert before["before"]["de"] == then["test"]["de"]
