"""Load a bundle and encode texts, images and clips as unit vectors of one space, without TensorFlow.

model = from_pretrained("runs/bundle")
scores = model.similarity(model.encode_text(["a red apple"]), model.encode_image(["apple.png"]))
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cl2cm_jax.config import student_first
from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import as_rgb, decode, frame_places
from cl2cm_jax.errors import UserError
from cl2cm_jax.maths.similarity import scores
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import TextBackbone, VisionBackbone
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import TAIL, Networks
from cl2cm_jax.models.pretrained import assign, read_safetensors
from cl2cm_jax.models.trained_layers import check_text_layers
from cl2cm_jax.trained.bundle_layout import DOWNLOADED, HEADS, MANIFEST, Manifest, bundle_config, read_manifest
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.student import student_encoder
from cl2cm_jax.training.workdir import vision_features

Picture = Image.Image | str | os.PathLike[str]
Clip = str | os.PathLike[str] | Iterable[Picture]

TEXTS, PICTURES = 4096, 256  # encoded at once; the backbones' outputs are in memory for that many


class RetrievalModel:
    """The student of a bundle.

    Attributes:
      languages: languages of the training, the source first.
      dim: D, size of the vectors.
      frames: the most frames taken from a clip; 1: the model was trained on images.
      weights: identifies the weights; vectors of different weights are not comparable.
      encoder: the functions that search uses (`cl2cm_jax.search`).
    """

    def __init__(self, encoder: Encoder, config: ConfigDict):
        d = config.data
        self.languages: tuple[str, ...] = (d.source, *d.targets, *d.reported)
        self.dim: int = config.student.dim
        self.frames: int = encoder.frames
        self.weights, self.encoder = encoder.weights, encoder

    def encode_text(self, texts: Iterable[str], language: str | None = None) -> np.ndarray:
        """Encodes N texts; those longer than `text.max_tokens` are truncated.

        Args:
          texts: an iterable of strings.
          language: only checked: one set of weights reads every language.

        Returns:
          (N, D) float32 unit vectors; 0 for a text without words, if the model reads words alone.

        Raises:
          UserError: a bare string, an item that is no string, or a language that the model was not trained in.
        """
        if isinstance(texts, str):
            raise UserError(f"texts={texts[:40]!r} is one string; give a list of them, [{texts[:40]!r}]")
        texts = _listed("texts", texts)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{place}] is {type(text).__name__}, no string; give strings")
        if language is not None and language not in self.languages:
            raise UserError(
                f"language={language!r} is none of the model's languages, {', '.join(self.languages)}; "
                "leave it out to encode such texts nevertheless"
            )
        return self._in_parts(self.encoder.text, texts, TEXTS)

    def encode_image(self, images: Iterable[Picture]) -> np.ndarray:
        """Encodes N images, Pillow images or files of any size, mode and orientation, as (N, D) float32 unit vectors.

        Raises:
          UserError: an image cannot be read, or the model was trained on precomputed features.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            raise UserError("images is one picture; give a list of them")
        images = _listed("images", images)
        return self._in_parts(lambda some: self.encoder.images((_pixels(one),) for one in some), images, PICTURES)

    def encode_video(self, videos: Iterable[Clip]) -> np.ndarray:
        """Encodes N clips, each an animated file, a folder of frames, or a list of images, as (N, D) unit vectors.

        From longer clips `frames` evenly spaced frames are taken, as in training.

        Raises:
          UserError: a clip has no frame or one that cannot be read, or the model was trained on images.
        """
        if isinstance(videos, str | os.PathLike):
            raise UserError("videos is one path; give a list of clips")
        if self.frames == 1:
            raise UserError("encode_video: the model was trained on pictures (config.data.frames=1); use encode_image")
        videos = _listed("videos", videos)
        return self._in_parts(lambda some: self.encoder.images(self._clip(one) for one in some), videos, PICTURES)

    def similarity(self, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Cosine similarities: (M, D) and (N, D) unit vectors -> (M, N) float32; UserError for other sizes."""
        for name, vectors in (("queries", queries), ("gallery", gallery)):
            array = np.asarray(vectors)
            if array.ndim != 2 or array.shape[1] != self.dim or array.dtype.kind not in "fiu":
                found = f"shape {array.shape} and dtype {array.dtype}"
                raise UserError(f"{name} has {found}; give vectors of this model, (n, {self.dim})")
        return np.asarray(scores(jnp.asarray(queries), jnp.asarray(gallery)))

    def _in_parts(self, encode: Any, items: Sequence[Any], size: int) -> np.ndarray:
        parts = [encode(items[start : start + size]) for start in range(0, len(items), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def _clip(self, clip: Clip) -> Iterator[np.ndarray]:
        if isinstance(clip, str | os.PathLike):
            yield from decode_clip(taken_files(clip, most=self.frames), most=self.frames)
            return
        clip = _listed("a clip", clip)
        if not clip:
            raise UserError("videos: a clip has no frame; leave it out")
        yield from (_pixels(clip[place]) for place in frame_places(len(clip), self.frames))


def _listed(name: str, items: Iterable[Any]) -> list[Any]:
    """The items as a list; refuses a set or a dictionary, whose order would not identify the vectors."""
    if isinstance(items, set | frozenset | dict) or not isinstance(items, Iterable):
        raise UserError(f"{name} is {type(items).__name__}; give a list")
    return list(items)


def _pixels(picture: Picture) -> np.ndarray:
    if isinstance(picture, Image.Image):
        return as_rgb(picture)
    if isinstance(picture, str | os.PathLike):
        return decode(picture)
    raise UserError(f"a picture is {type(picture).__name__}; give a Pillow image or a path")


class Parts:
    """Student and backbones of a bundle, checked.

    Attributes:
      manifest: contents of cl2cm_config.json.
      config: its configuration, with the paths of the backbones in the folder.
      text, vision: the backbones with all their weights, trained layers included.
      student: the parameters of the student, its layers of the text backbone included.
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
        sizes = [("text", self.text.dim, self.manifest.shape.text)]
        if self.vision is not None:
            sizes.append(("vision", vision_features(self.config, self.vision), self.manifest.shape.vision))
        for kind, found, expected in sizes:
            if found != expected:
                raise UserError(
                    f"bundle {folder}: its {kind} backbone yields {found} features instead of "
                    f"shape.{kind}={expected} of {MANIFEST}; get a fresh copy"
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


def from_pretrained(path: str | os.PathLike[str], *, revision: str | None = None) -> RetrievalModel:
    """Loads a bundle; see `cl2cm_jax.from_pretrained`."""
    parts = Parts(_located(path, revision))
    return RetrievalModel(parts.encoder(), parts.config)


def _located(path: str | os.PathLike[str], revision: str | None) -> Path:
    if revision is not None and Path(path).is_dir():
        raise UserError(f"revision={revision!r} is for the hub, and {os.fspath(path)} is a folder; leave it out")
    named = os.fspath(path) if revision is None else f"{os.fspath(path)}@{revision}"
    return hub_folder.locate(named, field="bundle", files=DOWNLOADED, holds=MANIFEST)
