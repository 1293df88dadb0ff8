"""`cl2cm estimate`: numbers, text and errors. Eight CPU devices stand in for the chips where possible."""

import importlib.util
import json
from pathlib import Path

import jax
import pytest
from support.command import call
from support.tiny_e5 import write_tiny_e5
from support.tiny_models import write_tiny_bert

from cl2cm_jax import config as configs
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones.text.bert import MBERT
from cl2cm_jax.models.backbones.vision.clip_vit import CLIP_B32
from cl2cm_jax.models.networks import Networks
from cl2cm_jax.models.trained_layers import vision_layers
from cl2cm_jax.steps.optimizer import make_optimizers
from cl2cm_jax.steps.schedule import Stages
from cl2cm_jax.steps.train_step import train_program
from cl2cm_jax.studies.tpu_estimate import __main__ as command
from cl2cm_jax.studies.tpu_estimate import program
from cl2cm_jax.studies.tpu_estimate.models import models

ROOT = Path(__file__).resolve().parents[3]
CLIP = ROOT / "tests" / "golden" / "clip"
CLIP_VIT = ("--config.vision.backbone=clip_vit", "--config.data.features=", "--config.data.feature_ids=")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'"
)


@pytest.fixture
def cpu_topology(monkeypatch: pytest.MonkeyPatch):
    """Every topology has the CPU devices."""
    found = program.Topology("v5e:2x4", (2, 4), tuple(jax.devices()))
    monkeypatch.setattr(program, "topology", lambda name: found._replace(name=name))


def estimated(home: Path, *flags: str):
    return call(
        command.main, f"--config={home / 'config.py'}", "--topology=v5e:2x4", "--vision=dim=32,frames=1", *flags
    )


def test_the_sizes_of_e5_small_are_known_without_its_file(home: Path, tmp_path: Path):
    fields = {"text.backbone": "e5_small", "student.text.trainable": "layers 9-11"}
    sizes = models(configs.read(str(home / "config.py"), fields), text={}, vision={"dim": 32, "frames": 1})
    assert sizes.features.text == 384 and "vocabulary 250037" in sizes.notes[0]
    assert sizes.tail is not None and {x.shape[0] for x in jax.tree.leaves(sizes.tail)} == {3}
    fields |= {
        "text.path": str(write_tiny_e5(tmp_path / "it.bin")),
        "text.max_tokens": "9",
        "student.text.trainable": "all",
    }
    sizes = models(configs.read(str(home / "config.py"), fields), text={}, vision={"dim": 32, "frames": 1})
    assert sizes.features.text == 32 and "it.bin" in sizes.notes[0]


@pytest.mark.parametrize("tuned", [{}, {"student": "layers 1-2", "teacher": "layers 1-2"}, {"student": "all"}])
def test_shapes_are_those_of_a_training_run(home: Path, tmp_path: Path, tuned: dict[str, str]):
    pytest.importorskip("tensorflow")
    from cl2cm_jax.training.experiment import build
    from cl2cm_jax.training.loop import training_batches

    bert = {"text.backbone": "bert", "text.path": str(write_tiny_bert(tmp_path / "bert")), "text.max_tokens": "8"}
    fields = bert | {"teacher.pool": "both"} | {f"{name}.text.trainable": layers for name, layers in tuned.items()}
    config = configs.read(str(home / "config.py"), fields)
    run = build(config)
    batch = next(iter(training_batches(run, 0)))
    sizes = models(config, text={}, vision={"dim": 32, "frames": 1})
    networks = Networks(config, sizes.features, tunable=sizes.tunable)
    assert networks.reads_words == run.networks.reads_words
    tokens = batch["source"].get("mask", batch["source"].get("tokens"))
    length = 8 if tokens is None else tokens.shape[1]
    shapes = program.batch_shapes(config, networks, sizes, run.mesh, tokens=length)
    if "packing" in batch:  # the estimate does not pack captions
        batch["packing"]["take"] = batch["packing"]["take"][:, :0]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    optimizers = make_optimizers(config, run.stages, warmup=0)
    made = train_program(config, networks, optimizers, mesh=run.mesh, stages=Stages(4, 8), languages=3, tail=sizes.tail)
    real = jax.eval_shape(run.step.init)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made.state) == jax.tree.map(lambda x: (x.shape, x.dtype), real)


@pytest.mark.parametrize(("pool", "tower"), [("backbone", "linear"), ("tokens", "attention")])
def test_shapes_of_a_trained_vision_backbone_need_no_weights(pool: str, tower: str):
    fields = {"vision.backbone": "clip_vit", "vision.path": str(CLIP), "student.vision.trainable": "layers 1-1"}
    fields |= {"vision.pool": pool, "student.vision_tower": tower}
    config = configs.override_all(configs.defaults(), fields)
    sizes = models(config, text={}, vision={})
    backbone, params = vision_layers(config)
    assert backbone is not None and sizes.vision is not None
    shapes = jax.tree.map(lambda x: x.shape, params)
    assert jax.tree.map(lambda x: x.shape, sizes.vision_params) == shapes
    assert sizes.vision.preprocess.image_size == backbone.preprocess.image_size and sizes.vision.params == {}
    assert (sizes.features.max_frames, sizes.features.vision) == (
        (1, backbone.pooled) if pool == "backbone" else (backbone.frames, backbone.dim)
    )


def test_sizes_of_missing_models_are_the_defaults_or_from_the_command_line():
    config = configs.read(str(ROOT / "configs" / "multi30k.py"))
    sizes = models(config, text={}, vision={})
    assert sizes.features[:2] == (MBERT.hidden, CLIP_B32.projection)
    assert all("is not a folder here" in note for note in sizes.notes)
    leaves = jax.tree.leaves(sizes.tail)
    assert {leaf.shape[0] for leaf in leaves} == {9} and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    other = models(config, text={"hidden": 96, "heads": 4}, vision={"projection": 64})
    assert other.features[:2] == (96, 64) and "hidden 96" in other.notes[0]


def test_numbers_of_a_step(home: Path, cpu_topology: None):
    found = json.loads(estimated(home, "--json", "--batch=2", "--config.mesh.fsdp=2").out)
    assert found["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1} and (found["chips"], found["batch"]) == (8, 16)
    assert 0 < found["hbm"]["arguments"] < found["hbm"]["total"] < found["hbm"]["capacity"]
    assert 0 < found["flops"] <= found["flops_in_passes"] and found["bytes"] > 0
    assert found["seconds"]["step"] >= found["seconds"]["products"] and 0 < found["share_of_peak"] < 1
    assert found["collectives"] and all(row["seconds"] > 0 for row in found["collectives"])
    assert found["loops_of_unknown_length"] == 0 and found["largest_batch_per_chip"] is None
    first = json.loads(estimated(home, "--json", "--batch=2", "--config.mesh.fsdp=2", "--stage=teacher").out)
    assert first["stage"] == "teacher" and first["flops"] != found["flops"]


def test_text_output_and_the_largest_batch(home: Path, cpu_topology: None, monkeypatch: pytest.MonkeyPatch):
    memory = command.report.Memory.of
    grown = lambda stats: memory(stats)._replace(temporaries=stats.argument_size_in_bytes * 2000)  # noqa: E731
    monkeypatch.setattr(command.report.Memory, "of", grown)
    monkeypatch.setattr(command, "largest", lambda needed, **limits: [needed(8), limits["unit"]][1] * 3)
    outcome = estimated(home, "--batch=8", "--largest")
    assert outcome.code == 0 and "largest   24 images per chip, 192 in total" in outcome.out
    for part in ("HBM", "of 15.75 GiB", "by the roofline, bound by", "of peak", "all-reduce", "docs.cloud.google.com"):
        assert part in outcome.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.mesh.data=3"], "config.mesh.data=3 x config.mesh.fsdp=1 x config.mesh.tensor=1 needs 3 devices"),
        (["--config.train.batch_size=12"], "use 8 or 16"),
        (["--batch=0"], "argument --batch: '0' is"),
        (["--tokens=99"], "--tokens=99 must be from 1 to"),
        (["--text=layers=3"], "--text: 'layers' is not a size of the configured backbone"),
        (["--text=layers"], "'layers' is not a size; write e.g."),
        (["--vision=heads=3"], "it has dim, frames"),
        (["--config.text.backbone=bert", "--text=positions=10"], "positions hold 10 tokens, fewer than"),
        ([*CLIP_VIT, "--vision=patch=500"], "image_size=224 is not divisible by patch=500"),
        ([*CLIP_VIT, "--vision=heads=7"], "hidden=768 is not divisible by heads=7"),
        (["--topology=v9:2x4"], "no figures for this chip; use one of v5e"),
        (["--config.teacher.head=none", "--config.confidence.kind=none", "--stage=teacher"], "has no teacher stage"),
        (["--config.method=baseline", "--stage=teacher"], "has no teacher stage"),
    ],
)
def test_errors_are_one_line(home: Path, cpu_topology: None, flags: list[str], message: str):
    outcome = estimated(home, *flags)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["", "v5e", "v5e:axb", "v5e:2x0"])
def test_a_topology_without_its_sides(name: str):
    with pytest.raises(UserError, match=f"--topology='{name}' is not a chip and its sides; name one such as v5e:4x4"):
        program.topology(name)


def test_the_error_without_libtpu_says_how_to_install_it(home: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a))
    outcome = estimated(home)
    assert outcome.code == 2 and "pip install -e '.[tpu]'" in outcome.err


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (272.00G) exceeds available HBM (15.75G). HLO module: jit_step",
            272 * 2**30,
            int(15.75 * 2**30),
        ),
        ("Ran out of memory in memory space hbm. Used 25.5G of 15.0G hbm. Exceeded", int(25.5 * 2**30), 15 * 2**30),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_numbers(
    home: Path, cpu_topology: None, monkeypatch: pytest.MonkeyPatch, message: str, needed: int, available: int
):
    full = program.out_of_memory(message)
    assert full is not None and (full.needed, full.available) == (needed, available)
    assert program.out_of_memory("RESOURCE_EXHAUSTED: something else") is None

    def fails(self: object) -> None:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fails)
    outcome = estimated(home, "--batch=4")
    assert outcome.code == 2
    last = outcome.err.strip().splitlines()[-1]
    assert "32 images, 4 per chip, need" in last and "--config.train.accumulation=2" in last and "--batch" in last
    monkeypatch.setattr(command, "largest", lambda needed, **limits: 0 if needed(8) > limits["capacity"] else 8)
    assert "or more chips" in estimated(home, "--batch=4", "--largest").err


@pytest.mark.slow
@needs_libtpu
def test_a_step_is_compiled_for_tpus_without_having_one(home: Path):
    found = json.loads(estimated(home, "--json", "--batch=8").out)
    assert found["chips"] == 8 and found["seconds"]["compiler"] > 0
    assert {row["kind"] for row in found["collectives"]} >= {"all-reduce"}
    assert 0 < found["hbm"]["total"] < found["hbm"]["capacity"] and 0 < found["share_of_peak"] < 1
    unknown = call(command.main, f"--config={home / 'config.py'}", "--topology=v5e:3x5")
    assert unknown.code == 2 and "--topology=v5e:3x5 is not known" in unknown.err
