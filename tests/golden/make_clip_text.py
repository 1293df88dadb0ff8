"""Makes dual_clip/, dual_siglip/, open_clip/ and open_clip_xlm/: small random dual encoders, with what they say.

How the committed files were made, in an environment of its own (the tests need no torch):

    pip install torch==2.13.0 transformers==5.24.0 open_clip_torch==3.3.0
    python tests/golden/make_clip_text.py

The first two are folders of transformers, the others of OpenCLIP: with a text tower of its own and with XLM-R inside.
Each holds the configuration, the weights, a tokenizer, and outputs.npz with
  ids, mask: (n, L) int32 and bool, of the `TEXTS`, by the reference's own tokenizer, padded as the model reads them.
  states: (n, L, d) float32, the reference's last hidden state (none of OpenCLIP's own tower).
  sentence: (n, p) float32, the reference's embedding of a text, not normalised.
  images: (2, 24, 24, 3) float32, random; pooled: (2, p) float32, the reference's embedding of an image.
  picture: (41, 31, 3) uint8; prepared: (24, 24, 3) float32, what the model's own preprocessing makes of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TEXTS = ("A cat, and a DOG!", "", "zwei   hunde", "dog " * 30)
_WORDS = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "\u2581a",
    "\u2581cat",
    "\u2581dog",
    "\u2581",
    *"abcdefghijklmnopqrstuvwxyz,!",
]
_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


def clip_tokenizer(transformers: Any) -> Any:
    """CLIP's own, of a few pieces."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)


def siglip_tokenizer(transformers: Any) -> Any:
    """SigLIP 2's own, of a few pieces."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["\u2581", *"abcdefghijklmnopqrstuvwxyz,!", "ca", "cat"]
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = {piece: i for i, piece in enumerate([*marks, *pieces])}
    options = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "model_max_length": 12}
    merges = [("c", "a"), ("ca", "t")]
    return transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges, model_input_names=["input_ids"], **options)


def xlm_tokenizer(transformers: Any) -> Any:
    """XLM-R's own, of a few pieces."""
    vocabulary = [(word, -i / 7) for i, word in enumerate([*_WORDS, "<mask>"])]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary, model_max_length=12)


def fill(model: Any) -> Any:
    """The model with random parameters, to notice all mistakes."""
    import torch

    torch.manual_seed(0)
    for parameter in model.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs() -> dict[str, np.ndarray]:
    """Images and a picture."""
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 24, 24, 3)).astype(np.float32)
    return {"images": images, "picture": random.integers(0, 256, (41, 31, 3)).astype(np.uint8)}


def make_transformers(name: str) -> None:
    """Writes a folder of transformers with both towers."""
    import torch
    import transformers

    given, vision = inputs(), _SIZES | {"image_size": 24, "patch_size": 8}
    crop = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    if name == "dual_clip":
        tokenizer = clip_tokenizer(transformers)
        text = _SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "hidden_act": "quick_gelu"}
        text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "hidden_size": 20}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
        model, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(**crop)
    else:
        tokenizer = siglip_tokenizer(transformers)
        text = _SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "projection_size": 16}
        text |= {"bos_token_id": 2, "eos_token_id": 1, "hidden_size": 20}
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessorPil(size={"height": 24, "width": 24})
    for part in (fill(model), tokenizer, processor):
        part.save_pretrained(HERE / name)
    rows = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        output = model.get_text_features(**rows)
        pooled = model.get_image_features(torch.tensor(given["images"].transpose(0, 3, 1, 2))).pooler_output
    ids = rows["input_ids"].numpy()
    mask = ids != tokenizer.pad_token_id if name == "dual_siglip" else rows["attention_mask"].numpy().astype(bool)
    prepared = processor(given["picture"], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    states = {"states": output.last_hidden_state.numpy()}
    write(name, given, ids, mask, output.pooler_output, pooled, prepared, **states)


def make_open_clip(name: str) -> None:
    """Writes a folder of OpenCLIP with both towers."""
    import open_clip
    import torch
    import transformers
    from PIL import Image
    from safetensors.torch import save_file

    given, folder = inputs(), HERE / name
    folder.mkdir()
    vision = {"image_size": 24, "patch_size": 8, "width": 16, "layers": 2, "head_width": 4, "mlp_ratio": 2.0}
    text: dict[str, Any] = {"context_length": 12}
    if name == "open_clip":
        tokenizer = clip_tokenizer(transformers)
        text |= {"vocab_size": len(tokenizer), "width": 20, "heads": 4, "layers": 2, "mlp_ratio": 1.5}
        kind = open_clip.model.CLIP
    else:
        tokenizer = xlm_tokenizer(transformers)
        positions = {"max_position_embeddings": 14, "pad_token_id": 1, "type_vocab_size": 1}
        transformers.XLMRobertaConfig(vocab_size=len(tokenizer), **_SIZES, **positions).save_pretrained(folder)
        text |= {"hf_model_name": str(folder), "hf_tokenizer_name": "xlm-roberta-base", "hf_model_pretrained": False}
        kind = open_clip.model.CustomTextCLIP
    content = {"embed_dim": 10, "quick_gelu": name == "open_clip", "vision_cfg": vision, "text_cfg": text}
    model = fill(kind(**content))
    if "hf_model_name" in text:
        text["hf_model_name"] = "tiny-xlm-roberta"
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
    preprocess |= {"resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": content, "preprocess_cfg": preprocess}, indent=2) + "\n"
    )
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    if name == "open_clip":  # OpenCLIP's own tokenizer pads with 0, and its ids are those of transformers
        rows = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=12, return_tensors="np")
        ids, mask = np.where(rows["attention_mask"], rows["input_ids"], 0), rows["attention_mask"].astype(bool)
    else:
        ids = open_clip.tokenizer.HFTokenizer(str(folder), context_length=12)(list(TEXTS)).numpy()
        mask = ids != 1
    prepare = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=24, **preprocess), is_train=False
    )
    with torch.no_grad():
        sentence = model.encode_text(torch.tensor(ids.astype(np.int64)))
        pooled = model.encode_image(torch.tensor(given["images"].transpose(0, 3, 1, 2)))
        prepared = prepare(Image.fromarray(given["picture"])).numpy().transpose(1, 2, 0)
    write(name, given, ids, mask, sentence, pooled, prepared)


def write(
    name: str, given: dict[str, Any], ids: Any, mask: Any, sentence: Any, pooled: Any, prepared: Any, **more: Any
) -> None:
    """Writes outputs.npz."""
    outputs = {"ids": ids.astype(np.int32), "mask": mask, "sentence": sentence.numpy(), "pooled": pooled.numpy()}
    np.savez_compressed(HERE / name / "outputs.npz", **given, **outputs, prepared=prepared.astype(np.float32), **more)


def main() -> None:
    """Runs the reference models and writes the golden files beside this script."""
    for name in ("dual_clip", "dual_siglip", "open_clip", "open_clip_xlm"):
        shutil.rmtree(HERE / name, ignore_errors=True)
        (make_transformers if name.startswith("dual") else make_open_clip)(name)


if __name__ == "__main__":
    main()
