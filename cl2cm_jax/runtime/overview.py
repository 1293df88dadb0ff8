"""A table of the parameters: path, shape, dtype, number, bytes and how each is split over the mesh."""

from __future__ import annotations

import math
from typing import Any

import jax

from cl2cm_jax.parallel.sharding import path_name

_HEADER = ("path", "shape", "dtype", "parameters", "bytes", "sharding")
_RIGHT_ALIGNED = frozenset({"parameters", "bytes"})


def overview(params: Any) -> str:
    """The table as text, one line an array (or `jax.ShapeDtypeStruct`), totals last.

    Example:
        >>> print(overview({"text": {"kernel": jnp.ones((4, 6))}}))
        path         shape   dtype    parameters  bytes  sharding
        text/kernel  (4, 6)  float32          24     96  replicated
        total                                 24     96

    Source: ours.
    """
    rows: list[tuple[str, ...]] = [_HEADER]
    numbers = sizes = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        number = math.prod(leaf.shape)
        size = number * leaf.dtype.itemsize
        numbers, sizes = numbers + number, sizes + size
        shape = str(tuple(leaf.shape))
        rows.append((path_name(path), shape, str(leaf.dtype), f"{number:,}", f"{size:,}", _placement(leaf)))
    rows.append(("total", "", "", f"{numbers:,}", f"{sizes:,}", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (
        cell.rjust(width) if name in _RIGHT_ALIGNED else cell.ljust(width)
        for name, cell, width in zip(_HEADER, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()


def _placement(leaf: Any) -> str:
    spec = getattr(getattr(leaf, "sharding", None), "spec", ())
    if not any(spec):
        return "replicated"
    return " x ".join("+".join(axes) if isinstance(axes, tuple) else axes or "whole" for axes in spec)
