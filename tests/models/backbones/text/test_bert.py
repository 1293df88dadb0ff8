"""BERT and XLM-R against transformers' own outputs, and a real model against sentence-transformers'."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones.text import bert
from cl2cm_jax.models.configured import fingerprint, text_backbone

GOLDEN = Path(__file__).parents[3] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_bert import SENTENCES  # noqa: E402  # pyright: ignore[reportMissingImports]

FAMILIES = ("bert", "xlm-roberta")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "bert", tmp_path / "model"))


def _change(folder: Path, name: str = "config.json", **entries: object) -> None:
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(content | entries))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_equal_the_reference(family: str) -> None:
    backbone = text_backbone("bert", GOLDEN / family)
    with np.load(GOLDEN / family / "outputs.npz") as golden:
        output = jax.jit(backbone.apply)(backbone.params, golden["ids"], golden["mask"])
        np.testing.assert_allclose(output.words, golden["states"], atol=1e-5)
        mean = golden["states"].sum(1) / golden["mask"].sum(1, keepdims=True)
        lengths = golden["mask"].sum(1)
    np.testing.assert_allclose(output.sentence, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    assert output.mask.sum(1).tolist() == (lengths - 2).tolist() and not output.mask[:, 0].any()
    assert isinstance(backbone, bert.Bert)
    assert (backbone.dim, backbone.shape.vocabulary, backbone.max_tokens) == (16, 50, 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family: str) -> None:
    backbone = text_backbone("bert", GOLDEN / family)
    with np.load(GOLDEN / family / "outputs.npz") as golden:
        ids, mask = golden["ids"], golden["mask"]
    short = backbone.apply(backbone.params, ids, mask)
    wide = np.pad(ids, ((0, 1), (0, 40)), constant_values=7)  # beyond the position table, any id
    padded = backbone.apply(backbone.params, wide, np.pad(mask, ((0, 1), (0, 40))))
    np.testing.assert_allclose(padded.words[:-1, :24], short.words, atol=1e-5)
    np.testing.assert_allclose(padded.sentence[:-1], short.sentence, atol=1e-5)
    assert np.isfinite(padded.sentence).all() and not padded.mask[-1].any() and not padded.words[:, 24:].any()


def test_cls_pooling_of_a_sentence_transformers_folder(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    _change(folder, "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    backbone = text_backbone("bert", folder)
    with np.load(folder / "outputs.npz") as golden:
        output = backbone.apply(backbone.params, golden["ids"], golden["mask"])
        first = golden["states"][:, 0]
    np.testing.assert_allclose(output.sentence, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("written", "pool"),
    [("cls", "cls"), (["mean"], "mean"), ("lasttoken", "lasttoken"), ("max", None), (["cls", "mean"], None), (3, None)],
)
def test_pooling_as_sentence_transformers_6_writes_it(folder: Path, written: object, pool: str | None) -> None:
    (folder / "1_Pooling").mkdir()
    _change(folder, "1_Pooling/config.json", embedding_dimension=16, pooling_mode=written, include_prompt=True)
    if pool:
        assert bert.read_shape(folder).pool == pool
        return
    with pytest.raises(
        UserError, match=r"1_Pooling/config\.json pools by (max|cls and mean|3), which is not supported"
    ):
        bert.read_shape(folder)


def test_names_of_old_files_and_of_models_with_a_head(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    renamed = {f"bert.{n}".replace("LayerNorm.weight", "LayerNorm.gamma"): a for n, a in arrays.items()}
    renamed = {n.replace("LayerNorm.bias", "LayerNorm.beta"): a for n, a in renamed.items()}
    head = {"cls.predictions.bias": np.zeros(50, np.float32), "bert.embeddings.position_ids": np.arange(24)[None]}
    save_file(renamed | head, folder / "model.safetensors")
    expected = text_backbone("bert", GOLDEN / "bert").params
    jax.tree.map(np.testing.assert_array_equal, text_backbone("bert", folder).params, expected)


def test_weights_in_several_files_and_in_half_precision(folder: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in load_file(folder / "model.safetensors").items()}
    names = sorted(arrays)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: arrays[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    _change(folder, hub_folder.INDEX, weight_map={name: file for file, part in parts.items() for name in part})
    params = text_backbone("bert", folder).params
    expected = text_backbone("bert", GOLDEN / "bert").params
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-3), params, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "t5"}, "model_type='t5' is not one of bert"),
        ({"model_type": "qwen3"}, "model_type='qwen3' is not one of bert, .*; config.text.backbone='qwen3' reads it"),
        ({"model_type": "gemma3_text"}, "; config.text.backbone='transformers' runs it, frozen"),
        ({"model_type": "dinov2"}, "model_type='dinov2' is not one of bert, .*; use such a model"),
        ({"model_type": "mine"}, "model_type='mine' is not one of bert, .*; use such a model"),
        ({"hidden_act": "mish"}, "hidden_act='mish'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 3}, "not divisible by num_attention_heads=3"),
        ({"vocab_size": None}, r"word_embeddings.weight has shape \(50, 16\) instead of \(30522, 16\)"),
        ({"vocab_size": 51}, r"embeddings.word_embeddings.weight has shape \(50, 16\) instead of \(51, 16\)"),
        (
            {"num_hidden_layers": 4},
            "encoder.layer.3.attention.self.query.weight is missing",
        ),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, entries: dict, message: str) -> None:
    _change(folder, **entries)
    with pytest.raises(UserError, match=message):
        text_backbone("bert", folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("num_attention_heads", 65),
        ("hidden_size", "384"),
        ("hidden_size", 384.0),
        ("hidden_size", 10**7),
        ("hidden_act", ["gelu"]),
        ("model_type", {"bert": 1}),
        ("layer_norm_eps", "x"),
        ("layer_norm_eps", [1]),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", float("inf")),
        ("layer_norm_eps", 10**400),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", True),
        ("max_position_embeddings", 0),
        ("type_vocab_size", 0),
        ("type_vocab_size", True),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 10**9),
        ("vocab_size", 10**8),
        ("intermediate_size", [[[[[[[[1]]]]]]]]),
    ],
)
def test_an_invalid_entry_is_named_before_anything_is_built(folder: Path, name: str, value: object) -> None:
    _change(folder, **{name: value})
    with pytest.raises(UserError, match=rf"config.json: {name}=.* is not (a|one of) .*; ") as caught:
        bert.read_shape(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [-1, 25, "1", 1.0])
def test_the_padding_of_the_roberta_family_leaves_a_position(tmp_path: Path, value: object) -> None:
    folder = Path(shutil.copytree(GOLDEN / "xlm-roberta", tmp_path / "model"))
    _change(folder, pad_token_id=value)
    with pytest.raises(UserError, match="config.json: pad_token_id=.* is not a whole number from 0 to 24; "):
        bert.read_shape(folder)
    _change(folder, pad_token_id=24)
    assert bert.read_shape(folder).max_tokens == 1


def test_deeply_nested_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="config.json cannot be read .*; get a fresh copy"):
        bert.read_shape(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        [],
        {},
        ["a.safetensors"],
        {"x": 1},
        {"x": ["a.safetensors"]},
        {"x": ""},
        {"x": ".."},
        {"x": "../a.safetensors"},
        {"x": "/a.safetensors"},
        {"x": "sub/a.safetensors"},
        {"x": "a\0.safetensors"},
        {"x": "\ud800.safetensors"},
        {"x": "a" * 300},
    ],
)
def test_an_index_names_files_of_the_folder_only(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").rename(folder.parent / "a.safetensors")
    _change(folder, hub_folder.INDEX, weight_map=weight_map)
    for read in (lambda: text_backbone("bert", folder), lambda: fingerprint("text", "bert", folder)):
        with pytest.raises(UserError, match=rf"{hub_folder.INDEX}: weight_map.*; get a fresh copy") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named_with_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    _change(folder, hub_folder.INDEX, weight_map={"x": "a.safetensors", "y": "b.safetensors"})
    for read in (lambda: text_backbone("bert", folder), lambda: fingerprint("text", "bert", folder)):
        with pytest.raises(UserError, match="names 'b.safetensors', which is missing; put it there, or get"):
            read()


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, np.float32, "holds nan among its values; get a fresh copy"),
        (-np.inf, np.float16, "holds -inf among its values; get a fresh copy"),
        (1, np.int8, "holds int8, not floats; get a copy that is not quantised"),
        (1, np.int64, "holds int.*, not floats"),
        (1, bool, "holds bool, not floats"),
        (1, np.complex64, "holds complex64, not floats"),
    ],
)
def test_weights_other_than_finite_floats_are_named(folder: Path, value: float, dtype: type, message: str) -> None:
    stored = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    array = stored[name].astype(dtype)
    array[3, 2] = value
    save_file(stored | {name: array}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"tensor {name} {message}"):
        text_backbone("bert", folder)


def test_unused_tensors_are_not_checked(folder: Path) -> None:
    unused = {"pooler.dense.bias": np.full(16, np.nan, np.float32), "bert.cls.seq": np.zeros(2, np.int64)}
    save_file(load_file(folder / "model.safetensors") | unused, folder / "model.safetensors")
    assert text_backbone("bert", folder).dim == 16


def test_every_wrong_tensor_is_named(folder: Path) -> None:
    good = load_file(folder / "model.safetensors")
    absent = ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias")
    changed = {name: array for name, array in good.items() if name not in absent}
    save_file(changed | {"adapter.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        text_backbone("bert", folder)
    for part in (*(f"{name} is missing" for name in absent), "adapter.weight is not known to the model"):
        assert part in str(caught.value)
    save_file(good | {"embeddings.LayerNorm.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"embeddings.LayerNorm.bias has shape \(3,\) instead of \(16,\)"):
        text_backbone("bert", folder)


@pytest.mark.parametrize(
    ("name", "twice"),
    [
        ("embeddings.word_embeddings.weight", "roberta.embeddings.word_embeddings.weight"),
        ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"),
    ],
)
def test_a_duplicate_tensor_is_refused(folder: Path, name: str, twice: str) -> None:
    good = load_file(folder / "model.safetensors")
    save_file(good | {twice: np.zeros_like(good[name])}, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        text_backbone("bert", folder)
    assert all(part in str(caught.value) for part in (name, twice, "are one tensor of the model"))


def test_tensors_are_named_as_the_file_names_them(folder: Path) -> None:
    good = {f"bert.{name}": array for name, array in load_file(folder / "model.safetensors").items()}
    save_file(good | {"bert.adapter": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r": bert\.adapter is not known to the model"):
        text_backbone("bert", folder)
    save_file(good | {"bert.embeddings.LayerNorm.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"bert\.embeddings\.LayerNorm\.bias has shape \(3,\) instead of \(16,\)"):
        text_backbone("bert", folder)


def test_every_layer_of_a_wrong_shape_is_named(folder: Path) -> None:
    good = load_file(folder / "model.safetensors")
    one, all_of_them = "encoder.layer.1.intermediate.dense.weight", "attention.self.query.bias"
    changed = {name: np.zeros(3, np.float32) if all_of_them in name else array for name, array in good.items()}
    save_file(changed | {one: np.zeros((5, 16), np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        text_backbone("bert", folder)
    rows = len(good[one])
    assert f"{one} has shape (5, 16) instead of ({rows}, 16)" in str(caught.value)
    for number in range(3):
        assert f"encoder.layer.{number}.{all_of_them} has shape (3,) instead of (16,)" in str(caught.value)
    assert "\n" not in str(caught.value) and "layer.0.intermediate" not in str(caught.value)


def test_missing_or_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    def fails(message: str, path: object = folder) -> None:
        with pytest.raises(UserError, match=message):
            text_backbone("bert", path)

    fails("config.text.path='' is empty", "")
    fails("is not a folder", tmp_path / "none" / "at" / "all")
    fails("is not a folder", folder / "config.json")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    fails("not a readable safetensors file")
    (folder / "model.safetensors").unlink()
    fails("has no model.safetensors; save")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    fails("pytorch_model.bin is a pickle, which can run any program, and is not read")
    (folder / "config.json").write_text("{")
    fails("config.json cannot be read")
    (folder / "config.json").write_text("[]")
    fails("must be a JSON object")


@pytest.mark.parametrize("pooling", [{"pooling_mode_max_tokens": True}, {}])
def test_other_poolings_are_refused(folder: Path, pooling: dict) -> None:
    (folder / "1_Pooling").mkdir()
    _change(folder, "1_Pooling/config.json", **pooling)
    with pytest.raises(UserError, match=r"pools by .*, which is not supported; mean, cls and lasttoken are"):
        text_backbone("bert", folder)
    (folder / "2_Dense").mkdir()
    with pytest.raises(UserError, match="2_Dense"):
        text_backbone("bert", folder)


def test_the_fingerprint_follows_weights_and_tokenizer(folder: Path) -> None:
    first = fingerprint("text", "bert", folder)
    assert first == fingerprint("text", "bert", GOLDEN / "bert")
    (folder / "checksums.json").write_text("{}")  # of a bundle that was opened
    assert first == fingerprint("text", "bert", folder)
    _change(folder, "tokenizer.json", changed=1)
    second = fingerprint("text", "bert", folder)
    (folder / "model.safetensors").write_bytes(b"other")
    assert len({first, second, fingerprint("text", "bert", folder)}) == 3


def test_a_hub_id_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options["revision"]))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub_folder.locate("someone/some-bert@v1", field="f") == folder
    assert hub_folder.locate("someone/some-bert", field="f") == folder
    assert asked == [("someone/some-bert", "v1"), ("someone/some-bert", None)]

    def fail(name: str, **_: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"someone/some-bert.* its download failed \(no route\); check the name"):
        hub_folder.locate("someone/some-bert", field="f")


def test_more_tokens_than_positions_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="config.text.max_tokens=25 is more than the 24"):
        TextEncoder(text_backbone("bert", folder), max_tokens=25)


def test_gradients_reach_every_layer() -> None:
    backbone = text_backbone("bert", GOLDEN / "bert")
    with np.load(GOLDEN / "bert" / "outputs.npz") as golden:
        ids, mask = golden["ids"], golden["mask"]
    gradients = jax.grad(lambda params: backbone.apply(params, ids, mask).words.sum())(backbone.params)
    assert all(np.abs(layer).max() > 0 for layer in gradients["layers"]["up"]["kernel"])
    assert bert.read_shape(GOLDEN / "bert").layers == 3


def test_real_weights_equal_sentence_transformers(minilm: Path) -> None:
    backbone = text_backbone("bert", minilm)
    sentences, words, _ = TextEncoder(backbone, max_tokens=256)(SENTENCES)
    with np.load(GOLDEN / "minilm.npz") as golden:
        np.testing.assert_allclose(sentences, golden["vectors"], atol=1e-5)
    assert words.values.shape[1] == 384 and np.diff(words.offsets).tolist()[1] == 2
