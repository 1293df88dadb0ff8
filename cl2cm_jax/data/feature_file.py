"""Reads vision features that lie on disk: a .npy array and a text file with the image id of each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cl2cm_jax.data.text_lines import read_ids
from cl2cm_jax.errors import UserError


@dataclass(frozen=True)
class FeatureFile:
    """Features by image id; the array stays on disk until a row is asked for."""

    values: np.ndarray  # (n, frames, d), memory-mapped
    row_of: dict[str, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, d)."""
        return self.values.shape[1], self.values.shape[2]

    def row(self, image_id: str) -> np.ndarray:
        """(frames, d) float32."""
        return np.asarray(self.values[self.row_of[image_id]], np.float32)


def read_feature_file(features: str, feature_ids: str, *, id_of: Callable[[str], str] = str) -> FeatureFile:
    """Maps the array and reads its ids.

    Args:
      features: the .npy file.
      feature_ids: the list of the image id of each of its rows.
      id_of: makes the id of what a line holds.

    Raises:
      UserError: no .npy of floats of two or three axes, an empty or duplicate id, or not as many ids as rows.
    """
    try:
        values = np.load(features, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = "Python objects, or no .npy file" if "allow_pickle" in str(error) else error
        raise UserError(
            f"{features} cannot be read as a .npy array ({reason}); "
            'save it with np.save("features.npy", x.astype("float32"))'
        ) from error
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or not np.issubdtype(values.dtype, np.floating):
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "an archive"
        raise UserError(f"{features} holds {found}; save floats (n, d) or (n, frames, d)")
    row_of = read_ids(Path(feature_ids), id_of=id_of)
    if len(row_of) != len(values):
        raise UserError(
            f"{feature_ids} has {len(row_of)} ids but {features} has {len(values)} rows; give each row its id"
        )
    return FeatureFile(values if values.ndim == 3 else values[:, None], row_of)
