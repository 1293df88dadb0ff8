"""OpenCLIP's names and layouts of tensors -> those of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

_LAYER = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TIMM_LAYER = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection.weight": "head.weight",  # with a bias, as SigLIP's
    "text_projection.bias": "head.bias",
}
_VISION = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_TIMM = {
    "trunk.patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "trunk.patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "trunk.norm.weight": "post_layernorm.weight",
    "trunk.norm.bias": "post_layernorm.bias",
    "trunk.attn_pool.latent": "head.probe",
    **{
        f"trunk.attn_pool.{timm}.{part}": f"head.{name}.{part}"
        for timm, name in (
            ("proj", "attention.out_proj"),
            ("norm", "layernorm"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        )
        for part in ("weight", "bias")
    },
}
_IN_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)(?:[._](weight|bias))")
_IN_BLOCK = re.compile(r"trunk\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_IN_POOL = re.compile(r"trunk\.attn_pool\.(q|kv)\.(weight|bias)")


def plain_tensors(
    found: Mapping[str, np.ndarray], *, side: Literal["text", "vision"]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors by the names of transformers, and a map from these to the names in the file.

    What is not known keeps its name, so that it is refused where the model is built.
    """
    tensors: dict[str, np.ndarray] = {}
    named: dict[str, str] = {}
    joined = _pool_rows(found)
    for name, array in found.items():
        short = name.removeprefix("visual." if side == "vision" else "text.")
        for new, part in _renamed(short, array, vision=side == "vision", joined=joined):
            tensors[new], named[new] = part, name
    return tensors, named


def _renamed(
    name: str, array: np.ndarray, *, vision: bool, joined: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    if found := _IN_LAYER.fullmatch(name):
        number, part, kind = found.groups()
        yield from _of_layer(name, array, number=number, part=part, kind=kind, joint="attn.in_proj", names=_LAYER)
    elif found := _IN_BLOCK.fullmatch(name):
        number, part, kind = found.groups()
        yield from _of_layer(name, array, number=number, part=part, kind=kind, joint="attn.qkv", names=_TIMM_LAYER)
    elif found := _IN_POOL.fullmatch(name):
        yield f"head.attention.in_proj_{found[2]}", joined.get(found[2], array)
    elif name == "trunk.pos_embed":
        yield "embeddings.position_embedding.weight", array[0] if array.ndim == 3 else array
    elif name == ("proj" if vision else "text_projection"):  # (in, out)
        yield f"{'visual' if vision else 'text'}_projection.weight", array.T
    else:
        yield (_VISION | _TIMM if vision else _TEXT).get(name, name), array


def _of_layer(
    name: str, array: np.ndarray, *, number: str, part: str, kind: str, joint: str, names: Mapping[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """A tensor of a layer; query, key and value of one tensor apart."""
    prefix = f"encoder.layers.{number}."
    if part == joint and array.ndim and len(array) % 3 == 0:
        for one, rows in zip("qkv", np.split(array, 3), strict=True):
            yield f"{prefix}self_attn.{one}_proj.{kind}", rows
    elif part in names:
        yield f"{prefix}{names[part]}.{kind}", array
    else:
        yield name, array


def _pool_rows(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Query, key and value of the attention that pools, in one tensor, by "weight" and "bias"."""
    joined = {}
    for kind in ("weight", "bias"):
        parts = [found.get(f"visual.trunk.attn_pool.{name}.{kind}") for name in ("q", "kv")]
        if all(part is not None and part.ndim for part in parts):
            joined[kind] = np.concatenate([part for part in parts if part is not None])
    return joined
