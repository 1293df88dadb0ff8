"""Each tower in ONNX and as StableHLO gives JAX's vectors, for any batch and length, without this package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.command import call
from support.finished_runs import GOLDEN, TEXTS, WORDS, write_finished_run
from support.tiny_models import write_tiny_text

import cl2cm_jax
from cl2cm_jax.export import __main__ as export
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.export.conversions import add_onnx, add_stablehlo
from cl2cm_jax.export.onnx_graph import _as_products
from cl2cm_jax.export.towers import image_inputs, text_inputs
from cl2cm_jax.trained.bundle import Parts

VARIANTS = {
    "stock": {},
    "words and tokens": WORDS,
    "tuned, siglip": {
        "student__text__trainable": "layers 1-2",
        "vision__path": str(GOLDEN / "siglip"),
        "student__vision__trainable": "layers 1-1",
    },
    "modernbert, dinov2": "layers 2-3",
    "qwen3, dinov3": "layers 2-3",
    "clip, clip": "layers 0-1",
    "siglip, siglip": "layers 0-1",
    "open_clip, open_clip": "layers 0-1",
    "open_clip_xlm, open_clip_xlm": "layers 0-1",
}
TEMPLATES = {"modernbert": "[CLS] $A [SEP]", "qwen3": "$A [SEP]"}
DUAL = {"clip": "dual_clip", "siglip": "dual_siglip"}
ALONE = """
import sys, json, numpy, jax.export
folder, inputs = sys.argv[1:]
for name in ("text", "vision"):
    tower = jax.export.deserialize(bytearray(open(f"{folder}/stablehlo/{name}.stablehlo", "rb").read()))
    given = numpy.load(f"{inputs}/{name}.npz")
    numpy.save(f"{inputs}/{name}.npy", tower.call(*(given[key] for key in given.files)))
print([name for name in sys.modules if name.startswith("cl2cm")])
"""


def inputs_of(folder: Path, texts: list[str], pictures: list[Image.Image]) -> dict[str, dict[str, np.ndarray]]:
    parts = Parts(folder)
    pixels = [np.asarray(picture) for picture in pictures]
    return {"text": text_inputs(parts, texts), "vision": image_inputs(parts, pixels)}


def towers(variant: str, folder: Path) -> dict[str, Any]:
    """Fields of a variant "text, vision", its families, of each of which two layers are trained."""
    if isinstance(changes := VARIANTS[variant], dict):
        return changes
    text, vision = variant.split(", ")
    if text in TEMPLATES:
        paths = [write_tiny_text(folder / text, text, template=TEMPLATES[text]), GOLDEN / vision]
    else:
        paths = [GOLDEN / DUAL.get(text, text)] * 2
    return {
        "text__backbone": text if text in TEMPLATES else "clip_text",
        "text__path": str(paths[0]),
        "text__max_tokens": 12,  # as SigLIP's texts all are
        "vision__backbone": "dino" if "dino" in vision else "clip_vit",
        "vision__path": str(paths[1]),
        "student__text__trainable": changes,
        "student__vision__trainable": "layers 0-1",
    }


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "stock"]


@pytest.fixture(scope="module", params=["stock", *SLOW])
def written(
    request: pytest.FixtureRequest, fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("variant")
    trained = read_trained(write_finished_run(folder / "run", **fields | towers(request.param, folder)))
    return folder, trained


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs have no test split; without this the emoji set would be built."""
    monkeypatch.setattr("cl2cm_jax.export.quality.read_test_split", lambda *_, **__: None)


def test_stablehlo_runs_without_this_package(
    written: tuple[Path, Any], pictures: list[Image.Image], tmp_path: Path
) -> None:
    folder, trained = written
    write_bundle(trained, folder / "hlo", additions=[add_stablehlo(trained)])
    model = cl2cm_jax.from_pretrained(folder / "hlo")
    for texts, some in ((TEXTS, pictures), (TEXTS[:1], pictures[:1])):
        for name, inputs in inputs_of(folder / "hlo", texts, some).items():
            np.savez(tmp_path / f"{name}.npz", **inputs)
        command = [sys.executable, "-c", ALONE, str(folder / "hlo"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "[]", done.stderr
        # upper layers that are trained read states that were rounded to float16
        np.testing.assert_allclose(np.load(tmp_path / "text.npy"), model.encode_text(texts), atol=1e-3)
        np.testing.assert_allclose(np.load(tmp_path / "vision.npy"), model.encode_image(some), atol=1e-5)
    assert "stablehlo/text.stablehlo" in (folder / "hlo" / "README.md").read_text()


def test_onnx_equals_jax(written: tuple[Path, Any], pictures: list[Image.Image]) -> None:
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed (docs/export.md)")
    runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    folder, trained = written
    write_bundle(trained, folder / "onnx", additions=[add_onnx(trained)])
    model = cl2cm_jax.from_pretrained(folder / "onnx")
    for texts, some in ((TEXTS, pictures), (TEXTS[:1], pictures[:1])):
        expected = {"text": model.encode_text(texts), "vision": model.encode_image(some)}
        for name, inputs in inputs_of(folder / "onnx", texts, some).items():
            inputs = {key: x.astype(np.int64) if x.dtype == np.int32 else x for key, x in inputs.items()}
            session = runtime.InferenceSession(str(folder / "onnx" / "onnx" / f"{name}.onnx"))
            (found,) = session.run(None, inputs)
            np.testing.assert_allclose(found, expected[name], atol=1e-3 if name == "text" else 1e-4)
            session = runtime.InferenceSession(str(folder / "onnx" / "onnx" / f"{name}_int8.onnx"))
            (rough,) = session.run(None, inputs)
            assert 1e-7 < np.abs(rough - found).max() < 0.1
    graph = onnx.load(folder / "onnx" / "onnx" / "text_int8.onnx").graph
    layers = getattr(Parts(folder / "onnx").text.tunable, "layers", 0)
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) >= 6 * layers > 0
    card = (folder / "onnx" / "README.md").read_text()
    assert "Opset 21" in card
    program = next(code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "onnxruntime" in code)
    alone = subprocess.run(
        [sys.executable, "-c", program + "print(vectors[0].tolist())"],
        cwd=folder / "onnx",
        capture_output=True,
        text=True,
        check=False,
    )
    np.testing.assert_allclose(json.loads(alone.stdout), model.encode_text(["a red apple"])[0], atol=1e-3)


def test_unused_biases_are_removed_with_gemm() -> None:
    helper = pytest.importorskip("onnx").helper
    arrays = [helper.make_tensor(name, 1, [2, 2], [1.0] * 4) for name in ("w", "unread", "added")]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "unread"], ["y"], beta=0.0),
        helper.make_node("Gemm", ["y", "w", "added"], ["z"]),
    ]
    ends = [[helper.make_tensor_value_info(name, 1, [2, 2])] for name in ("x", "z")]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, arrays))
    _as_products(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Gemm"]
    assert [one.name for one in model.graph.initializer] == ["w", "added"]


def test_onnx_without_its_packages_is_one_line(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    outcome = call(export.main, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--onnx")
    assert outcome.code == 2 and "--onnx: package jax2onnx is not installed; run: pip install" in outcome.err
    assert list(tmp_path.iterdir()) == []
