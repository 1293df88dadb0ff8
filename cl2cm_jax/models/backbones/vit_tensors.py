"""How transformers names and lays out the tensors of the image towers of CLIP and SigLIP.

Source: ours.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.pretrained import check_shapes


def once(family: str, *, projects: bool) -> dict[str, str]:
    """Our names -> torch's, of what is there once; `projects`: CLIP's projection of the global vector is there."""
    return (_CLIP if family == "clip" else _SIGLIP) | ({"pool/project/kernel": PROJECTION} if projects else {})


def stored(params: Params, once: Mapping[str, str], *, family: str, patch: int) -> dict[str, np.ndarray]:
    """The tensors of the whole model as torch has them; `once` from the function, `patch` in pixels."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    unrelay = functools.partial(_unrelaid, patch=patch)
    tensors = hub_folder.unarranged(arrays, once=once, layer=LAYER, prefix="encoder.layers.", unrelay=unrelay)
    for part in ("weight", "bias") if family == "siglip" else ():
        parts = [tensors.pop(f"{_HEAD}attention.{name}_proj.{part}") for name in ("q", "k", "v")]
        tensors[f"{_HEAD}attention.in_proj_{part}"] = np.concatenate(parts)
    return {name if name == PROJECTION else f"vision_model.{name}": array for name, array in tensors.items()}


def _unrelaid(ours: str, array: np.ndarray, *, patch: int) -> np.ndarray:
    """The inverse of `relaid`."""
    if ours == "embeddings/project/kernel":
        return array.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    if ours == "pool/probe":
        return array[None]
    return hub_folder.relaid(ours, array)


def relaid(ours: str, array: np.ndarray) -> np.ndarray:
    """From torch's layout: linear (out, in), convolution (out, in, k, k) as a map of patches, probe (1, 1, d)."""
    if ours == "embeddings/project/kernel":
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    if ours == "pool/probe":
        return array[0]
    return hub_folder.relaid(ours, array)


def stored_shape(ours: str, shape: tuple[int, ...], *, patch: int) -> tuple[int, ...]:
    """The shape in torch's layout of what `relaid` gives this one."""
    if ours == "embeddings/project/kernel":
        return shape[1], 3, patch, patch
    return (1, *shape) if ours == "pool/probe" else hub_folder.stored_shape(ours, shape)


def split_attention(stored: dict[str, np.ndarray], *, hidden: int, source: Path) -> dict[str, np.ndarray]:
    """SigLIP's pooling keeps query, key and value in one tensor; here each has its own. Raises UserError."""
    stored, joint = dict(stored), f"{_HEAD}attention.in_proj_"
    check_shapes(stored, {f"{joint}weight": (3 * hidden, hidden), f"{joint}bias": (3 * hidden,)}, source=source)
    for part in ("weight", "bias"):
        joined = stored.pop(f"{joint}{part}", None)
        if joined is not None:
            names = (f"{_HEAD}attention.{name}_proj.{part}" for name in ("q", "k", "v"))
            stored |= dict(zip(names, np.split(joined, 3), strict=True))
    return stored


UNUSED = ("text_model.", "text_projection.", "logit_") + (
    "vision_model.embeddings.position_ids",
    "embeddings.position_ids",
)
_HEAD, POSITIONS, PROJECTION = "head.", "embeddings.position_embedding.weight", "visual_projection.weight"
LAYER = {
    **norm("attention_norm", "layer_norm1"),
    **linear("query", "self_attn.q_proj"),
    **linear("key", "self_attn.k_proj"),
    **linear("value", "self_attn.v_proj"),
    **linear("attended", "self_attn.out_proj"),
    **norm("mlp_norm", "layer_norm2"),
    **linear("mlp/up", "mlp.fc1"),
    **linear("mlp/down", "mlp.fc2"),
}
_CLIP = {
    "embeddings/project/kernel": "embeddings.patch_embedding.weight",
    "embeddings/class_token": "embeddings.class_embedding",
    "embeddings/positions": POSITIONS,
    **norm("embeddings/norm", "pre_layrnorm"),
    **norm("pool/norm", "post_layernorm"),
}
_SIGLIP = {
    **linear("embeddings/project", "embeddings.patch_embedding"),
    "embeddings/positions": POSITIONS,
    **norm("pool/norm", "post_layernorm"),
    "pool/probe": f"{_HEAD}probe",
    **linear("pool/query", f"{_HEAD}attention.q_proj"),
    **linear("pool/key", f"{_HEAD}attention.k_proj"),
    **linear("pool/value", f"{_HEAD}attention.v_proj"),
    **linear("pool/attended", f"{_HEAD}attention.out_proj"),
    **norm("pool/mlp_norm", f"{_HEAD}layernorm"),
    **linear("pool/mlp/up", f"{_HEAD}mlp.fc1"),
    **linear("pool/mlp/down", f"{_HEAD}mlp.fc2"),
}
