"""CL2CM in JAX: cross-lingual cross-modal retrieval with knowledge transfer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cl2cm_jax.trained.bundle import RetrievalModel

__all__ = ["from_pretrained"]

__version__ = "0.1.0"

# The old command names, `python -m cl2cm_jax.ablate`, are found there for one release.
__path__.append(str(Path(__file__).parent / "old_commands"))


def from_pretrained(path: str | os.PathLike[str], revision: str | None = None) -> RetrievalModel:
    """Loads a model that `cl2cm export` has written. TensorFlow is not needed.

    model = cl2cm_jax.from_pretrained("bundle")
    model.encode_text(["a red apple", "ein roter Apfel"])  # (2, D) float32, unit vectors
    model.encode_image(["apple.png"])  # (1, D), of the same space

    Args:
      path: the bundle's folder, or its name on the Hugging Face hub, "org/name".
      revision: of the hub's repository: a branch, tag or commit; None is its main branch.

    Raises:
      UserError: there is no such bundle, or it is damaged, incomplete or of another version; names the file.
    """
    from cl2cm_jax.trained.bundle import from_pretrained

    return from_pretrained(path, revision=revision)
