"""Images with captions in several languages, and the interface of the models that are evaluated on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from cl2cm_jax.data.captions import Caption
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.media.images import as_rgb
from cl2cm_jax.errors import UserError

ImageInput = Image.Image | str | os.PathLike[str]  # an open image, or a path


class TwoTowers(Protocol):
    """A model of texts and images, such as `cl2cm_jax.from_pretrained` returns."""

    weights: str
    dim: int

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, D) float32 of N texts."""
        ...

    def encode_image(self, images: Sequence[ImageInput]) -> np.ndarray:
        """Unit vectors (N, D) float32 of N images."""
        ...


class CachedModel:
    """A model that encodes each image once: libraries encode all of them for every language and direction."""

    def __init__(self, model: TwoTowers):
        self._model, self._vectors = model, {}
        self.weights, self.dim = model.weights, model.dim

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode_text(texts)

    def encode_image(self, images: Sequence[ImageInput]) -> np.ndarray:
        keys = [_key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._vectors}
        self._vectors |= dict(zip(new, self._model.encode_image(list(new.values())), strict=True))
        return np.array([self._vectors[key] for key in keys], np.float32).reshape(-1, self.dim)


def _key(image: ImageInput) -> str | tuple[tuple[int, ...], bytes]:
    """The path of a file; of an open image its size and pixels as a model sees them."""
    if not isinstance(image, Image.Image):
        return os.fspath(image)
    pixels = as_rgb(image)
    return pixels.shape, hashlib.sha256(pixels.tobytes()).digest()


class Captions(NamedTuple):
    """M captions of one language; `image` (M,) int is the row of each one's image."""

    texts: list[str]
    image: np.ndarray


@dataclass(frozen=True)
class Captioned:
    """N image files and their captions by language. An image may have several captions, or none in some language."""

    images: list[Path]
    captions: dict[str, Captions]

    def of(self, languages: Sequence[str]) -> Captioned:
        """The same images with captions of these languages only; raises UserError if a language has no captions."""
        for language in languages:
            if language not in self.captions:
                raise UserError(
                    f"language {language!r} has no captions in the data, which have {', '.join(self.captions)}; "
                    "choose among these"
                )
        return Captioned(self.images, {language: self.captions[language] for language in languages})

    def texts_of(self, language: str) -> list[list[str]]:
        """The captions of each of the N images, in the order of the captions."""
        texts: list[list[str]] = [[] for _ in self.images]
        for text, image in zip(*self.captions[language], strict=True):
            texts[image].append(text)
        return texts


def from_rows(rows: Sequence[Caption], *, images: Path, split: str) -> Captioned:
    """The images, in the folder `images`, and captions of a file's rows of `split` or of no split.

    Raises:
      UserError: no row is left, or an image is not a file in the folder.
    """
    kept = [row for row in rows if row.split in ("", split)]
    if not kept:
        raise UserError(f"--split={split}: the captions have no row of this split; choose another")
    for row in kept:
        if os.path.isabs(row.image) or os.path.normpath(row.image).startswith(os.pardir):
            raise UserError(f"{row.image!r} is not within --images={images}; copy the image into it")
    place = {image: number for number, image in enumerate(dict.fromkeys(row.image for row in kept))}
    captions: dict[str, Captions] = {}
    for language in dict.fromkeys(row.language for row in kept):
        own = [row for row in kept if row.language == language]
        captions[language] = Captions([row.caption for row in own], np.array([place[row.image] for row in own]))
    return _checked(Captioned([images / image for image in place], captions))


def from_corpus(corpus: Corpus, *, languages: Sequence[str]) -> Captioned:
    """The images of a split with their captions, in those of the languages that have any.

    Raises:
      UserError: an image is not a file, as in sets of features or clips.
    """
    rows = {language: corpus.captions_of(language) for language in languages}
    captions = {
        language: Captions([corpus.caption_text[row] for row in own], corpus.caption_image[own])
        for language, own in rows.items()
        if len(own)
    }
    return _checked(Captioned([Path(path) for path in corpus.paths], captions))


def _checked(data: Captioned) -> Captioned:
    for path in data.images:
        if not path.is_file():
            raise UserError(f"{path} is not an image file; the libraries evaluate images, not clips or features")
    return data
