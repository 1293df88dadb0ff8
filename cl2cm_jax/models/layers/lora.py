"""Low-rank adapters of a backbone's layers: every linear map W of them becomes W + A B, and A and B alone are trained.

W is frozen: it has no gradient and no optimizer state and is in no checkpoint. A starts at random and B at 0, so the
model starts as it is. The product is added to the stacked weights before the layers run, so a layer of any family
computes as it always does, and a trained model is exported with merged weights.

Source: LoRA (arXiv 2106.09685), without its scale: the learning rate is `optimizer.backbone_rate`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.functional import Params

_LAYERS, _KERNEL = "layers", "kernel"
_A, _B = "lora_a", "lora_b"


def init_adapters(key: jax.Array, pretrained: Params, *, rank: int) -> Params:
    """Adapters of the trained part of a backbone: {"layers": ...} with A (n, in, r) and B (n, r, out) at each kernel.

    Args:
      key: of the values of A.
      pretrained: parameters {"layers": stacked, ...}.
      rank: r.
    """
    adapters = {}
    for place, (name, kernel) in enumerate(sorted(_kernels(pretrained).items())):
        count, features, size = kernel.shape
        values = jax.random.normal(jax.random.fold_in(key, place), (count, features, rank)) / jnp.sqrt(features)
        adapters[f"{name}/{_A}"], adapters[f"{name}/{_B}"] = values, jnp.zeros((count, rank, size))
    return {_LAYERS: unflatten_dict(adapters, sep="/")}


def merged(pretrained: Params, adapters: Params) -> Params:
    """The pretrained parameters with the products of the adapters added; differentiable in the adapters."""
    return {**pretrained, _LAYERS: _added(pretrained[_LAYERS], adapters[_LAYERS])}


def _added(layers: Any, adapters: Params) -> Any:
    if _A in adapters:
        return jax.lax.stop_gradient(layers) + jnp.einsum("nir,nro->nio", adapters[_A], adapters[_B])
    return {name: _added(part, adapters[name]) if name in adapters else part for name, part in layers.items()}


def check_rank(pretrained: Params, rank: int, *, field: str, value: str) -> None:
    """Refuses adapters that have as many parameters as the maps that they adapt; raises UserError."""
    shapes = [kernel.shape for kernel in _kernels(pretrained).values()]
    limit = min((features * size - 1) // (features + size) for _, features, size in shapes)
    if rank > limit:
        raise UserError(
            f"config.{field}={value!r}: adapters of rank {rank} have as many parameters as the layers that they adapt; "
            f"use a rank of at most {limit}, or train the layers themselves, e.g. 'all'"
        )


def _kernels(pretrained: Params) -> dict[str, Any]:
    """The stacked linear maps (n, in, out) of the layers, by name."""
    found = flatten_dict(pretrained[_LAYERS], sep="/")
    return {str(name): leaf for name, leaf in found.items() if str(name).split("/")[-1] == _KERNEL}
