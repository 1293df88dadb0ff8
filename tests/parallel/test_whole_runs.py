"""Twenty training steps on eight devices equal those on one: every loss term, gradient and validation metric."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file
from support.run_ends import rows
from support.tiny_models import write_tiny_bert

from cl2cm_jax import config as configs
from cl2cm_jax.parallel import mesh as meshes
from cl2cm_jax.parallel.sharding import path_name
from cl2cm_jax.training import experiment, loop

pytestmark = pytest.mark.slow

STEPS = 20
EXACT = 1e-5
NEAR = {"train/pair_score": EXACT}  # a mean of standard scores, which may be close to 0
# every term: both contrastive ones, sentence, word, transfer, and confidence
EVERY_TERM = {
    "teacher.schedule": "joint",
    "teacher.pool": "both",
    "student.text_pool": "both",
    "weights.word": "0.5",
    "word.iterations": "10",
    "contrastive.block": "4",
    "optimizer.learning_rate": "1e-3",
    "train.steps": str(STEPS),
    "train.log_every": "1",
    "train.evaluate_every": "10",
    "train.checkpoint_every": str(STEPS),
}
LIGHT = {
    "student.vision_tower": "attention",
    "student.hidden": "16",
    "teacher.head": "tower",
    "teacher.hidden": "16",
    "teacher.residual": "False",
    "teacher.dim": "16",
    "transfer.relations": "cross,intra_target,intra_vision",
    "train.targets_per_image": "-1",
}
TUNED = {
    "text.backbone": "bert",
    "text.max_tokens": "8",
    "text.length_multiple": "4",
    "text.remat": "True",
    "student.text.trainable": "layers 1-2",
    "teacher.text.trainable": "layers 1-2",
    "optimizer.backbone_rate": "1.0",
    "confidence.kind": "softmax",
    # without dropout, whose masks belong to the micro-batch where gradients are accumulated
    "student.dropout": "0",
    "student.text.dropout": "0",
    "teacher.text.dropout": "0",
}
DATA = {"data": 8}
FSDP = {"data": 2, "fsdp": 4}
TENSOR = {"data": 2, "fsdp": 2, "tensor": 2}


class Ran(NamedTuple):
    """A finished run: logged rows, the gradient of each step on the host, and the final state."""

    rows: list[dict[str, float]]
    gradients: list[dict[str, np.ndarray]]
    state: Any


class Kept(NamedTuple):
    """State of an optimiser that stores the gradient."""

    gradient: Any


def keep_gradient() -> optax.GradientTransformation:
    def init(params: Any) -> Kept:
        return Kept(jax.tree.map(jnp.zeros_like, params))

    def update(gradient: Any, state: Kept, params: Any = None) -> tuple[Any, Kept]:
        del state, params
        return gradient, Kept(gradient)

    return optax.GradientTransformation(init, update)


def named(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def ran(home: Path, workdir: Path, fields: dict[str, str], mesh: dict[str, int] | None) -> Ran:
    """Trains on a mesh of eight devices, or on one device."""
    sizes: dict[str, Any] = {"devices": jax.devices()[:1]} if mesh is None else mesh
    make_mesh, make_optimizers = meshes.make_mesh, experiment.make_optimizers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "make_mesh", lambda **_: make_mesh(**sizes))

        def optimizers(*arguments: Any, **keywords: Any) -> dict[str, optax.GradientTransformation]:
            made = make_optimizers(*arguments, **keywords)
            return {name: optax.chain(keep_gradient(), optimizer) for name, optimizer in made.items()}

        patch.setattr(experiment, "make_optimizers", optimizers)
        built = experiment.build(configs.read(str(home / "config.py"), EVERY_TERM | fields))
    gradients = []

    def step(state: Any, batch: Any, number: int) -> Any:
        state, terms = built.step.step(state, batch, number)
        kept = {name: optimizer[0].gradient for name, optimizer in state["opt"].items()}
        gradients.append(jax.tree.map(lambda x: np.array(x, copy=True), named(kept)))  # a view blocks the donation
        return state, terms

    recorded = built._replace(step=built.step._replace(step=step))
    state = loop.train(recorded, workdir, stream=io.StringIO())
    return Ran(rows(workdir), gradients, state)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    bert = write_tiny_bert(tmp_path_factory.mktemp("models") / "bert")
    # Random layer norms and small embeddings make all its words nearly one: a cosine of 0.9992 leaves 1 - cosine four
    # digits in fp32. Those of a trained BERT lie apart.
    weights = load_file(bert / "model.safetensors")
    for name, array in weights.items():
        if "LayerNorm" in name:
            array[...] = name.endswith("weight")
    weights["embeddings.word_embeddings.weight"] *= 4
    save_file(weights, bert / "model.safetensors")
    return {"light": LIGHT, "tuned": TUNED | {"text.path": str(bert)}}


@pytest.fixture(scope="module")
def alone(home: Path, fields: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    """The run of each network on one device, with dense losses."""
    return {name: ran(home, tmp_path_factory.mktemp("alone"), change, None) for name, change in fields.items()}


@pytest.mark.parametrize(
    ("network", "mesh", "changes"),
    [
        ("light", DATA, {"contrastive.form": "blockwise"}),
        ("light", FSDP, {"contrastive.form": "dense"}),
        ("light", TENSOR, {"contrastive.form": "blockwise"}),
        ("tuned", FSDP, {"contrastive.form": "blockwise"}),
        ("tuned", TENSOR, {"contrastive.form": "dense", "train.accumulation": "2"}),
    ],
    ids=lambda value: "-".join(f"{name}{size}" for name, size in value.items()) if isinstance(value, dict) else value,
)
def test_eight_devices_train_like_one(
    home: Path,
    fields: dict[str, dict[str, str]],
    alone: dict[str, Ran],
    tmp_path: Path,
    network: str,
    mesh: dict[str, int],
    changes: dict[str, str],
) -> None:
    one, eight = alone[network], ran(home, tmp_path, fields[network] | changes, mesh)
    assert len(one.rows) >= STEPS and len(one.gradients) == STEPS
    for expected, actual in zip(one.rows, eight.rows, strict=True):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name] == pytest.approx(value, rel=EXACT, abs=NEAR.get(name, 0)), (
                f"{name}, step {expected['step']}"
            )
    assert worst(one.gradients, eight.gradients) <= EXACT
    assert_split(eight.state, mesh.get("fsdp", 1) * mesh.get("tensor", 1))


def assert_split(state: Any, parts: int) -> None:
    """Checks that every matrix is sharded: parameters, gradients, both moments and the average."""
    held = {name: len(leaf.addressable_shards[0].data.ravel()) for name, leaf in named(state).items()}
    matrices = {name: leaf for name, leaf in named(state).items() if re.search("(kernel|embedding)$", name)}
    kinds = {name.split("/")[0] + "".join(re.findall("/(?:mu|nu|gradient)/", name)) for name in matrices}
    assert kinds == {"params", "ema", "opt/mu/", "opt/nu/", "opt/gradient/"}
    assert {name: leaf.size / held[name] for name, leaf in matrices.items()} == dict.fromkeys(matrices, parts)


def worst(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> float:
    """The largest difference of a gradient's element, as a share of its network's gradient norm.

    Not as a share of the element or of its array: fp32 sums that nearly cancel keep fewer digits than that on one
    device too, in another order of the batch.
    """
    share = 0.0
    for expected, actual in zip(one, other, strict=True):
        for network in ("student", "teacher"):
            names = [name for name in expected if name.startswith(network)]
            norm = float(np.sqrt(sum((expected[name].astype(np.float64) ** 2).sum() for name in names)))
            share = max(share, *(float(np.abs(expected[name] - actual[name]).max()) / norm for name in names))
    return share
