"""Text towers of CLIP, MetaCLIP 2 and SigLIP, and OpenCLIP's towers, compared with transformers and open_clip.

`make test-peers` installs transformers; what needs open_clip is skipped without it.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cl2cm_jax.models.backbones.text import clip_text
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.dual_encoders.text_tokenizer import DualTokenizer, Texts, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

TEXTS = [
    "a photo of a cat", "A Photo, of TWO dogs!", "", "  leading space", '"quoted" -- dash', "Zwei am Straßenrand.",
    "犬 the dog 🐶 ½ ﬁ", "snake_case & more", "...", "x" * 300, "tab\tand\nnewline", "▁under ▁line", "I'm 12 345",
]  # fmt: skip
IMAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
IMAGE |= {"image_size": 16, "patch_size": 8}


def fill(model: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    for parameter in model.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def random_model(kind: str, seed: int, *, both: bool) -> tuple[Any, dict[str, Any]]:
    """A random model of transformers, and the configuration of its text tower."""
    random = np.random.default_rng(seed)
    heads, vocabulary = int(random.integers(1, 5)), int(random.integers(40, 90))
    text = {
        "hidden_size": heads * 2 * int(random.integers(2, 6)),
        "num_attention_heads": heads,
        "intermediate_size": int(random.integers(5, 50)),
        "num_hidden_layers": int(random.integers(1, 5)),
        "vocab_size": vocabulary,
        "max_position_embeddings": int(random.integers(8, 30)),
        "hidden_act": str(random.choice(["gelu", "quick_gelu", "gelu_pytorch_tanh"])),
        "layer_norm_eps": float(random.choice([1e-5, 1e-6])),
        "bos_token_id": 3,
    }
    size = int(random.integers(3, 20))
    if kind == "Siglip":
        text |= {"projection_size": 16, "pad_token_id": 3, "eos_token_id": 2}
        if both:
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=IMAGE))
        else:
            model = transformers.SiglipTextModel(transformers.SiglipTextConfig(**text))
        return fill(model, seed), text
    text["eos_token_id"] = 2 if kind == "old CLIP" or (kind == "MetaClip2" and seed % 2) else vocabulary - 3
    name = kind.removeprefix("old ")
    if both:
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=IMAGE, projection_dim=size)
        model = getattr(transformers, f"{name}Model")(config)
    else:
        config = getattr(transformers, f"{name}TextConfig")(**text, projection_dim=size)
        model = getattr(transformers, f"{name}TextModelWithProjection")(config)
    return fill(model, seed), text


def random_rows(kind: str, text: dict[str, Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask (6, L) of texts that end with their end token, and more of them with one inside."""
    random = np.random.default_rng(seed)
    length = text["max_position_embeddings"] - 3 * (seed % 2)
    mask = np.arange(length) < random.integers(3, length + 1, (6, 1))
    mask[0] = True
    ids = random.integers(4, text["vocab_size"] - 5, mask.shape)
    end = text["vocab_size"] - 1 if kind == "old CLIP" else text["eos_token_id"]
    ids[np.arange(6), mask.sum(1) - 1] = end
    ids[1, 1] = end if kind != "Siglip" else ids[1, 1]
    return np.where(mask, ids, 3 if kind == "Siglip" else 1).astype(np.int32), mask


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["CLIP", "old CLIP", "MetaClip2", "Siglip"])
def test_values_and_gradients_equal_transformers(kind: str, seed: int, both: bool, tmp_path: Path) -> None:
    model, text = random_model(kind, seed, both=both)
    model.save_pretrained(tmp_path)
    backbone = text_backbone("clip_text", tmp_path)
    assert isinstance(backbone, clip_text.ClipText)
    ids, mask = random_rows(kind, text, seed)
    given = {"input_ids": torch.tensor(ids.astype(np.int64)), "attention_mask": torch.tensor(mask.astype(np.int64))}
    if kind == "Siglip":  # its padding is seen
        whole = np.pad(ids, ((0, 0), (0, text["max_position_embeddings"] - ids.shape[1])), constant_values=3)
        given = {"input_ids": torch.tensor(whole.astype(np.int64))}
    output = model.get_text_features(**given) if both else model(**given)
    sentence = output.pooler_output if both or kind == "Siglip" else output.text_embeds
    weights = np.random.default_rng(seed).normal(size=tuple(sentence.shape)).astype(np.float32)
    (sentence * torch.tensor(weights)).sum().backward()

    @jax.jit
    def run(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            output = backbone.apply(params, ids, mask)
            return (output.sentence * weights).sum(), output

        return jax.grad(loss, has_aux=True)(params)

    gradients, ours = run(backbone.params)
    np.testing.assert_allclose(ours.sentence, sentence.detach().numpy(), atol=1e-5)
    states = output.last_hidden_state.detach().numpy()[:, : ids.shape[1]]
    np.testing.assert_allclose(ours.words, states * mask[..., None], atol=1e-5)
    theirs = {name.removeprefix("text_model."): p.grad for name, p in model.named_parameters()}
    for name, gradient in clip_text.stored(gradients, backbone.shape).items():
        expected = theirs[name.removeprefix("text_model.")].numpy()
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.parametrize("kind", ["CLIP", "MetaClip2", "Siglip"])
def test_what_is_written_is_read_by_transformers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_text.text_tokenizer, "write", lambda *_, **__: None)  # a model without one
    model, text = random_model(kind, 1, both=True)
    model.save_pretrained(tmp_path / "both")
    text_backbone("clip_text", tmp_path / "both").write(tmp_path / "text", max_tokens=8)
    name = json.loads((tmp_path / "text" / "config.json").read_text())["architectures"][0]
    assert name == {"Siglip": "SiglipTextModel"}.get(kind, f"{kind}TextModelWithProjection")
    alone, info = getattr(transformers, name).from_pretrained(tmp_path / "text", output_loading_info=True)
    assert not any(info[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.tensor(random_rows(kind, text, 0)[0].astype(np.int64))
    with torch.no_grad():
        output = alone.eval()(input_ids=ids)
        sentence = output.pooler_output if kind == "Siglip" else output.text_embeds
        torch.testing.assert_close(sentence, model.get_text_features(input_ids=ids).pooler_output)


def ids_of(folder: Path, vocabulary: int, *, pool: Any = "last") -> list[list[int]]:
    marks = (0, 1) if pool == "last" else (1, 1)
    rows = DualTokenizer(texts=Texts(folder, vocabulary, marks, pool, 2), max_tokens=64)(TEXTS)
    return [row[mask].tolist() for row, mask in zip(rows.ids, rows.mask, strict=True)]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity"])
def test_siglips_tokenizer_equals_transformers(rule: str, tmp_path: Path) -> None:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    lines = [line.lower() for line in TEXTS * 40 if line] + [f"word{i} of {i * 7919} lines" for i in range(500)]
    model, options = io.BytesIO(), {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    trainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=300, model_type="unigram",
        normalization_rule_name=rule, hard_vocab_limit=False, character_coverage=0.98, **options,
    )  # fmt: skip
    (tmp_path / "spm.model").write_bytes(model.getvalue())
    theirs = transformers.SiglipTokenizer(str(tmp_path / "spm.model"), model_max_length=64)
    theirs.save_pretrained(tmp_path / "siglip")
    expected = [theirs(text, truncation=True, max_length=64).input_ids for text in TEXTS]
    assert ids_of(tmp_path / "siglip", len(theirs)) == expected
    (tmp_path / "written").mkdir()
    write(tmp_path / "siglip", tmp_path / "written", max_tokens=64, sees_padding=True)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "written")
    assert [again(text, truncation=True, max_length=64).input_ids for text in TEXTS] == expected


@pytest.mark.parametrize("name", ["dual_clip", "dual_siglip", "open_clip", "open_clip_xlm"])
def test_the_written_tokenizer_is_read_by_transformers(name: str, tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "golden" / name
    backbone = text_backbone("clip_text", folder)
    backbone.write(tmp_path, max_tokens=12)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = backbone.tokenizer(max_tokens=12)(TEXTS)
    expected = theirs(TEXTS, padding="max_length", truncation=True, max_length=12)["input_ids"]
    for row, mask, other in zip(rows.ids, rows.mask, expected, strict=True):
        assert row[mask].tolist() == other[: mask.sum()]


OWN = {"context_length": 14, "vocab_size": 60, "width": 24, "heads": 3, "layers": 2}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
HF = {"context_length": 14, "hf_model_pretrained": False}


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (OWN, {"quick_gelu": True}),
        (OWN | {"pool_type": "eos", "eos_id": 2}, {"custom_text": True}),
        (OWN | SIGLIP | {"act_kwargs": {"approximate": "tanh"}}, {"custom_text": True, "init_logit_bias": -10}),
        (HF | {"hf_model_name": "XLMRoberta"}, {}),
        (HF | {"hf_model_name": "Roberta", "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}, {}),
        (HF | {"hf_model_name": "Bert", "hf_pooler_type": "cls_last_hidden_state_pooler", "hf_proj_type": None}, {}),
    ],
)
def test_towers_equal_open_clip(text: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    save_file = pytest.importorskip("safetensors.torch").save_file
    image = {"image_size": 16, "patch_size": 8, "width": 128, "layers": 2, "head_width": 32, "mlp_ratio": 2.5}
    padding = 0
    if family := text.get("hf_model_name"):
        sizes = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
        sizes |= {"intermediate_size": 20, "max_position_embeddings": 24}
        sizes |= {} if family == "Bert" else {"pad_token_id": 1, "type_vocab_size": 1}
        getattr(transformers, f"{family}Config")(**sizes).save_pretrained(tmp_path)
        text, padding = text | {"hf_model_name": str(tmp_path)}, 0 if family == "Bert" else 1
    size = 24 if text.get("hf_proj_type", "") is None else 10
    config = {"embed_dim": size, "vision_cfg": image, "text_cfg": text, **more}
    kind = open_clip.model.CustomTextCLIP if more.get("custom_text") or family else open_clip.model.CLIP
    options = {name: value for name, value in config.items() if name != "custom_text"}
    model = fill(kind(**json.loads(json.dumps(options))), 0)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    tensors = {name: x.contiguous() for name, x in model.state_dict().items()}
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    random, vision = np.random.default_rng(0), vision_backbone("clip_vit", tmp_path)
    images = random.normal(size=(2, 16, 16, 3)).astype(np.float32)
    mask = np.arange(12) < random.integers(3, 13, (4, 1))
    ids = random.integers(5, 58, mask.shape)
    ids[np.arange(4), mask.sum(1) - 1] = text.get("eos_id", 59)
    ids = np.where(mask, ids, padding)
    with torch.no_grad():
        pooled = model.encode_image(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        sentence = model.encode_text(torch.tensor(np.pad(ids, ((0, 0), (0, 2)), constant_values=padding))).numpy()
    np.testing.assert_allclose(jax.jit(vision.apply)(vision.params, images).pooled, pooled, atol=1e-5)
    backbone = text_backbone("clip_text", tmp_path)
    ours = jax.jit(backbone.apply)(backbone.params, ids.astype(np.int32), mask)
    np.testing.assert_allclose(ours.sentence, sentence, atol=1e-5)


def test_siglips_image_tower_equals_timms(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    save_file = pytest.importorskip("safetensors.torch").save_file
    name = "vit_base_patch32_siglip_256"
    model = timm.create_model(name, num_classes=0, global_pool="map").eval()
    config = {"embed_dim": 768, "text_cfg": OWN, "vision_cfg": {"timm_model_name": name, "timm_proj": "none"}}
    config["vision_cfg"] |= {"image_size": 256, "timm_pool": "map"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    tensors = {f"visual.trunk.{name}": x.contiguous() for name, x in model.state_dict().items()}
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    images = np.random.default_rng(0).normal(size=(1, 256, 256, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    vision = vision_backbone("clip_vit", tmp_path)
    np.testing.assert_allclose(jax.jit(vision.apply)(vision.params, images).pooled, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (331, 500), (224, 224), (227, 224)])
def test_preprocessing_equals_open_clip(size: tuple[int, int], tmp_path: Path) -> None:
    transform = pytest.importorskip("open_clip.transform")
    from PIL import Image

    from cl2cm_jax.data.media.images import scaled
    from cl2cm_jax.models.dual_encoders.open_clip import preprocessor
    from cl2cm_jax.models.preprocess import preprocess_of

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    for entries in ({}, {"interpolation": "bilinear", "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": entries}))
        theirs = transform.image_transform_v2(transform.PreprocessCfg(size=64, **entries), is_train=False)
        p = preprocess_of(preprocessor(tmp_path, image_size=64), folder=tmp_path, image_size=64)
        ours = p(scaled(picture, 64, shorter_side=p.shorter_side, filter=p.filter, even=p.even))
        np.testing.assert_allclose(ours, theirs(Image.fromarray(picture)).numpy().transpose(1, 2, 0), atol=1e-5)
