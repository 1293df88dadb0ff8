"""The converted towers of a bundle and its cut vocabulary, measured, with their sections of the card."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.export import onnx_graph, quality, stablehlo
from cl2cm_jax.export.bundle import PROBES, Addition, Trained
from cl2cm_jax.export.onnx_graph import FOLDER, OPSET, Session, onnx_file
from cl2cm_jax.export.render import render
from cl2cm_jax.export.towers import Tower, image_inputs, text_inputs, text_tower, vision_tower
from cl2cm_jax.export.vocabulary import Served
from cl2cm_jax.models.configured import text_prompt, text_spec, vision_spec
from cl2cm_jax.models.text_folder import FolderText
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.bundle_layout import text_place

_EXAMPLES = 64  # captions and images of the test split that a graph is compared on


def add_vocabulary(trained: Trained, served: Served) -> Addition:
    """The note on the cut vocabulary, with its cost in recall; the bundle is written with it, see `write_bundle`."""

    def add(folder: Path, parts: Parts) -> str:
        assert isinstance(trained.text, FolderText) and isinstance(parts.text, FolderText)
        before, after = trained.text.shape.vocabulary, parts.text.shape.vocabulary
        split = quality.read_test_split(trained.config, parts, trained.data, languages=served.languages)
        measured = []
        if split is not None and split.texts:
            text, vision = (_jitted(tower(parts)) for tower in (text_tower, vision_tower))
            recalls = quality.sum_recalls(split, parts, trained.config, text=text, vision=vision)
            measured = quality.table(trained.results, {"cut vocabulary": recalls})
        return render("vocabulary", served=served, before=before, after=after, measured=measured)

    return add


def _jitted(tower: Tower) -> quality.Encode:
    run = jax.jit(tower.apply)
    return lambda inputs: np.asarray(run(tower.params, *(inputs[name] for name in tower.inputs)))


def add_stablehlo(trained: Trained, served: Served | None = None) -> Addition:
    """Both towers as StableHLO; raises UserError at once if a backbone is not computed by JAX."""
    _check_traced(trained, flag="--stablehlo")

    def add(folder: Path, parts: Parts) -> str:
        split = quality.read_test_split(trained.config, parts, trained.data, languages=_languages(served))
        towers = [(tower, _example(tower, parts, split)) for tower in (text_tower(parts), vision_tower(parts))]
        worst = {tower.name: stablehlo.write_stablehlo(folder, tower, example) for tower, example in towers}
        return stablehlo.note(parts, worst)

    return add


def _languages(served: Served | None) -> tuple[str, ...] | None:
    return None if served is None else served.languages


def add_onnx(trained: Trained, served: Served | None = None) -> Addition:
    """Both towers in ONNX; raises UserError at once if a backbone is not of JAX or the converter is not installed."""
    _check_traced(trained, flag="--onnx")
    onnx_graph.check_installed()

    def add(folder: Path, parts: Parts) -> str:
        split = quality.read_test_split(trained.config, parts, trained.data, languages=_languages(served))
        worst = {}
        for tower in (text_tower(parts), vision_tower(parts)):
            worst[tower.name] = onnx_graph.write_onnx(folder, tower, _example(tower, parts, split))
        measured = [] if split is None or not split.texts else _quality(folder, trained, parts, split)
        return _note(folder, parts, worst, measured)

    return add


def _check_traced(trained: Trained, *, flag: str) -> None:
    """Refuses a backbone that is run by another library; raises UserError that names it."""
    c = trained.config
    specs = {"text": text_spec(c.text.backbone)}
    specs |= {"vision": vision_spec(c.vision.backbone)} if trained.vision is not None else {}
    for kind, spec in specs.items():
        if not spec.traced:
            raise UserError(
                f"{flag}: config.{kind}.backbone={c[kind].backbone!r} is run by PyTorch, outside of JAX, and cannot be "
                f"converted; export without {flag}"
            )


def _quality(folder: Path, trained: Trained, parts: Parts, split: quality.TestSplit) -> list[str]:
    columns = {}
    for name, int8 in (("fp32", False), ("int8", True)):
        text, vision = (Session(onnx_file(folder, tower, int8=int8)) for tower in ("text", "vision"))
        columns[f"ONNX {name}"] = quality.sum_recalls(split, parts, trained.config, text=text, vision=vision)
    mixed = (Session(onnx_file(folder, "text", int8=True)), Session(onnx_file(folder, "vision")))
    columns["text int8, vision fp32"] = quality.sum_recalls(
        split, parts, trained.config, text=mixed[0], vision=mixed[1]
    )
    return quality.table(trained.results, columns)


def _example(tower: Tower, parts: Parts, split: quality.TestSplit | None) -> dict[str, np.ndarray]:
    """Inputs to compare on: captions and images of the test split, random ones if it is not available."""
    random = np.random.default_rng(0)
    if tower.name == "text":
        texts: list[str] = [*PROBES]
        if split is not None:
            texts += split.corpus.caption_text[:_EXAMPLES]
        return text_inputs(parts, texts)
    if list(tower.inputs) == ["pixel_values"]:
        images = [random.integers(0, 256, (90, 120, 3), np.uint8)]
        if split is not None:
            images = [quality.decode(path) for path in split.corpus.paths[:_EXAMPLES]]
        return image_inputs(parts, images)
    example = {}
    for name, (shape, dtype) in tower.inputs.items():
        sizes = [3 if isinstance(size, str) else size for size in shape]
        is_mask = name == "frame_mask"
        example[name] = np.ones(sizes, dtype) if is_mask else random.normal(size=sizes).astype(dtype)
    return example


def _note(folder: Path, parts: Parts, worst: dict[str, float], measured: list[str]) -> str:
    c = parts.config
    code = text_spec(c.text.backbone).tokenizer_code(Path(text_place(c)), max_tokens=c.text.max_tokens)
    return render(
        "onnx",
        c=c,
        code=code,
        files={file.name: file.stat().st_size for file in sorted((folder / FOLDER).glob("*.onnx"))},
        folder=FOLDER,
        measured=measured,
        opset=OPSET,
        text=repr(text_prompt(c) + "a red apple"),
        vision_inputs=_vision_inputs(parts),
        worst=worst,
    )


def _vision_inputs(parts: Parts) -> str:
    if parts.vision is None:
        return "`features` (B, F, d) fp32, `frame_mask` (B, F) int64"
    p = parts.vision.preprocess
    if parts.config.data.frames > 1:
        return f"`pixel_values` (B, F, 3, {p.image_size}, {p.image_size}) fp32, `frame_mask` (B, F) int64"
    mean, scale = (", ".join(f"{value:.4g}" for value in values) for values in (p.mean, p.scale))
    resize = "resized to the square" if p.shorter_side is None else f"shorter side {p.shorter_side}, centre crop"
    pixels = f"RGB, (8-bit value - ({mean})) / ({scale}), {p.filter}, {resize}"
    return f"`pixel_values` (B, 3, {p.image_size}, {p.image_size}) fp32, {pixels}"
