"""ModernBERT and Qwen3 against transformers' own outputs and gradients, and folders that they read and write."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.tiny_models import write_tiny_text

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models.backbone import TextBackbone
from cl2cm_jax.models.configured import text_backbone, text_spec
from cl2cm_jax.models.layers.rotary import RotaryShape
from cl2cm_jax.models.text_folder import FolderSpec, FolderText

GOLDEN = Path(__file__).parents[3] / "golden"
FAMILIES = ("modernbert", "qwen3")
MARKS = {"modernbert": (1, 1), "qwen3": (0, 1)}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / family, tmp_path / family))


def change(folder: Path, **entries: object) -> None:
    """Changes entries of config.json; ... removes one."""
    content = json.loads((folder / "config.json").read_text()) | entries
    content = {name: value for name, value in content.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(content))


def shape_of(folder: Path) -> RotaryShape:
    spec = text_spec(folder.name)
    assert isinstance(spec, FolderSpec)
    return spec.read_shape(folder)


def test_states_and_gradients_equal_the_reference(family: str) -> None:
    backbone = text_backbone(family, GOLDEN / family)
    assert isinstance(backbone, FolderText)
    with np.load(GOLDEN / family / "outputs.npz") as golden:
        ids, mask, weights = (golden[name] for name in ("ids", "mask", "weights"))

        @jax.jit
        def run(params: dict) -> tuple:
            def loss(params: dict) -> tuple:
                output = backbone.apply(params, ids, mask)
                return (output.words * weights).sum(), output

            return jax.value_and_grad(loss, has_aux=True)(params)

        (_, output), gradients = run(backbone.params)
        states, lengths = golden["states"], mask.sum(1)
        np.testing.assert_allclose(output.words, states, atol=1e-5)
        sentence = states.sum(1) if family == "modernbert" else states[np.arange(len(mask)), lengths - 1]
        stored = dataclasses.replace(backbone, params=gradients).stored()
        assert {f"gradient/{name}" for name in stored} == {name for name in golden if "/" in name}
        for name, gradient in stored.items():
            np.testing.assert_allclose(gradient, golden[f"gradient/{name}"], atol=2e-5, rtol=2e-5, err_msg=name)
    unit = sentence / np.linalg.norm(sentence, axis=1, keepdims=True)
    np.testing.assert_allclose(output.sentence, unit, atol=1e-5)
    assert output.mask.sum(1).tolist() == (lengths - sum(MARKS[family])).tolist()
    assert bool(output.mask[:, 0].any()) == (family == "qwen3") and backbone.max_tokens == 24


def test_padding_changes_nothing(family: str) -> None:
    backbone = text_backbone(family, GOLDEN / family)
    with np.load(GOLDEN / family / "outputs.npz") as golden:
        ids, mask = golden["ids"], golden["mask"]
    short = backbone.apply(backbone.params, ids, mask)
    wide = np.pad(ids, ((0, 1), (0, 40)), constant_values=7)
    padded = backbone.apply(backbone.params, wide, np.pad(mask, ((0, 1), (0, 40))))
    np.testing.assert_allclose(padded.words[:-1, :24], short.words, atol=1e-5)
    np.testing.assert_allclose(padded.sentence[:-1], short.sentence, atol=1e-5)
    assert np.isfinite(padded.sentence).all() and not padded.mask[-1].any() and not padded.words[:, 24:].any()


def test_the_forms_of_config_before_transformers_5_are_the_same(tmp_path: Path) -> None:
    folders = {family: Path(shutil.copytree(GOLDEN / family, tmp_path / family)) for family in FAMILIES}
    newer = {family: shape_of(folder) for family, folder in folders.items()}
    thetas = {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3}
    change(folders["modernbert"], layer_types=..., rope_parameters=..., rope_scaling=None, **thetas)
    change(folders["qwen3"], layer_types=..., rope_parameters=..., rope_scaling=None, rope_theta=10000)
    assert {family: shape_of(folder) for family, folder in folders.items()} == newer
    change(folders["modernbert"], local_rope_theta=160000)
    change(folders["qwen3"], rope_theta=..., use_sliding_window=False, num_key_value_heads=None, sliding_window=None)
    modern, qwen = (shape_of(folder) for folder in folders.values())
    assert modern == newer["modernbert"]._replace(local_theta=160000.0)
    assert qwen == newer["qwen3"]._replace(key_heads=4, local=(False,), window=0)


def test_a_bidirectional_qwen3_sees_both_sides(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "qwen3", tmp_path / "qwen3"))
    change(folder, is_causal=False)
    with np.load(folder / "outputs.npz") as golden:
        ids, mask, causal = golden["ids"][:1], golden["mask"][:1], golden["states"][:1]
    states = text_backbone("qwen3", folder).apply(text_backbone("qwen3", folder).params, ids, mask).words
    assert np.abs(states - causal).max(axis=(0, 2))[:5].min() > 1e-3


@pytest.mark.parametrize(
    ("family", "entries", "message"),
    [
        ("modernbert", {"model_type": "bert"}, "config.text.backbone='bert' reads it"),
        ("qwen3", {"model_type": "modernbert"}, "not one of qwen3; config.text.backbone='modernbert' reads it"),
        ("qwen3", {"model_type": "gemma3_text"}, "one of qwen3; config.text.backbone='transformers' runs it, frozen"),
        ("modernbert", {"layer_types": ["full_attention"] * 3}, "layer_types=.* is not a list of 4 of full_attention"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 4}, "layer_types=.* is not a list of 4 of full_attention"),
        ("qwen3", {"use_sliding_window": False}, "layer_types=.* is not a list of 4 of full_attention; "),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not one of default"),
        ("qwen3", {"rope_scaling": {"type": "linear", "factor": 2}}, "type='linear' is not one of default"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn' is not one of default"),
        ("modernbert", {"rope_parameters": []}, r"rope_parameters=\[\] is not a JSON object"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_theta": -1}}}, "rope_theta=-1 is not a number"),
        ("modernbert", {"norm_bias": 1}, "norm_bias=1 is neither true nor false"),
        ("modernbert", {"local_attention": 0}, "local_attention=0 is not a whole number"),
        ("modernbert", {"hidden_size": 12}, "hidden_size=12 makes heads of 3, which is odd"),
        ("qwen3", {"head_dim": 7}, "head_dim=7 makes heads of 7, which is odd"),
        ("qwen3", {"num_key_value_heads": 3}, "num_attention_heads=4 is not divisible by num_key_value_heads=3"),
        ("qwen3", {"head_dim": 8}, r"layers.0.self_attn.q_proj.weight has shape \(24, 16\) instead of \(32, 16\)"),
        ("qwen3", {"attention_bias": True}, "layers.0.self_attn.q_proj.bias is missing"),
        ("modernbert", {"intermediate_size": 11}, r"mlp.Wi.weight has shape \(24, 16\) instead of \(22, 16\)"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path: Path, family: str, entries: dict, message: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / family, tmp_path / family))
    change(folder, **entries)
    with pytest.raises(UserError, match=message) as caught:
        text_backbone(family, folder)
    assert "\n" not in str(caught.value)


def test_other_poolings(folder: Path) -> None:
    for flag, pool in (("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "lasttoken")):
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{flag}": True}))
        assert shape_of(folder).pool == pool


@pytest.fixture
def written(family: str, tmp_path: Path) -> tuple[TextBackbone, Path]:
    """A backbone whose layers were trained, and the folder that it wrote."""
    template = "[CLS] $A [SEP]" if family == "modernbert" else "$A [SEP]"
    backbone = text_backbone(family, write_tiny_text(tmp_path / "old", family, template=template))
    tunable = backbone.tunable
    assert tunable is not None
    above = jax.tree.map(lambda array: array * 1.5, tunable.cut(backbone.params, 1)[1])
    backbone = dataclasses.replace(backbone, params=tunable.join(backbone.params, above, 1))
    backbone.write(tmp_path / family, max_tokens=9)
    return backbone, tmp_path / family


def test_a_written_folder_is_read_again(family: str, written: tuple[TextBackbone, Path]) -> None:
    backbone, folder = written
    again = text_backbone(family, folder)
    ids, mask = backbone.tokenizer(max_tokens=9)(["red", "a red car"])
    for ours, theirs in zip(
        again.apply(again.params, ids, mask), backbone.apply(backbone.params, ids, mask), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    shapes = {name: array.shape for name, array in load_file(folder / "model.safetensors").items()}
    assert shapes == {name: array.shape for name, array in load_file(GOLDEN / family / "model.safetensors").items()}
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 9
    assert (folder / "1_Pooling" / "config.json").is_file()


def test_the_marks_are_those_of_the_tokenizer(family: str, written: tuple[TextBackbone, Path]) -> None:
    backbone, _ = written
    before, behind = backbone.marks
    assert backbone.marks == MARKS[family]
    tokenizer = backbone.tokenizer(max_tokens=4)
    ids, mask = tokenizer(["red red red red red", ""])
    assert (
        mask.sum(1).tolist() == [4, before + behind] and ids[0, -1] == 2 and ids[0, 0] == (1 if before else ids[0, 1])
    )
    assert tokenizer.words("red red red red red") == ["red"] * (4 - before - behind)


@pytest.mark.parametrize("family", ["qwen3"], indirect=True)
@pytest.mark.parametrize("first", [None, 1])
def test_features_of_words_leave_out_the_marks(first: int | None, written: tuple[TextBackbone, Path]) -> None:
    """As an array of their own; with states, of which special tokens are a part, they are told apart."""
    backbone, _ = written
    total = 0 if first is None else 1
    encoder = TextEncoder(backbone, max_tokens=9, first=first)
    features = encoder(["red", "red red", ""])
    assert np.diff(features.words.offsets).tolist() == [1 + total, 2 + total, total]
    whole = backbone.apply(backbone.params, *encoder.tokens(["red red"]))
    rows = features.words.values[slice(*features.words.offsets[1:3])]
    np.testing.assert_allclose(rows, whole.words[0, : 2 + total], atol=2e-3)
    expected = [True] * 3 if first is None else [True, False, True, True, False, False]
    assert features.words.is_word.tolist() == expected


def test_a_qwen3_without_an_end_reads_its_tokenizer(tmp_path: Path) -> None:
    backbone = text_backbone("qwen3", write_tiny_text(tmp_path / "qwen3", "qwen3", template="$A"))
    ids, mask = backbone.tokenizer(max_tokens=9)(["red", "red red", ""])
    output = backbone.apply(backbone.params, ids, mask)
    assert backbone.marks == (0, 0) and output.mask.sum(1).tolist() == [1, 2, 0] and not output.sentence[2].any()


def test_names_of_models_with_a_head(family: str, folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    heads = {"head.dense.weight", "decoder.bias"} if family == "modernbert" else {"lm_head.weight", "score.weight"}
    named = {f"model.{name}": array for name, array in arrays.items()}
    save_file(named | {name: np.zeros(3, np.float32) for name in heads}, folder / "model.safetensors")
    expected = text_backbone(family, GOLDEN / family).params
    jax.tree.map(np.testing.assert_array_equal, text_backbone(family, folder).params, expected)
    save_file(named | {"model.adapter": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.adapter is not known to the model"):
        text_backbone(family, folder)


def test_sizes_without_weights(family: str) -> None:
    backbone, note = text_spec(family).abstract(None, {"layers": 2, "vocabulary": 1000, "heads": 8})
    assert {len(leaf) for leaf in jax.tree.leaves(backbone.params["layers"])} == {2}
    assert "layers 2" in note and ("mmBERT-base" if family == "modernbert" else "Qwen3-Embedding-0.6B") in note
    with pytest.raises(UserError, match="is not divisible by"):
        text_spec(family).abstract(None, {"heads": 7})
    number = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(text_spec(family).abstract(None, {})[0].params))
    # Source: the models' cards, 307 and 595 million; the norm before the first attention is ours alone
    assert number == (306_939_648 + 768 if family == "modernbert" else 595_776_512)
