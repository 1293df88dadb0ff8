"""A table of the parameters: path, shape, dtype, number, bytes and how each is split over the mesh."""

from __future__ import annotations

import math
from typing import Any

import jax

from cl2cm_jax.parallel.sharding import path_name

_HEADER = ("path", "shape", "dtype", "parameters", "bytes", "sharding")
_RIGHT_ALIGNED = (3, 4)


def overview(params: Any) -> str:
    """The table as text, one line per array (or `jax.ShapeDtypeStruct`), totals last.

    Example:
        >>> print(overview({"text": {"kernel": jnp.ones((4, 6))}}))
        path         shape   dtype    parameters  bytes  sharding
        text/kernel  (4, 6)  float32          24     96  replicated
        total                                 24     96
    """
    rows: list[tuple[str, ...]] = [_HEADER]
    numbers = sizes = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        number = math.prod(leaf.shape)
        size = number * leaf.dtype.itemsize
        numbers, sizes = numbers + number, sizes + size
        shape = str(tuple(leaf.shape))
        rows.append((path_name(path), shape, str(leaf.dtype), f"{number:,}", f"{size:,}", _sharding(leaf)))
    rows.append(("total", "", "", f"{numbers:,}", f"{sizes:,}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [cell.rjust(width) if i in _RIGHT_ALIGNED else cell.ljust(width) for i, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def _sharding(leaf: Any) -> str:
    spec = getattr(getattr(leaf, "sharding", None), "spec", ())
    if not any(spec):
        return "replicated"
    return " x ".join("+".join(axes) if isinstance(axes, tuple) else axes or "whole" for axes in spec)
