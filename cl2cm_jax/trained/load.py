"""A trained model for the index and the service: a workdir or an exported bundle, seen alike.

Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cl2cm_jax.errors import UserError
from cl2cm_jax.trained.bundle import from_pretrained
from cl2cm_jax.trained.bundle_layout import MANIFEST
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.student import load_encoder
from cl2cm_jax.training.workdir import CONFIG_FILE, read_config


@dataclass(frozen=True)
class Model:
    """A model in use.

    Attributes:
      encoder: its two functions.
      name: for people; the folder's.
      languages: that it was trained in, the source first.
    """

    encoder: Encoder
    name: str
    languages: tuple[str, ...]

    @cached_property
    def dim(self) -> int:
        """D, of the vectors."""
        return self.encoder.text(["a"]).shape[1]


def open_model(path: Path) -> Model:
    """Loads a model.

    Args:
      path: the workdir of a finished run, or a bundle that `cl2cm export` has written.

    Raises:
      UserError: it is neither, or damaged.
    """
    name = path.resolve().name
    if (path / MANIFEST).is_file():
        bundle = from_pretrained(path)
        return Model(bundle.encoder, name, bundle.languages)
    if not (path / CONFIG_FILE).is_file():
        raise UserError(
            f"--model={path} is no model; give the --workdir of a finished run, or an exported bundle "
            "(`hf download org/name --local-dir=bundle` fetches one)"
        )
    data = read_config(path).data
    return Model(load_encoder(path), name, (data.source, *data.targets, *data.reported))
