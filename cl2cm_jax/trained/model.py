"""A trained model in use: texts, pictures and clips onto unit vectors of one space. TensorFlow is not needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import as_rgb, decode, frame_places
from cl2cm_jax.data.media.threads import ahead
from cl2cm_jax.errors import UserError
from cl2cm_jax.maths.similarity import scores
from cl2cm_jax.models import hub_folder
from cl2cm_jax.text.languages import canonical
from cl2cm_jax.trained.bundle import Parts
from cl2cm_jax.trained.bundle_layout import DOWNLOADED, HEADS, MANIFEST
from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.student import load_encoder
from cl2cm_jax.training.workdir import CONFIG_FILE, read_config

Picture = Image.Image | str | os.PathLike[str]
Clip = str | os.PathLike[str] | Iterable[Picture]

TEXTS, PICTURES = 4096, 256  # encoded at once; bounds the memory for the backbones' outputs


class TrainedModel:
    """The student of a training run, read from a workdir or a bundle.

    Attributes:
      name: the folder's, or the hub id; for messages.
      languages: the languages it was trained in, the source first.
      dim: D, the size of the vectors.
      frames: the largest number of frames taken of a clip; 1 if it was trained on pictures.
      weights: identifies the weights; vectors of different weights are never compared.
      encoder: the text and image functions that search uses.
    """

    def __init__(self, encoder: Encoder, *, name: str, languages: Sequence[str], dim: int):
        self.encoder, self.name, self.languages, self.dim = encoder, name, tuple(languages), dim
        self.frames, self.weights = encoder.frames, encoder.weights

    def encode_text(self, texts: Iterable[str], language: str | None = None) -> np.ndarray:
        """Encodes texts as they are, where searches prepare queries; those longer than the model's limit are truncated.

        Args:
          texts: N strings.
          language: only checked against `languages`; one set of weights reads every language.

        Returns:
          (N, D) float32 unit vectors; 0 for a text without words, if the model reads words only.

        Raises:
          UserError: a bare string, an item that is not a string, or a language that the model was not trained in.
        """
        if isinstance(texts, str):
            raise UserError(f"texts={texts[:40]!r} is one string; give a list of them, [{texts[:40]!r}]")
        texts = _as_list("texts", texts)
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{place}] is {type(text).__name__}, not a string; give strings")
        if language is not None and canonical(language) not in self.languages:
            raise UserError(
                f"language={language!r} is not one that the model was trained in ({', '.join(self.languages)}); "
                "leave it out to encode the texts anyway"
            )
        return self._in_parts(self.encoder.text, texts, TEXTS)

    def encode_image(self, images: Iterable[Picture]) -> np.ndarray:
        """Encodes pictures: Pillow images or files, of any size, mode and orientation.

        Returns:
          (N, D) float32 unit vectors.

        Raises:
          UserError: a picture cannot be read, or the model was trained on precomputed features.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            raise UserError("images is one picture; give a list of them")
        images = _as_list("images", images)
        return self._in_parts(
            lambda part: self.encoder.images(ahead(lambda one: (self._pixels(one),), part)), images, PICTURES
        )

    def encode_video(self, videos: Iterable[Clip]) -> np.ndarray:
        """Encodes clips, each an animated file, a folder of frames, or a list of pictures.

        Of a longer clip `frames` frames are taken, evenly spaced, as in training.

        Returns:
          (N, D) float32 unit vectors.

        Raises:
          UserError: a clip has no frame or one that cannot be read, or the model was trained on pictures.
        """
        if isinstance(videos, str | os.PathLike):
            raise UserError("videos is one path; give a list of clips")
        if self.frames == 1:
            raise UserError("encode_video: the model was trained on pictures (config.data.frames=1); use encode_image")
        videos = _as_list("videos", videos)
        return self._in_parts(lambda part: self.encoder.images(self._clip(one) for one in part), videos, PICTURES)

    def similarity(self, queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Cosines of all pairs: (M, D) and (N, D) unit vectors -> (M, N) float32.

        Raises:
          UserError: the vectors are not of this model's size.
        """
        for name, vectors in (("queries", queries), ("gallery", gallery)):
            array = np.asarray(vectors)
            if array.ndim != 2 or array.shape[1] != self.dim or array.dtype.kind not in "fiu":
                found = f"shape {array.shape} and dtype {array.dtype}"
                raise UserError(f"{name} has {found}; give vectors of this model, (n, {self.dim})")
        return np.asarray(scores(jnp.asarray(queries), jnp.asarray(gallery)))

    def _in_parts(self, encode: Callable[[Any], np.ndarray], items: Sequence[Any], size: int) -> np.ndarray:
        parts = [encode(items[start : start + size]) for start in range(0, len(items), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def _clip(self, clip: Clip) -> Iterator[np.ndarray]:
        if isinstance(clip, str | os.PathLike):
            files = taken_files(clip, limit=self.frames)
            yield from decode_clip(files, limit=self.frames, enough=self.encoder.enough)
            return
        clip = _as_list("a clip", clip)
        if not clip:
            raise UserError("videos: a clip has no frame; leave it out")
        yield from (self._pixels(clip[place]) for place in frame_places(len(clip), self.frames))

    def _pixels(self, picture: Picture) -> np.ndarray:
        if isinstance(picture, Image.Image):
            return as_rgb(picture)
        if isinstance(picture, str | os.PathLike):
            return decode(picture, enough=self.encoder.enough)
        raise UserError(f"a picture is {type(picture).__name__}; give a Pillow image or a path")


def _as_list(name: str, items: Iterable[Any]) -> list[Any]:
    """Refuses sets and dictionaries, whose order does not identify the vectors."""
    if isinstance(items, set | frozenset | dict) or not isinstance(items, Iterable):
        raise UserError(f"{name} is {type(items).__name__}; give a list")
    return list(items)


def load(path: str | os.PathLike[str], revision: str | None = None) -> TrainedModel:
    """Loads a workdir, a bundle or a model of the hub; see `cl2cm_jax.load`."""
    path = os.path.expanduser(path)
    folder = Path(path)
    if revision is not None and folder.is_dir():
        raise UserError(f"revision={revision!r} is for a model of the hub, but {folder} is a folder; leave it out")
    if is_workdir(folder):
        return _model(load_encoder(folder), read_config(folder), folder.resolve().name)
    named = path if revision is None else f"{path}@{revision}"
    parts = Parts(locate_bundle(named))
    return _model(parts.encoder(), parts.config, folder.resolve().name if folder.is_dir() else named)


def locate_bundle(named: str) -> Path:
    """The folder of a bundle, or of a hub id after downloading it; raises UserError if there is none."""
    folder = Path(named)
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise UserError(
            f"model {folder} has no {MANIFEST} and is not a training run either; give the workdir of a finished run, "
            "a bundle that cl2cm export has written, or a hub id, org/name"
        )
    return hub_folder.locate(named, field="model", files=DOWNLOADED, holds=f"{CONFIG_FILE} or {MANIFEST}")


def is_workdir(folder: Path) -> bool:
    """Whether a folder is a training run's, not a bundle; a bundle may hold a config.json of its backbone."""
    return (folder / CONFIG_FILE).is_file() and not any((folder / name).exists() for name in (MANIFEST, HEADS))


def _model(encoder: Encoder, config: ConfigDict, name: str) -> TrainedModel:
    data = config.data
    languages = (data.source, *data.targets, *data.reported)
    return TrainedModel(encoder, name=name, languages=languages, dim=config.student.dim)
