"""Flax NNX modules as pure functions of a plain nested dict of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
from flax import nnx

M = TypeVar("M", bound=nnx.Module)
Params = dict[str, Any]


class Functional(Generic[M]):
    """A module split once into a static graph and a dict of parameters.

    The rest of the package uses `init(key) -> params` and `bind(params) -> module`; the bound module lives only inside
    `jax.jit` or `jax.grad`. No `nnx.jit`, no sharding metadata (docs/architecture.md).
    """

    def __init__(self, make: Callable[[nnx.Rngs], M]):
        self._make = make
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graph, self._abstract = nnx.split(abstract)

    def init(self, key: jax.Array) -> Params:
        """Returns random parameters, a nested dict of fp32 arrays."""
        return nnx.to_pure_dict(nnx.split(self._make(nnx.Rngs(key)))[1])

    def bind(self, params: Params) -> M:
        """Returns the module with these parameters."""
        state = jax.tree.map(lambda leaf: leaf, self._abstract)  # a copy: the next line replaces its leaves
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state)
