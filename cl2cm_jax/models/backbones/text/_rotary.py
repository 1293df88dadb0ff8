"""What the model folders of `layers.rotary` share: their tensors by name, read and written."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import check_divisible
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers.rotary import RotaryShape, apply, init, tunable
from cl2cm_jax.models.pretrained import assign, shapes_of
from cl2cm_jax.models.text_folder import FolderSpec, FolderText, tokenizer_of

_MODEL, _LAYERS = "model.", "layers."  # the first is before the names of a model with a head


class Names(NamedTuple):
    """Names of a family's tensors.

    Attributes:
      once: our name -> torch's, outside the layers; of biases too, which not every model has.
      layer: the same of one layer.
      heads: beginnings of the names of heads for other tasks.
      absent: tensors that our layers have and the family has not.
    """

    once: Mapping[str, str]
    layer: Mapping[str, str]
    heads: Sequence[str]
    absent: Sequence[str] = ()

    def known(self, shapes: Mapping[str, object]) -> tuple[dict[str, str], dict[str, str]]:
        """`once` and `layer` without what a model with these parameters has not."""
        layer = {ours: name for ours, name in self.layer.items() if f"layers/{ours}" in shapes}
        return {ours: name for ours, name in self.once.items() if ours in shapes}, layer


@dataclass(frozen=True, kw_only=True)
class RotaryText(FolderText[RotaryShape]):
    """A model with its weights."""

    names: ClassVar[Names]

    def stored(self) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(array) for name, array in flatten_dict(self.params, sep="/").items()}
        once, layer = self.names.known(arrays)
        tensors = hub_folder.unarranged(arrays, once=once, layer=layer, prefix=_LAYERS, unrelay=hub_folder.relaid)
        return {name: tensor for name, tensor in tensors.items() if name not in self.names.absent}


class RotarySpec(FolderSpec[RotaryShape]):
    """A family of such models."""

    text: ClassVar[type[RotaryText]]

    def read_params(self, folder: Path, shape: RotaryShape) -> Params:
        names = self.text.names
        heads = tuple(f"{prefix}{name}" for prefix in ("", _MODEL) for name in names.heads)
        found = hub_folder.read_tensors(folder, leave_out=heads)
        tensors, named = hub_folder.renamed(found, lambda name: name.removeprefix(_MODEL), source=folder)
        abstract = self.abstract_of(shape, folder).params
        once, layer = names.known(shapes_of(abstract))
        unused = {name: np.ones(shape.hidden, np.float32) for name in names.absent}
        arrays = hub_folder.arranged(
            tensors
            | {name: ones for name, ones in unused.items() if name.removeprefix(f"{_LAYERS}0.") in layer.values()},
            once=once,
            layer=layer,
            prefix=_LAYERS,
            shapes=shapes_of(abstract),
            source=folder,
            named=named,
        )
        return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))

    def resized(self, shape: RotaryShape, sizes: Mapping[str, int]) -> RotaryShape:
        shape = shape._replace(**sizes)
        check_divisible(shape, "heads", "key_heads")
        return shape

    def abstract_of(self, shape: RotaryShape, source: Path) -> RotaryText:
        return self.text(
            dim=shape.hidden,
            params=jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0)),
            apply=functools.partial(apply, shape=shape),
            tokenizer=tokenizer_of(source, shape.vocabulary, marks=shape.marks),
            max_tokens=shape.max_tokens,
            marks=shape.marks,
            tunable=tunable(shape),
            shape=shape,
            source=source,
        )
