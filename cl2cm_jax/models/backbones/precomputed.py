"""Identity backbone: vision features that were computed elsewhere and lie on disk.

Source: ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones.outputs import VisionOutput


def apply(params: dict[str, Any], features: jax.Array, mask: jax.Array | None = None) -> VisionOutput:
    """Returns features (B, F, d) as float32, with their mask (B, F); None means that all are there."""
    del params
    mask = jnp.ones(features.shape[:2], bool) if mask is None else mask
    return VisionOutput(features=features.astype(jnp.float32), mask=mask)


def feature_shape(path: str | Path) -> tuple[int, int]:
    """Returns (F, d) of a .npy file of features (n, d) or (n, F, d), without reading them.

    Raises:
      UserError: the file is missing, unreadable or of another shape or kind.
    """
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"features file {path} is no readable .npy file: {error}") from error
    if not isinstance(features, np.ndarray) or features.ndim not in (2, 3) or features.dtype.kind != "f":
        raise UserError(f"features file {path} must be one float array (n, d) or (n, F, d)")
    return (1, features.shape[1]) if features.ndim == 2 else (features.shape[1], features.shape[2])
