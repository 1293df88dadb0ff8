"""Sharding of parameters by rules on their path, and of batches over the mesh."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cl2cm_jax.parallel.mesh import BATCH_AXES

Rule = tuple[str, PartitionSpec]

# First match wins. A spec is of an array's LAST dimensions, so stacked layers and convolutions need no rule of their
# own. Matrices are split over "fsdp" on the input side and over "tensor" on the output side; those that end a block the
# other way round, so that the activations between the two stay split.
DEFAULT_RULES: tuple[Rule, ...] = (
    (r"embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(^|/)(out|output|attended|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"kernel$", PartitionSpec("fsdp", "tensor")),
)


def path_name(path: Sequence[Any]) -> str:
    """A pytree key path as text: "params/student/text/kernel"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def partition_spec(
    path: str, shape: Sequence[int], mesh: Mesh, *, rules: Sequence[Rule] = DEFAULT_RULES
) -> PartitionSpec:
    """The spec of one array: of the first rule whose pattern is found in `path`; replicated without one.

    Axes that do not divide their dimension move to another of the rule's that they divide (of mBERT's odd vocabulary to
    the width), else that dimension is not split. An array with fewer dimensions than its rule (factored optimiser
    moments, scalars) is replicated.
    """
    spec = next((spec for pattern, spec in rules if re.search(pattern, path)), PartitionSpec())
    leading = len(shape) - len(spec)
    if leading < 0:
        return PartitionSpec()
    wanted = [(axes,) if isinstance(axes, str) else tuple(axes or ()) for axes in spec]
    sizes = shape[leading:]

    def divides(axes: tuple[str, ...], size: int) -> bool:
        return size % math.prod(mesh.shape[name] for name in axes) == 0

    fitted: list[tuple[str, ...]] = [
        axes if divides(axes, size) else () for axes, size in zip(wanted, sizes, strict=True)
    ]
    for axes in (axes for axes, kept in zip(wanted, fitted, strict=True) if axes and not kept):
        place = next((n for n, size in enumerate(sizes) if divides((*fitted[n], *axes), size)), None)
        if place is not None:
            fitted[place] = (*fitted[place], *axes)
    if not any(fitted):
        return PartitionSpec()
    return PartitionSpec(*(None,) * leading, *(axes[0] if len(axes) == 1 else axes or None for axes in fitted))


def tree_shardings(tree: Any, mesh: Mesh, *, rules: Sequence[Rule] = DEFAULT_RULES) -> Any:
    """`NamedSharding` for every leaf of `tree` (arrays or shapes).

    Patterns match path endings, so an optimiser's moments and the moving average follow their parameter.
    """

    def place(path: Sequence[Any], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, partition_spec(path_name(path), leaf.shape, mesh, rules=rules))

    return jax.tree_util.tree_map_with_path(place, tree)


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of `tree` without its values, to restore a checkpoint."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension is split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Global arrays of a batch, a pytree of numpy arrays (B, ...), that is the same on every process.

    Each process transfers only the rows of its own devices.
    """
    place = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(place, rows, rows.shape), batch)


class Spread(NamedTuple):
    """How independent rows are spread over this process's devices."""

    rows: int  # of a batch
    whole: Callable[[Any], Any]  # a pytree onto every device
    split: Callable[[Any], Any]  # a pytree of arrays (rows, ...), a part onto each device


def spread(rows: int) -> Spread:
    """Spreads batches of `rows` a device; virtual CPU devices share them, since they share the cores."""
    devices = jax.local_devices()
    each = -(-rows // len(devices)) if devices[0].platform == "cpu" else rows
    mesh = Mesh(np.array(devices), ("rows",))

    def put(spec: PartitionSpec) -> Callable[[Any], Any]:
        return lambda tree: jax.device_put(tree, NamedSharding(mesh, spec))

    return Spread(each * len(devices), whole=put(PartitionSpec()), split=put(PartitionSpec("rows")))
