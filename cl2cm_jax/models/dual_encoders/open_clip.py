"""Folders of OpenCLIP: open_clip_config.json and safetensors, read as transformers would write the towers.

What transformers cannot express is refused by its name: other networks than plain transformers, and their variants.

Source: open_clip 3.3.0 (entries and their defaults, names of tensors).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_PIXELS, MAX_VOCABULARY, Entries
from cl2cm_jax.models.dual_encoders.open_clip_tensors import plain_tensors
from cl2cm_jax.models.preprocess import EVEN_MARGIN

CONFIG = "open_clip_config.json"
_IN_CONFIG = re.compile(r"(clip|siglip2?|metaclip_2)(_(text|vision)_model)?")  # model_type of such a folder
_MODEL = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias")
_MODEL_FREE = ("nonscalar_logit_scale", "cast_dtype", "output_dict")
# Entries of a tower that do not change its outputs, and those that are supported with one value, their default.
_FREE = ("patch_dropout", "output_tokens", "pos_embed_type", "attn_pooler_queries", "attn_pooler_heads")
_FIXED: Mapping[str, Any] = {
    **{"ls_init_value": None, "attentional_pool": False, "no_ln_pre": False, "block_type": None, "qk_norm": False},
    **{"scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False, "scale_attn": False},
    **{"scale_fc": False, "embed_cls": False, "timm_model_name": None, "tokenizer_mode": None},
}
_SIZES = ("layers", "width", "heads", "head_width", "mlp_ratio", "act_kwargs", "norm_kwargs")
_VISION = ("patch_size", "image_size", "pool_type", "final_ln_after_pool", "timm_model_pretrained")
_TEXT = (
    *("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id", "pool_type"),
    *("no_causal_mask", "final_ln_after_pool", "proj_bias", "proj_type"),
)
_HF = ("hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")
# SigLIP's image towers in OpenCLIP are timm's: width, layers, heads, MLP
_TIMM = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)")
_TIMM_SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_TANH = re.compile(r"vit_(base_patch32|large_patch16_siglip_512|so400m_patch16|giantopt)")  # others: the exact GELU
Side = Literal["text", "vision"]


class HfTower(NamedTuple):
    """A text tower with a network of transformers in it.

    Attributes:
      name: of the network, on the hub or on disk.
      pooler: "mean", "cls" (the first state), or "cls_pooler" (the first state through the network's own pooler).
      projection: "linear", "mlp", or "" for none.
      size: of the sentence vector.
      context: longest text in tokens, begin and end included.
    """

    name: str
    pooler: Literal["mean", "cls", "cls_pooler"]
    projection: Literal["linear", "mlp", ""]
    size: int
    context: int


class TextInput(NamedTuple):
    """How OpenCLIP turns a text into ids.

    Attributes:
      clean: what is done before the tokenizer: "lower", "whitespace" or "canonicalize".
      context: longest text in tokens.
    """

    clean: Literal["lower", "whitespace", "canonicalize"]
    context: int


def is_open_clip(folder: Path) -> bool:
    """Whether the folder is in OpenCLIP's naming alone; one in both is read in that of transformers."""
    if not (folder / CONFIG).is_file():
        return False
    if not (folder / hub_folder.CONFIG).is_file():
        return True
    named = hub_folder.read_json(folder).get("model_type")
    return not isinstance(named, str) or _IN_CONFIG.fullmatch(named) is None


def content_of(folder: Path, side: Side) -> dict[str, Any]:
    """The configuration of a tower, as transformers writes it.

    Raises:
      UserError: it is a variant that is not supported, or an entry is missing or invalid; names the entry.
    """
    model = _model(folder)
    tower = _tower(model, side)
    embed = model.whole("embed_dim")
    quick = model.flag("quick_gelu", default=False)
    if side == "text":
        return _text(tower, quick=quick, embed=embed)
    return _timm(tower) if tower.has("timm_model_name") else _vision(tower, quick=quick, embed=embed)


def read_tensors(folder: Path, side: Side) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a tower by the names of transformers, and a map from these to the file's names.

    Raises:
      UserError: there are no safetensors, or a file is damaged.
    """
    wanted = {"only": ("visual.",)} if side == "vision" else {"leave_out": ("visual.", "logit_")}
    found = hub_folder.read_tensors(folder, **wanted)
    return plain_tensors(found, side=side)


def hf_tower(folder: Path) -> HfTower | None:
    """The text tower that has a network of transformers in it; None of another one, or of another folder.

    Raises:
      UserError: an entry is invalid, or its value is not supported; names it.
    """
    if not is_open_clip(folder):
        return None
    model = _model(folder)
    text = model.part("text_cfg")
    if not text.has("hf_model_name"):
        return None
    _check_known(text, (*_HF, *_TEXT, *_SIZES), what="text_cfg")
    poolers = {"mean_pooler": "mean", "cls_pooler": "cls_pooler", "cls_last_hidden_state_pooler": "cls"}
    pooler: Any = poolers[text.one_of("hf_pooler_type", poolers, default="mean_pooler")]
    projection: Any = ""  # null: none
    if text.content.get("hf_proj_type", "mlp") is not None:
        projection = text.one_of("hf_proj_type", ("linear", "mlp"), default="mlp")
    name = text.content["hf_model_name"]
    if not isinstance(name, str):
        raise _refused(folder, "text_cfg.hf_model_name", name, "is not the name of a model; correct it")
    return HfTower(name, pooler, projection, model.whole("embed_dim"), _context(text))


def text_input(folder: Path) -> TextInput | None:
    """How the folder's texts become ids; None of a folder of transformers.

    Raises:
      UserError: an option of the tokenizer is not supported; names it.
    """
    if not is_open_clip(folder):
        return None
    text = _model(folder).part("text_cfg")
    options = text.part("tokenizer_kwargs")
    by_name = text.has("hf_tokenizer_name")
    if unknown := sorted(set(options.content) - {"clean"}):
        raise _refused(folder, f"text_cfg.tokenizer_kwargs.{unknown[0]}", options.content[unknown[0]])
    clean: Any = options.one_of(
        "clean", ("lower", "whitespace", "canonicalize"), default="whitespace" if by_name else "lower"
    )
    return TextInput(clean, _context(text))


def preprocessor(folder: Path, *, image_size: int) -> dict[str, Any]:
    """The preprocessing of images, as transformers writes it in preprocessor_config.json.

    Raises:
      UserError: an entry is invalid, or its value is not supported; names it.
    """
    p = _entries(folder).part("preprocess_cfg")
    p.one_of("mode", ("RGB",), default="RGB")
    resize = p.one_of("resize_mode", ("shortest", "squash"), default="shortest", otherwise="use another model")
    filters = {"bicubic": 3, "bilinear": 2, "random": 3}  # Pillow's numbers; "random" is of training
    square = {"height": image_size, "width": image_size}
    sizes = {"size": square, "do_center_crop": False}
    if resize == "shortest":
        sizes = {"size": {"shortest_edge": image_size}, "crop_size": square, "do_center_crop": True, EVEN_MARGIN: True}
    return {
        **sizes,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": p.content.get("mean") or [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": p.content.get("std") or [0.26862954, 0.26130258, 0.27577711],
        "resample": filters[p.one_of("interpolation", filters, default="bicubic")],
        "rescale_factor": 1 / 255,
    }


def _entries(folder: Path) -> Entries:
    content = hub_folder.read_json(folder, CONFIG)
    return Entries(content=content, folder=folder, missing="; get a fresh copy", file=CONFIG)


def _model(folder: Path) -> Entries:
    model = _entries(folder).within("model_cfg")
    if model.has("multimodal_cfg"):
        raise UserError(f"model folder {folder}: {CONFIG}: multimodal_cfg: CoCa is not supported; use a CLIP or SigLIP")
    _check_known(model, (*_MODEL, *_MODEL_FREE), what="model_cfg")
    return model


def _tower(model: Entries, side: Side) -> Entries:
    """The entries of a tower; raises UserError if it is of a network or variant that is not supported."""
    name = f"{side}_cfg"
    tower = model.part(name)
    layers = tower.content.get("layers")
    if side == "vision" and isinstance(layers, list):
        raise _refused(model.folder, f"{name}.layers", layers, "is a ModifiedResNet, which is not supported; use a ViT")
    timm = tower.content.get("timm_model_name")
    if timm is not None and not (isinstance(timm, str) and _TIMM.fullmatch(timm)):
        kind = "an EVA network" if isinstance(timm, str) and timm.startswith("eva") else "a network of timm"
        why = f"is {kind}, which is not supported; use a ViT of OpenCLIP's own, or SigLIP"
        raise _refused(model.folder, f"{name}.timm_model_name", timm, why)
    known = {"vision": _VISION, "text": _TEXT}[side]
    if timm is not None:
        known = (*known, "timm_model_name", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path")
    fixed = {key: value for key, value in _FIXED.items() if key not in known}
    _check_known(tower, (*known, *_SIZES, *_FREE, *fixed), what=name)
    for key, value in fixed.items():
        if tower.content.get(key, value) not in (value, None):
            raise _refused(model.folder, f"{name}.{key}", tower.content[key])
    return tower


def _check_known(entries: Entries, known: tuple[str, ...], *, what: str) -> None:
    if unknown := sorted(set(entries.content) - set(known)):
        raise _refused(entries.folder, f"{what}.{unknown[0]}", entries.content[unknown[0]])


def _vision(v: Entries, *, quick: bool, embed: int) -> dict[str, Any]:
    width, head = _whole(v, "width", 768), _whole(v, "head_width", 64)
    v.one_of("pool_type", ("tok",), default="tok", otherwise="use another model")
    return {
        "model_type": "clip_vision_model",
        "image_size": _side(v, "image_size", 224),
        "patch_size": _side(v, "patch_size", 16),
        "projection_dim": embed,
        **_layers(v, width=width, heads=max(1, width // head), quick=quick),
    }


def _timm(v: Entries) -> dict[str, Any]:
    """SigLIP's image tower, of the sizes that its name says."""
    name = v.content["timm_model_name"]
    found = _TIMM.fullmatch(name)
    assert found is not None
    v.one_of("timm_pool", ("map",), default="map", otherwise="use another model")
    v.one_of("timm_proj", ("none", ""), default="", otherwise="use another model")
    hidden, layers, heads, intermediate = _TIMM_SIZES[found[1]]
    return {
        "model_type": "siglip_vision_model",
        "image_size": _side(v, "image_size", int(found[3])),
        "patch_size": int(found[2]),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "hidden_act": "gelu_pytorch_tanh" if _TANH.match(name) else "gelu",
        "layer_norm_eps": 1e-6,
    }


def _text(t: Entries, *, quick: bool, embed: int) -> dict[str, Any]:
    pool = t.one_of("pool_type", ("argmax", "eos", "last"), default="argmax", otherwise="use another model")
    projects = t.one_of("proj_type", ("linear", "none"), default="linear") == "linear"
    bias, whole = t.flag("proj_bias", default=False), t.flag("no_causal_mask", default=False)
    if not whole == (pool == "last") == bias:
        found = f"no_causal_mask={whole}, pool_type={pool!r} and proj_bias={bias} together"
        raise UserError(f"model folder {t.folder}: {CONFIG}: text_cfg: {found} are not supported; use another model")
    width = _whole(t, "width", 512)
    common = {
        "vocab_size": t.whole("vocab_size", maximum=MAX_VOCABULARY, default=49408),
        "max_position_embeddings": _context(t),
        **_layers(t, width=width, heads=_whole(t, "heads", 8), quick=quick),
    }
    if whole and not projects:
        raise _refused(t.folder, "text_cfg.proj_type", "none")
    if whole:
        return common | {
            "model_type": "siglip_text_model",
            "projection_size": embed,
            "pad_token_id": t.whole("pad_id", minimum=0, maximum=MAX_VOCABULARY, default=0),
        }
    # MetaCLIP 2 is a CLIP that ends with the id 2, which stands for the highest id in CLIP's own configuration
    eos = t.whole("eos_id", minimum=0, maximum=MAX_VOCABULARY, default=2) if pool == "eos" else 2
    kind = "metaclip_2_text_model" if pool == "eos" else "clip_text_model"
    projection = {"projection_dim": embed} if projects else {}
    return common | {"model_type": kind, "eos_token_id": eos, **projection}


def _layers(tower: Entries, *, width: int, heads: int, quick: bool) -> dict[str, Any]:
    ratio = tower.positive("mlp_ratio", default=4.0, maximum=1000)
    act, norm = tower.part("act_kwargs"), tower.part("norm_kwargs")
    _check_known(act, ("approximate",), what="act_kwargs")
    _check_known(norm, ("eps",), what="norm_kwargs")
    if quick and act.content:
        raise _refused(tower.folder, "act_kwargs", act.content, "does not go with quick_gelu=true; correct one")
    tanh = act.one_of("approximate", ("tanh", "none"), default="none") == "tanh"
    return {
        "hidden_size": width,
        "num_hidden_layers": _whole(tower, "layers", 12, maximum=MAX_LAYERS),
        "num_attention_heads": heads,
        "intermediate_size": int(width * ratio),
        "hidden_act": "quick_gelu" if quick else "gelu_pytorch_tanh" if tanh else "gelu",
        "layer_norm_eps": norm.epsilon("eps", default=1e-5),
    }


def _context(text: Entries) -> int:
    return _whole(text, "context_length", 77)


def _whole(entries: Entries, name: str, default: int, *, maximum: int = 1_000_000) -> int:
    return entries.whole(name, maximum=maximum, default=default)


def _side(entries: Entries, name: str, default: int) -> int:
    """The side of a square: a number, or a list with the same number twice."""
    value = entries.content.get(name, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        entries = Entries(content={name: value[0]}, folder=entries.folder, missing=entries.missing, file=entries.file)
    return entries.whole(name, maximum=MAX_PIXELS, default=default)


def _refused(folder: Path, name: str, value: object, why: str = "is not supported; use another model") -> UserError:
    return UserError(f"model folder {folder}: {CONFIG}: {name}={reprlib.repr(value)} {why}")
