"""Training the upper layers of BERT, from the first step to search."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.command import call
from support.tiny_e5 import write_tiny_e5
from support.tiny_models import write_tiny_bert, write_tiny_text

from cl2cm_jax import config as configs
from cl2cm_jax import main
from cl2cm_jax.data.corpus import Corpus, text_inputs
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.towers import Text
from cl2cm_jax.models.trained_layers import text_layers
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.search import __main__ as search
from cl2cm_jax.training.experiment import build
from cl2cm_jax.training.loop import train, training_batches

TUNED = {
    "text.backbone": "bert",
    "text.max_tokens": "8",
    "text.length_multiple": "4",
    "student.text.trainable": "layers 1-2",
    "teacher.text.trainable": "layers 1-2",
    "teacher.pool": "both",
    "teacher.schedule": "joint",
    "weights.word": "0.5",
    "optimizer.backbone_rate": "1.0",
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def tuned(home: Path, bert: Path, **fields: str):
    changes = TUNED | {"text.path": str(bert)} | {name.replace("__", "."): value for name, value in fields.items()}
    return configs.read(str(home / "config.py"), changes)


def test_frozen_layers_have_no_parameters_and_no_optimiser_state(home: Path, bert: Path):
    built = build(tuned(home, bert))
    state = jax.eval_shape(built.step.init)
    for network in ("student", "teacher"):
        layers = state["params"][network]["text_backbone"]
        assert set(layers) == {"layers"} and {len(leaf) for leaf in jax.tree.leaves(layers)} == {2}
    wide = [leaf.shape for leaf in jax.tree.leaves(state) if 50 in leaf.shape]  # the embedding table's rows
    assert not wide
    everything = build(tuned(home, bert, student__text__trainable="all", teacher__text__trainable="all"))
    assert "embeddings" in jax.eval_shape(everything.step.init)["params"]["student"]["text_backbone"]


@pytest.mark.parametrize("trainable", ["layers 1-2", "all"])
def test_the_cache_holds_what_the_trained_layers_read(home: Path, bert: Path, trainable: str):
    config = tuned(home, bert, student__text__trainable=trainable, teacher__text__trainable="", weights__word="0")
    built = build(config)
    corpus: Corpus = built.corpora.train
    params = built.step.init()["params"]["student"]
    rows = np.arange(len(corpus.caption_text))
    own = built.embedder.text(params, corpus.text, rows)
    frozen = build(tuned(home, bert, student__text__trainable="", teacher__text__trainable="", weights__word="0"))
    without = built.networks.encode_text(
        {k: v for k, v in params.items() if k != "text_backbone"},
        built.networks.text_features("teacher", {}, _text(frozen.corpora.train, rows)),
    )
    np.testing.assert_allclose(own, without, atol=2e-3)  # float16 states


def test_siglip_reads_its_padding_in_the_students_layers_and_no_word_of_it(home: Path):
    folder = Path(__file__).parents[1] / "golden" / "dual_siglip"
    fields = {"text__backbone": "clip_text", "text__max_tokens": "12", "text__length_multiple": "0"}
    fields |= {"teacher__text__trainable": "", "weights__word": "0", "student__text_pool": "both"}
    built = build(tuned(home, folder, student__text__trainable="layers 1-1", **fields))
    frozen = build(tuned(home, folder, student__text__trainable="", **fields))
    params, corpus = built.step.init()["params"]["student"], built.corpora.train
    assert built.networks.reads_words and corpus.sentences.shape[1] == 16 and corpus.words.values.shape[1] == 20
    rows = np.arange(6)
    own = built.embedder.text(params, corpus.text, rows)
    heads = {name: value for name, value in params.items() if name != "text_backbone"}
    without = frozen.embedder.text(heads, frozen.corpora.train.text, rows)
    np.testing.assert_allclose(own, without, atol=2e-3)  # float16 states
    state, _ = built.step.step(built.step.init(), put_batch(next(training_batches(built, 0)), built.mesh), 0)
    before, after = (
        np.asarray(x["text_backbone"]["pool"]["project"]["kernel"]) for x in (params, state["params"]["student"])
    )
    assert np.isfinite(after).all() and np.abs(after - before).max() > 0


def _text(corpus: Corpus, rows: np.ndarray):
    return Text(**text_inputs(corpus.text, rows, length=8, with_words=False))


def test_both_networks_learn_in_their_own_layers(home: Path, bert: Path):
    built = build(tuned(home, bert))
    state = built.step.init()
    before = jax.device_get(state["params"])
    state, terms = built.step.step(state, put_batch(next(training_batches(built, 0)), built.mesh), 0)
    for network in ("student", "teacher"):
        ours, theirs = before[network]["text_backbone"], state["params"][network]["text_backbone"]
        moved = jax.tree.map(lambda a, b: float(np.abs(a - np.asarray(b)).max()), ours, theirs)
        assert all(change > 0 for change in jax.tree.leaves(moved["layers"]["up"]))
    assert np.isfinite(float(terms["word"]))


def test_layers_that_start_after_the_last_step_are_refused(home: Path, bert: Path):
    fields = {"teacher__text__trainable": "", "weights__word": "0", "train__steps": "5"}
    with pytest.raises(UserError, match="start='5' is step 5, and config.train.steps='5' ends at 5"):
        build(tuned(home, bert, student__text__start="5", **fields))
    assert build(tuned(home, bert, student__text__start="60%", **fields)).stages.heads == 3
    never = tuned(home, bert, student__text__start="0%", **fields)
    assert not configs.heads_first(never) and build(never).stages.heads == 0


@pytest.mark.slow
def test_early_stop_waits_for_the_layers(home: Path, bert: Path, tmp_path: Path):
    fields = {"teacher__text__trainable": "", "weights__word": "0", "optimizer__learning_rate": "1e-30"}
    fields |= {"train__steps": "9", "train__evaluate_every": "1", "train__early_stop": "2", "train__ema": "0"}
    run = build(tuned(home, bert, student__text__start="4", teacher__head="none", teacher__update="frozen", **fields))
    with (tmp_path / "log.txt").open("w") as stream:
        state = train(run, tmp_path / "run", stream=stream)
    assert state is not None and int(state["step"]) == 4 + 2, "it stops two evaluations after the layers begin"


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["layers 1-2", "all"])
@pytest.mark.parametrize("accumulation", ["1", "2"])
def test_heads_learn_alone_until_layers_start(home: Path, bert: Path, trainable: str, accumulation: str):
    """Until `student.text.start` a step is that of a run without trained layers; from then on the layers learn too."""
    fields = {"student__text_pool": "both", "student__dropout": "0"}  # its masks depend on the marks around captions
    fields |= {"teacher__text__trainable": "", "weights__word": "0", "mesh__tensor": "2"}
    fields |= {"train__accumulation": accumulation}
    frozen = build(tuned(home, bert, student__text__trainable="", **fields))
    later = build(tuned(home, bert, student__text__trainable=trainable, student__text__start="2", **fields))
    assert later.stages.heads == 2
    pretrained = jax.device_get(later.step.init()["params"]["student"].pop("text_backbone"))

    def after(run, steps: int):
        state, data = run.step.init(), training_batches(run, 0)
        for number in range(steps):
            state, _ = run.step.step(state, put_batch(next(data), run.mesh), number)
        params = jax.device_get(state["params"])
        return params, params["student"].pop("text_backbone", None)

    (expected, _), (found, layers) = after(frozen, 2), after(later, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), expected, found)  # float16
    jax.tree.map(np.testing.assert_array_equal, layers, pretrained)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after(later, 4)[1], pretrained)
    assert all(change > 0 for change in jax.tree.leaves(moved["layers"]["up"]))


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["layers 1-2", "all"])
@pytest.mark.parametrize(
    "changes", [{"mesh__fsdp": "2", "mesh__tensor": "2"}, {"mesh__tensor": "2", "train__accumulation": "2"}]
)
def test_packed_captions_train_as_unpacked_ones(home: Path, bert: Path, changes: dict[str, str], trainable: str):
    """The rows are 8 long and the captions 4; with dropout, whose masks belong to the tokens."""
    changes |= {"student__text__trainable": trainable, "teacher__text__trainable": trainable}
    changes |= {"text__length_multiple": "0", "student__dropout": "0", "optimizer__learning_rate": "1e-3"}

    def after_two_steps(pack: str):
        run = build(tuned(home, bert, text__pack=pack, **changes))
        state, terms, data = run.step.init(), {}, training_batches(run, 0)
        for number in range(2):
            batch = next(data)
            assert ("packing" in batch) == (pack == "True")
            if pack == "True":
                groups, rows, _ = batch["packing"]["take"].shape
                captions = batch["target_is_valid"].size + len(batch["is_valid"])
                assert 0 < groups * rows <= 0.75 * captions
            state, terms = run.step.step(state, put_batch(batch, run.mesh), number)
        return jax.device_get((state["params"], terms))

    (packed, packed_terms), (plain, plain_terms) = after_two_steps("True"), after_two_steps("False")
    for name, value in plain_terms.items():
        np.testing.assert_allclose(packed_terms[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), packed, plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student__text__trainable": "layers 1-11"}, "layers 0-2, and layers are trained up to its last one"),
        ({"student__text__trainable": "layer 3"}, "must be '' .none., 'all', or e.g. 'layers 3-11'"),
        ({"student__text__trainable": "layers ٤-٥"}, "must be '' .none., 'all', or e.g. 'layers 3-11'"),
        ({"student__text__trainable": f"layers {'9' * 4000}-1"}, "must be '' .none., 'all', or e.g. 'layers 3-11'"),
        ({"student__text__trainable": f"layers 1-{'9' * 4000}"}, "must be '' .none., 'all', or e.g. 'layers 3-11'"),
        ({"student__text__trainable": f"layers 1-{'9' * 5000}"}, "has 5,009 characters; use at most 4,096"),
        ({"teacher__text__trainable": "layers 2-2"}, "must begin with the same layer"),
        ({"teacher__folds": "2"}, "teacher.folds=2"),
        ({"teacher__head": "none", "weights__word": "0", "teacher__update": "frozen"}, "other than 'none'"),
        ({"word__plan_from": "backbone"}, "plan_from='backbone' needs a frozen one"),
        (
            {"student__text__trainable": "", "student__text__start": "3"},
            "start='3' needs config.student.text.trainable",
        ),
        (
            {
                "student__text__start": "50%",
                "student__vision__trainable": "layers 1-1",
                "vision__backbone": "clip_vit",
                "vision__path": "clip",
                "data__features": "",
                "data__feature_ids": "",
            },
            "start='50%' delays layers of the text backbone alone",
        ),
        ({"text__backbone": "use_multilingual"}, "needs config.text.backbone='bert' or 'e5_small' or .*, not"),
    ],
)
def test_invalid_trainable_layers_are_refused(home: Path, bert: Path, fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        text_layers(tuned(home, bert, **fields))


@pytest.mark.parametrize("backbone", ["bert", "e5_small", "qwen3"])
def test_train_evaluate_and_search(home: Path, bert: Path, tmp_path: Path, backbone: str):
    layers = ("1-3", 3) if backbone == "qwen3" else ("1-2", 2)
    place = bert
    if backbone == "e5_small":
        place = write_tiny_e5(tmp_path / "it.bin")
    if backbone == "qwen3":  # whose texts have a special token at the end alone
        place = write_tiny_text(tmp_path / "qwen3", backbone, template="$A [SEP]")
    fields = TUNED | {"text.backbone": backbone, "text.path": str(place)}
    fields |= {f"{network}.text.trainable": f"layers {layers[0]}" for network in ("student", "teacher")}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [f"--config={home}/config.py", f"--workdir={tmp_path / 'run'}", *flags]
    finished = call(main.main, *command)
    assert finished.code == 0, finished.err
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert len(weights["text_backbone/layers/query/kernel"]) == layers[1]
    again = call(main.main, *command, "--mode=evaluate")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"] == first["test"]
    found = call(search.main, f"--workdir={tmp_path / 'run'}", "rot Auto", "--top=3")
    assert found.code == 0 and "1 query over 32 pictures" in found.out + found.err, found.err
