"""Training the upper layers of CLIP and BERT, from the first step to search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.command import call
from support.drawn_set import write_drawn_set
from support.tiny_models import write_tiny_bert

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configs
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.trained_layers import vision_layers
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.training.experiment import Run, build
from cl2cm_jax.training.loop import training_batches

CLIP = Path(__file__).parents[1] / "golden" / "clip"
TUNED = {
    "vision.backbone": "clip_vit",
    "vision.path": str(CLIP),
    "student.vision.trainable": "layers 1-1",
    "text.backbone": "bert",
    "text.max_tokens": "8",
    "text.length_multiple": "4",
    "student.text.trainable": "layers 1-2",
    "teacher.text.trainable": "layers 1-2",
    "teacher.schedule": "joint",
    "optimizer.backbone_rate": "1.0",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ with 32 pictures, captions.csv, a BERT, and a configuration."""
    folder = tmp_path_factory.mktemp("drawn")
    write_tiny_bert(folder / "bert")
    return write_drawn_set(folder)


def fields(folder: Path, **changes: str) -> dict[str, str]:
    own = {"text.path": str(folder / "bert")}
    return TUNED | own | {name.replace("__", "."): value for name, value in changes.items()}


def built(folder: Path, **changes: str) -> Run:
    return build(configs.read(str(folder / "config.py"), fields(folder, **changes)))


def own_layers(state: dict[str, Any]) -> dict[str, Any]:
    return state["params"]["student"]["vision_backbone"]


def test_frozen_layers_have_no_parameters_and_no_optimiser_state(drawn: Path) -> None:
    run = built(drawn)
    state = jax.eval_shape(run.step.init)
    assert set(own_layers(state)) == {"layers", "pool"}
    assert {len(leaf) for leaf in jax.tree.leaves(own_layers(state)["layers"])} == {1}
    assert "vision_backbone" not in state["params"]["teacher"]
    patches = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape == (3 * 8 * 8, 16)]
    assert not patches and run.step.pretrained.below["embeddings"]["project"]["kernel"].shape == (3 * 8 * 8, 16)
    everything = built(drawn, student__vision__trainable="all")
    assert "embeddings" in own_layers(jax.eval_shape(everything.step.init)) and everything.step.pretrained.below == {}


@pytest.mark.parametrize("changes", [{}, {"vision__pool": "tokens", "student__vision_tower": "attention"}])
def test_every_own_parameter_learns(drawn: Path, changes: dict[str, str]) -> None:
    run = built(drawn, **changes)
    state = run.step.init()
    before = jax.device_get(own_layers(state))
    batch = put_batch(next(training_batches(run, 0)), run.mesh)
    assert batch["vision"]["pixels"].shape == (8, 24, 24, 3) and batch["vision"]["pixels"].dtype == np.uint8
    state, terms = run.step.step(state, batch, 0)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - np.asarray(b)).max()), before, own_layers(state))
    assert all(change > 0 for change in jax.tree.leaves(moved)), moved
    assert np.isfinite(float(terms["total"]))
    run.step.init()  # donation must not delete pretrained arrays


@pytest.mark.slow
def test_no_gradient_is_computed_for_frozen_layers(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = built(drawn)
    params = jax.device_get(run.step.init()["params"]["student"])
    batch = next(training_batches(run, 0))["vision"]

    def loss(own: dict, frozen: dict) -> jax.Array:
        features, _ = run.networks.vision_features(params | {"vision_backbone": own}, batch, frozen=frozen)
        return (features**2).sum()

    def products(function: Any, *arguments: Any) -> float:
        analysis: Any = jax.jit(function).lower(*arguments).compile().cost_analysis()
        return analysis["flops"]

    own, frozen = params["vision_backbone"], jax.device_get(run.step.pretrained.below)
    forward, both = (products(f, own, frozen) for f in (loss, jax.grad(loss)))
    everything = products(jax.grad(loss, argnums=(0, 1)), own, frozen)
    nothing = jax.grad(loss, argnums=1)(own, frozen)
    assert not any(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(nothing))
    assert everything < 1.01 * both and both < 2 * forward  # 2.6 where all layers are trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student__vision__trainable": "layers 1-11"}, "layers 0-1, and layers are trained up to its last one"),
        ({"student__vision__trainable": "1"}, "student.vision.trainable='1' must be '' .none., 'all', or e.g."),
        ({"vision__backbone": "efficientnet_lite0"}, "needs config.vision.backbone='clip_vit'"),
        ({"data__frames": "4"}, "trains on pictures, and config.data.frames=4 reads clips"),
        (
            {"data__images": "", "data__captions": "", "data__shards": "tars"},
            "config.data.shards has none; unpack them",
        ),
        ({"student__vision__crop": "0"}, "student.vision.crop=0.* must be between 0.01 and 1"),
    ],
)
def test_invalid_trainable_layers_are_refused(drawn: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vision_layers(configs.read(str(drawn / "config.py"), fields(drawn, **changes)))


@pytest.mark.parametrize("changes", [{}, {"train__compute": "bfloat16", "vision__remat": "True"}])
def test_before_training_the_trained_backbone_equals_the_frozen_one(drawn: Path, changes: dict[str, str]) -> None:
    tuned, frozen = built(drawn, **changes), built(drawn, student__vision__trainable="", **changes)
    student = tuned.step.init()["params"]["student"]
    ours = tuned.embedder.images(student, tuned.validation)
    theirs = frozen.embedder.images(frozen.step.init()["params"]["student"], frozen.validation)
    np.testing.assert_allclose(ours, theirs, atol=2e-2 if changes else 1e-5)
    assert tuned.data == frozen.data  # the same pictures, whoever encodes them


@pytest.mark.slow
def test_micro_batches_give_the_whole_batchs_gradient(drawn: Path) -> None:
    quiet = {"student__dropout": "0", "student__text__dropout": "0", "teacher__text__dropout": "0"}
    quiet |= {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"}

    def after_a_step(**changes: str) -> Any:
        run = built(drawn, **quiet, **changes)
        state, terms = run.step.step(run.step.init(), put_batch(next(training_batches(run, 0)), run.mesh), 0)
        return terms["gradient_norm"]

    np.testing.assert_allclose(after_a_step(), after_a_step(train__accumulation="2"), rtol=1e-4)


def command(drawn: Path, workdir: Path, **changes: str) -> list[str]:
    flags = [f"--config.{name}={value}" for name, value in fields(drawn, **changes).items()]
    return [f"--config={drawn}/config.py", f"--workdir={workdir}", *flags]


def copied(drawn: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        shutil.copy(drawn / "photos" / f"{name}.png", folder)
    return folder


@pytest.fixture(scope="module")
def trained(drawn: Path) -> Path:
    finished = call(main.main, *command(drawn, drawn / "run"))
    assert finished.code == 0, finished.err
    return drawn / "run"


def test_evaluation_and_search_read_the_same_pictures(drawn: Path, trained: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    first = json.loads((workdir / "results.json").read_text())
    weights = load_file(workdir / "model.safetensors")
    assert len(weights["vision_backbone/layers/mlp/up/kernel"]) == 1
    again = call(main.main, *command(drawn, workdir), "--mode=evaluate")
    assert again.code == 0, again.err
    assert json.loads((workdir / "results.json").read_text())["test"] == first["test"]

    query = [f"--workdir={workdir}", "rot Auto", "vert fleur", "--json"]
    whole = json.loads(call(search.main, *query, "--top=32").out)
    few = copied(drawn, tmp_path / "few", "red-car", "green-flower", "pink-house")
    found = call(search.main, *query, "--top=3", f"--images={few}")
    assert found.code == 0, found.err
    for answer, before in zip(json.loads(found.out), whole, strict=True):
        score = {result["id"]: result["score"] for result in before["results"]}
        assert {result["id"] for result in answer["results"]} == {path.name for path in few.iterdir()}
        for result in answer["results"]:  # the same vector from the gallery and from the file
            assert result["score"] == pytest.approx(score[result["id"]], abs=1e-4)


@pytest.mark.slow
def test_search_finds_training_pictures(drawn: Path, tmp_path: Path) -> None:
    """With a pretrained text encoder, since the random BERT cannot tell captions apart."""
    workdir = tmp_path / "run"
    text = {"text__backbone": "use_multilingual", "student__text__trainable": "", "teacher__text__trainable": ""}
    longer = {"train__steps": "40", "train__evaluate_every": "40", "train__ema": "0", "train__batch_size": "16"}
    longer |= {"optimizer__backbone_rate": "0.5", "optimizer__learning_rate": "0.005", "weights__transfer": "0"}
    longer |= {"vision__pool": "tokens", "student__dropout": "0", "student__vision__flip": "False"}
    finished = call(main.main, *command(drawn, workdir, text__path="", **text, **longer))
    assert finished.code == 0, finished.err
    few = copied(drawn, tmp_path / "few", "red-car", "green-flower", "blue-house", "white-dog")
    found = call(search.main, f"--workdir={workdir}", "rot Auto", "vert fleur", "--json", f"--images={few}")
    assert found.code == 0, found.err
    best = [answer["results"][0]["id"] for answer in json.loads(found.out)]
    assert best == ["red-car.png", "green-flower.png"]


@pytest.mark.slow
def test_a_resumed_run_sees_the_same_crops(drawn: Path, trained: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    for step in (6, 8):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    for name in ("results.json", "model.safetensors"):
        (workdir / name).unlink()
    resumed = call(main.main, *command(drawn, workdir))
    assert resumed.code == 0, resumed.err
    first, second = (load_file(folder / "model.safetensors") for folder in (trained, workdir))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_changed_pictures_change_the_fingerprint_of_the_data(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "photos", tmp_path / "photos")
    run = built(drawn, data__images=str(tmp_path / "photos"))
    Image.new("RGB", (24, 24), "white").save(tmp_path / "photos" / "red-car.png")
    assert built(drawn).data == run.data != built(drawn, data__images=str(tmp_path / "photos")).data
    with pytest.raises(UserError, match=r"red-car\.png is not the picture that the data set was built from; put that"):
        run.embedder.images(run.step.init()["params"]["student"], run.corpora.train)
    with pytest.raises(UserError, match=r"red-car\.png is not the picture that the data set was built from"):
        for batch, _ in zip(training_batches(run, 0), range(3), strict=False):  # an epoch and more
            assert batch
