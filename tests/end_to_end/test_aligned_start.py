"""A student of both towers of one model is that model before training, and what it then loses is limited."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from PIL import Image
from safetensors.numpy import load_file
from support.command import Outcome, call
from support.drawn_set import write_drawn_set
from support.tiny_models import write_tiny_bert

pytest.importorskip("tensorflow")

from cl2cm_jax import config as configs
from cl2cm_jax import main
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.retrieval import metrics, retrieval_ranks
from cl2cm_jax.features.encoders import ImageEncoder, TextEncoder
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.parallel.sharding import put_batch
from cl2cm_jax.runtime.metrics import read_rows
from cl2cm_jax.steps.embeddings import Embeddings, embed
from cl2cm_jax.training import experiment, interpolation, loop, validation
from cl2cm_jax.training.experiment import Run, build
from cl2cm_jax.training.loop import training_batches

GOLDEN = Path(__file__).parents[1] / "golden"
DIM = {"dual_clip": 10, "dual_siglip": 16, "open_clip": 10, "open_clip_xlm": 10}


def fields(name: str, **changes: str) -> dict[str, str]:
    own = {
        "vision.backbone": "clip_vit",
        "vision.path": str(GOLDEN / name),
        "text.backbone": "clip_text",
        "text.path": str(GOLDEN / name),
        "text.max_tokens": "12",
        "student.dim": str(DIM[name]),
        "student.text_residual": "True",
        "student.vision_residual": "True",
        "contrastive.temperature": "0",
        "teacher.head": "none",
        "confidence.kind": "none",
        "weights.transfer": "0",
    }
    return own | {key.replace("__", "."): value for key, value in changes.items()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_set(tmp_path_factory.mktemp("drawn"))


def built(folder: Path, name: str, **changes: str) -> Run:
    return build(configs.read(str(folder / "config.py"), fields(name, **changes)))


def training(folder: Path, workdir: Path, name: str, *flags: str, **changes: str) -> Outcome:
    given = [f"--config.{key}={value}" for key, value in fields(name, **changes).items()]
    return call(main.main, f"--config={folder}/config.py", f"--workdir={workdir}", *given, *flags)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def own_vectors(run: Run, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the model itself says of the validation split: of pictures, and of captions by language."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in run.validation.paths]
    vision = ImageEncoder(vision_backbone("clip_vit", GOLDEN / name), pool="backbone")(pictures)[:, 0]
    encode, corpus = TextEncoder(text_backbone("clip_text", GOLDEN / name), max_tokens=12), run.validation
    texts = {
        language: encode([corpus.caption_text[row] for row in corpus.captions_of(language)]).sentences
        for language in ("en", "de", "fr")
    }
    return unit(vision), {language: unit(vectors) for language, vectors in texts.items()}


@pytest.mark.parametrize("name", ["dual_clip", "dual_siglip", "open_clip_xlm"])
def test_before_training_the_student_is_the_model(drawn: Path, name: str) -> None:
    loss = {"contrastive__loss": "sigmoid"} if name == "dual_siglip" else {}
    run = built(drawn, name, **loss)
    student = run.step.init()["params"]["student"]
    vision, texts = own_vectors(run, name)
    np.testing.assert_allclose(run.embedder.images(student, run.validation), vision, atol=1e-5)
    for language, vectors in texts.items():
        rows = run.validation.captions_of(language)
        np.testing.assert_allclose(run.embedder.text(student, run.validation.text, rows), vectors, atol=1e-5)
    stored = read_scale(GOLDEN / name)
    np.testing.assert_allclose(np.exp(-student["log_temperature"]), np.exp(stored["logit_scale"]), rtol=1e-6)
    if loss:
        np.testing.assert_allclose(student["sigmoid_bias"], stored["logit_bias"], rtol=1e-6)


def read_scale(folder: Path) -> dict[str, np.ndarray]:
    tensors = load_file(next(folder.glob("*.safetensors")))
    return {name: tensors[name].reshape(()) for name in ("logit_scale", "logit_bias") if name in tensors}


def test_trained_layers_start_at_the_model_too(drawn: Path) -> None:
    everything = {"student__text__trainable": "all", "student__vision__trainable": "all"}
    run = built(drawn, "dual_clip", **everything)
    student = run.step.init()["params"]["student"]
    vision, texts = own_vectors(run, "dual_clip")
    np.testing.assert_allclose(run.embedder.images(student, run.validation), vision, atol=1e-5)
    rows = run.validation.captions_of("de")
    np.testing.assert_allclose(run.embedder.text(student, run.validation.text, rows), texts["de"], atol=1e-5)


@pytest.fixture(scope="module")
def trained(drawn: Path) -> tuple[Path, Outcome]:
    outcome = training(drawn, drawn / "run", "dual_clip")
    assert outcome.code == 0, outcome.err
    return drawn / "run", outcome


def test_the_table_before_training_is_the_models_and_beside_that_after(
    drawn: Path, trained: tuple[Path, Outcome]
) -> None:
    workdir, outcome = trained
    run = built(drawn, "dual_clip")
    vision, texts = own_vectors(run, "dual_clip")
    expected = {
        language: metrics(retrieval_ranks(vectors, vision, text_image=np.arange(8)))["SumR"]
        for language, vectors in texts.items()
    }
    first = read_rows(workdir / "metrics.jsonl")[0]
    assert first["step"] == 0
    assert {language: first[f"validation/{language}/SumR"] for language in expected} == pytest.approx(expected)
    assert "Before training, on the validation split" in outcome.err
    assert "Before and after training on the test split" in outcome.out
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["before"]) == {"en", "de", "fr"}
    rows = (workdir / "results.md").read_text().partition("Before and after")[2].splitlines()
    sums = [f"{results[when]['de']['SumR']:.1f}" for when in ("before", "test")]
    assert next(row for row in rows if row.startswith("| de |")).split(" | ")[5:7] == sums
    assert (workdir / "checkpoints" / "0").is_dir()


def test_a_run_that_was_killed_before_its_first_step_goes_on(
    drawn: Path, trained: tuple[Path, Outcome], tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    for path in (*(workdir / "checkpoints").iterdir(), workdir / "results.json"):
        if path.name != "0":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    outcome = training(drawn, workdir, "dual_clip")
    assert outcome.code == 0, outcome.err
    assert "Before training, on the validation split" not in outcome.err  # it was measured then
    again, first = (json.loads((folder / "results.json").read_text()) for folder in (workdir, trained[0]))
    assert again["before"] == first["before"] and again["test"] == first["test"]


def worse_after_the_start(monkeypatch: pytest.MonkeyPatch, language: str, share: float) -> None:
    """From the second validation on, a language has only a share of the SumR that was measured first."""
    measured: list[dict[str, float]] = []

    def lowered(*arguments: Any, **more: Any) -> validation.Validation:
        found = validation.validate(*arguments, **more)
        if measured:
            by_language = found.retrieval.per_language
            changed = {**by_language[language], "SumR": share * measured[0][language]}
            found = found._replace(retrieval=replace(found.retrieval, per_language={**by_language, language: changed}))
        measured.append(found.sum_recall)
        return found

    monkeypatch.setattr(loop, "validate", lowered)


def test_a_step_that_loses_a_language_is_not_selected(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse_after_the_start(monkeypatch, "fr", 0.9)
    outcome = training(drawn, tmp_path / "run", "dual_clip", train__steps="4", data__targets="de", data__reported="fr")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["selected_step"] == 0
    assert results["test"] == {language: results["before"][language] for language in ("en", "de")}
    warned = re.findall(
        r"step 4: lost since the start: (fr|en) \(SumR .*\), more than config.train.max_forgetting=0.05", outcome.err
    )
    assert warned == ["fr"]


def test_a_smaller_loss_than_the_limit_is_taken(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worse_after_the_start(monkeypatch, "fr", 0.9)
    limit = {"train__max_forgetting": "0.2", "train__select": "last"}
    outcome = training(drawn, tmp_path / "run", "dual_clip", train__steps="4", data__targets="fr", **limit)
    assert outcome.code == 0, outcome.err
    assert "fr (SumR" not in outcome.err


def test_weights_between_start_and_end_are_chosen_on_validation(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of a half is given the best score; what is written is that mean of the weights."""
    best = validation.selection_score

    def half(run: Run, found: validation.Validation, start: dict[str, float], *, what: str) -> float:
        return 599.0 if what == "share 0.5 of the trained weights" else min(best(run, found, start, what=what), 598.0)

    monkeypatch.setattr(interpolation, "selection_score", half)
    outcome = training(drawn, tmp_path / "run", "dual_clip", train__interpolations="4", train__ema="0")
    assert outcome.code == 0, outcome.err
    assert "share 0.5 of the trained weights is kept" in outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["selected_share"] == 0.5
    assert "0.5 of its weights and 0.5 of those before training" in outcome.out
    run = built(drawn, "dual_clip", train__ema="0")
    first = jax.device_get(run.step.init()["params"]["student"])
    with experiment.checkpoints(run, tmp_path / "run") as saved:
        whole = experiment.abstract_state(run)["params"]["student"]
        step = results["config"]["selected_step"]
        last = saved.restore({"params": {"student": whole}}, step=step or "latest")
    assert last is not None
    written = unflatten_dict(load_file(tmp_path / "run" / "model.safetensors"), sep="/")
    expected = jax.tree.map(lambda a, b: (a + np.asarray(b)) / 2, first, last.state["params"]["student"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.reshape(b.shape), b, atol=1e-6), written, expected)


def test_interpolation_needs_a_model_to_start_at(drawn: Path, tmp_path: Path) -> None:
    random = {"student__text_residual": "False", "student__vision_residual": "False"}
    outcome = training(drawn, tmp_path / "run", "dual_clip", train__interpolations="4", **random)
    assert outcome.code == 2
    assert "config.train.interpolations=4 needs a model to start at: --init, or" in outcome.err.splitlines()[-1]


TRAINED = {"student__text__trainable": "layers 1-1", "student__vision__trainable": "layers 1-1"}


@pytest.mark.parametrize("layers", [{}, TRAINED, TRAINED | {"train__accumulation": "2", "train__batch_size": "16"}])
def test_the_start_term_is_the_distance_to_the_model(drawn: Path, layers: dict[str, str]) -> None:
    still = {"student__dropout": "0", "student__text__dropout": "0", "optimizer__backbone_rate": "1.0"}
    run = built(drawn, "dual_clip", weights__start="1", train__ema="0", **still, **layers)
    state, batches = run.step.init(), [next(training_batches(run, step)) for step in range(2)]
    first = jax.device_get(state["params"]["student"])
    state, terms = run.step.step(state, put_batch(batches[0], run.mesh), 0)
    np.testing.assert_allclose(terms["start"], 0, atol=1e-5)
    student = jax.device_get(state["params"]["student"])
    _, terms = run.step.step(state, put_batch(batches[1], run.mesh), 1)

    def vectors(student: dict[str, Any]) -> Embeddings:
        params = {"student": student, "teacher": {}}
        return jax.jit(lambda: embed(run.networks, params, batches[1], pretrained=run.step.pretrained))()

    then, now = vectors(first), vectors(student)
    cosines = [(getattr(then, side) * getattr(now, side)).sum(-1) for side in ("vision", "source")]
    assert float(terms["start"]) > 1e-4
    np.testing.assert_allclose(terms["start"], np.mean([1 - np.mean(one) for one in cosines]), rtol=2e-2)


def test_a_large_weight_of_the_start_keeps_the_student_there(drawn: Path) -> None:
    def moved(weight: str) -> float:
        run = built(drawn, "dual_clip", weights__start=weight, student__dropout="0", train__ema="0")
        state = run.step.init()
        for step in range(6):
            state, _ = run.step.step(state, put_batch(next(training_batches(run, step)), run.mesh), step)
        student = state["params"]["student"]
        vision, texts = own_vectors(run, "dual_clip")
        rows = run.validation.captions_of("en")
        found = run.embedder.images(student, run.validation), run.embedder.text(student, run.validation.text, rows)
        return float(np.mean([1 - (a * b).sum(-1) for a, b in zip(found, (vision, texts["en"]), strict=True)]))

    assert moved("1000") < 0.5 * moved("0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student__vision_tower": "attention"}, "student.vision_tower='attention' replaces it; use 'linear'"),
        ({"vision__pool": "tokens"}, "config.vision.pool='tokens' reads the grid; use 'backbone'"),
        ({"student__dim": "12"}, r"student.text_residual=True starts at the .*; use config.student.dim=10, .*got 12"),
        (
            {"student__text_residual": "False", "student__dim": "12"},
            r"vision_residual=True .* use config.student.dim=1",
        ),
        ({"vision__path": str(GOLDEN / "dual_siglip")}, "have 10 values, the vision backbone's 16; use both towers of"),
        (
            {"student__vision_residual": "False", "weights__start": "1"},
            "weights.start='1' keeps the student near the model that it starts at, and its heads start at random",
        ),
        ({"contrastive__temperature": "1e-5"}, "temperature=1e-05 must be at least 0.0001, or 0 for that of"),
    ],
)
def test_what_does_not_go_with_such_a_start_is_refused(drawn: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        built(drawn, "dual_clip", **changes)
    assert "\n" not in str(caught.value)


def test_the_scale_is_of_a_folder_with_both_towers(drawn: Path, tmp_path: Path) -> None:
    text = {"text__backbone": "bert", "text__path": str(write_tiny_bert(tmp_path / "bert")), "text__max_tokens": "8"}
    random = {"student__text_residual": "False", "student__vision_residual": "False"}
    with pytest.raises(UserError, match="temperature=0 takes the scale of the scores from the model folder of a backb"):
        built(drawn, "dual_clip", vision__path=str(GOLDEN / "clip"), **text, **random)
