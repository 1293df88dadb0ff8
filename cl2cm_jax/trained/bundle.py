"""The contents of a bundle, read and checked."""

from __future__ import annotations

from pathlib import Path

import jax

from cl2cm_jax.config import student_first
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, Networks
from cl2cm_jax.models.pretrained import assign, read_safetensors
from cl2cm_jax.models.trained_layers import check_text_layers
from cl2cm_jax.trained.bundle_layout import HEADS, MANIFEST, Manifest, bundle_config, read_manifest
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.student import student_encoder
from cl2cm_jax.training.workdir import vision_features


class Parts:
    """Student and backbones of a bundle, checked.

    Attributes:
      manifest: contents of cl2cm_config.json.
      config: its configuration, with the paths of the backbones in the folder.
      text, vision: the backbones with all their weights, trained layers included.
      student: the parameters of the student, its layers of the text backbone included.

    Raises:
      UserError: a file is missing, changed or damaged, or a backbone does not fit the manifest; names the file.
    """

    def __init__(self, folder: Path):
        self.manifest: Manifest = read_manifest(folder)
        self.config = bundle_config(folder, self.manifest)
        self.text: TextBackbone = configured_text(self.config)
        self.vision: VisionBackbone | None = configured_vision(self.config)
        self._check_sizes(folder)
        networks = Networks(self.config, self.manifest.shape, tunable=self.text.tunable)
        abstract = jax.eval_shape(networks.student.init, jax.random.key(0))
        self.student: Params = assign(abstract, read_safetensors(folder / HEADS), source=folder / HEADS)
        first = student_first(self.config)
        if first is not None:
            tunable = check_text_layers(self.config, self.text)
            assert tunable is not None
            self.student[TAIL] = tunable.cut(self.text.params, first)[1]

    def _check_sizes(self, folder: Path) -> None:
        shape, text = self.manifest.shape, self.text
        sizes = [
            ("text", "text", text.sentence_size, shape.text),
            ("text", "words", text.dim, shape.words or shape.text),
        ]
        if self.vision is not None:
            sizes.append(("vision", "vision", vision_features(self.config, self.vision), shape.vision))
        for kind, field, found, expected in sizes:
            if found != expected:
                raise UserError(
                    f"bundle {folder}: its {kind} backbone yields {found} features instead of "
                    f"shape.{field}={expected} of {MANIFEST}; get a fresh copy"
                )

    def encoder(self) -> Encoder:
        """The functions that search uses."""
        return student_encoder(
            self.config,
            self.student,
            weights=self.manifest.weights,
            text=self.text,
            vision=self.vision,
            batch_size=64,
        )
