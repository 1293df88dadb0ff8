"""CL2CM in JAX: cross-lingual cross-modal retrieval with knowledge transfer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cl2cm_jax.interrupts import catch_interrupts, is_starting

if TYPE_CHECKING:
    from cl2cm_jax.trained.model import TrainedModel

__all__ = ["from_pretrained", "load"]

__version__ = "0.1.0"

if is_starting():
    catch_interrupts()  # before the imports of the command, which take seconds

# The old command names, `python -m cl2cm_jax.ablate`, are found there for one release.
__path__.append(str(Path(__file__).parent / "old_commands"))


def load(path: str | os.PathLike[str], revision: str | None = None) -> TrainedModel:
    """Loads a trained model, which encodes texts and pictures. TensorFlow is not needed.

    model = cl2cm_jax.load("runs/emoji")
    model.encode_text(["a red apple", "ein roter Apfel"])  # (2, D) float32, unit vectors
    model.encode_image(["apple.png"])  # (1, D), of the same space

    Args:
      path: the workdir of a finished training run, a bundle written by `cl2cm export`, or "org/name", a bundle on the
        Hugging Face hub.
      revision: branch, tag or commit of the hub's repository; None is its main branch.

    Raises:
      UserError: there is no model, or it is damaged, incomplete or of another version; names the file.
    """
    from cl2cm_jax.trained.model import load

    return load(path, revision)


from_pretrained = load
