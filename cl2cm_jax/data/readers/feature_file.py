"""Reads precomputed vision features: a .npy array and a text file with the image id of each row."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from cl2cm_jax.data.readers.text_lines import read_ids
from cl2cm_jax.errors import UserError, one_line

# What numpy's reader raises on headers that are none: it parses them as Python literals.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    SyntaxError,
    TokenError,
    MemoryError,
    RecursionError,
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST_AXIS = 2**48  # bytes that no disk has


@dataclass(frozen=True)
class FeatureFile:
    """Features by image id; the array is memory-mapped."""

    values: np.ndarray  # (n, frames, d), memory-mapped
    row_of: dict[str, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, d)."""
        return self.values.shape[1], self.values.shape[2]

    def row(self, image_id: str) -> np.ndarray:
        """(frames, d) float32."""
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinity, which the checks name
            return np.asarray(self.values[self.row_of[image_id]], np.float32)


def read_feature_file(features: str, feature_ids: str, *, id_of: Callable[[str], str] = str) -> FeatureFile:
    """Maps the array and reads its ids.

    Raises:
      UserError: no .npy of floats of two or three axes, an axis of none, more or fewer bytes than the header says, an
        empty or duplicate id, or not as many ids as rows.
    """
    values = map_floats(features, shape="(n, d) or (n, frames, d)", axes=(2, 3))
    row_of = read_ids(Path(feature_ids), id_of=id_of)
    if len(row_of) != len(values):
        raise UserError(
            f"{feature_ids} has {len(row_of)} ids but {features} has {len(values)} rows; give each row its id"
        )
    return FeatureFile(values if values.ndim == 3 else values[:, None], row_of)


def map_floats(path: str | os.PathLike[str], *, shape: str, axes: Sequence[int]) -> np.ndarray:
    """Maps a .npy array of floats; nothing of it is read but the header, and nothing of it is run.

    Raises:
      UserError: it is none of these, or has more or fewer bytes than its header says.
    """
    try:
        return _mapped(os.fspath(path), shape, axes)
    except _UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as a .npy array ({one_line(error)}); "
            'save it with np.save("features.npy", x.astype("float32"))'
        ) from error


def _mapped(features: str, wished: str, axes: Sequence[int]) -> np.ndarray:
    """Raises a UserError, or one of `_UNREADABLE` where the header is none."""
    with open(features, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format version {version}")
        shape, by_column, dtype = _HEADERS[version](file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject:
        raise ValueError("Python objects")
    if any(type(axis) is not int or abs(axis) > _LONGEST_AXIS for axis in shape):
        raise ValueError("the header has an axis that no file holds")
    found = f"{str(dtype)[:40]} of shape {str(shape)[:60]}"
    if len(shape) not in axes or not np.issubdtype(dtype, np.floating):
        raise UserError(f"{features} holds {found}; save floats {wished}")
    if min(shape) < 1:
        raise UserError(f"{features} holds {found}; each axis must be 1 or more: save floats {wished}")
    wanted = start + math.prod(shape) * dtype.itemsize
    if size != wanted:
        raise UserError(
            f"{features} has {size:,} bytes, but its header says {found}, which is {wanted:,}; "
            "save it anew with np.save, or get a fresh copy"
        )
    return np.memmap(features, dtype=dtype, mode="r", offset=start, shape=shape, order="F" if by_column else "C")
