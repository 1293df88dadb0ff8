"""Pictures with captions in several languages, a model that reads both, and our own numbers of the two.

Source: ours.
"""

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
from cl2cm_jax.evaluation.retrieval import Ranks, metrics, retrieval_ranks
from cl2cm_jax.maths.ranking import ABSENT, average_precision_of, ranks_of

TIED = 1e-6  # scores no further apart are one: a vector differs by about 1e-7 with the batch that it was computed in
_BLOCK = 1024  # queries whose scores are held at once


Picture = Image.Image | str | os.PathLike[str]  # an open one, or a path


class TwoTowers(Protocol):
    """A model of texts and pictures, as `cl2cm_jax.from_pretrained` gives it."""

    weights: str
    dim: int

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, D) float32 of N texts."""
        ...

    def encode_image(self, images: Sequence[Picture]) -> np.ndarray:
        """Unit vectors (N, D) float32 of N pictures."""
        ...


class Remembering:
    """A model that encodes a picture once: judges ask for all of them again in every language and direction."""

    def __init__(self, model: TwoTowers):
        self._model, self._vectors = model, {}
        self.weights, self.dim = model.weights, model.dim

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode_text(texts)

    def encode_image(self, images: Sequence[Picture]) -> np.ndarray:
        keys = [_key(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._vectors}
        self._vectors |= dict(zip(new, self._model.encode_image(list(new.values())), strict=True))
        return np.array([self._vectors[key] for key in keys], np.float32).reshape(-1, self.dim)


def _key(picture: Picture) -> str | tuple[tuple[int, ...], bytes]:
    """The path of a file; of an open picture what a model sees, its size and its pixels."""
    if not isinstance(picture, Image.Image):
        return os.fspath(picture)
    pixels = as_rgb(picture)
    return pixels.shape, hashlib.sha256(pixels.tobytes()).digest()


class Captions(NamedTuple):
    """M captions of one language; `picture` (M,) int is each one's row among the pictures."""

    texts: list[str]
    picture: np.ndarray


@dataclass(frozen=True)
class Captioned:
    """N picture files, and by language their captions. A picture may have several, or none in some language."""

    pictures: list[Path]
    captions: dict[str, Captions]

    def of(self, languages: Sequence[str]) -> Captioned:
        """The same pictures with the captions of these languages alone.

        Raises:
          UserError: there is none in one of them.
        """
        for language in languages:
            if language not in self.captions:
                raise UserError(
                    f"language {language!r} has no captions in the data, which have {', '.join(self.captions)}; "
                    "name some of these"
                )
        return Captioned(self.pictures, {language: self.captions[language] for language in languages})

    def texts_of(self, language: str) -> list[list[str]]:
        """The captions of each of the N pictures, in the order of the captions."""
        found: list[list[str]] = [[] for _ in self.pictures]
        for text, picture in zip(*self.captions[language], strict=True):
            found[picture].append(text)
        return found


def from_rows(rows: Sequence[Caption], *, images: Path, split: str) -> Captioned:
    """What the rows of a caption file say of a folder of pictures.

    Args:
      rows: where they name splits, those of `split` count; else all do.
      images: the folder.
      split: "train", "validation" or "test".

    Raises:
      UserError: no row is left, or a picture is no file or not in the folder.
    """
    kept = [row for row in rows if row.split in ("", split)]
    if not kept:
        raise UserError(f"--split={split}: the captions have no row of it; name another")
    for row in kept:
        if os.path.isabs(row.image) or os.path.normpath(row.image).startswith(os.pardir):
            raise UserError(f"{row.image!r} is not within --images={images}; copy the picture into it")
    place = {image: number for number, image in enumerate(dict.fromkeys(row.image for row in kept))}
    by_language: dict[str, Captions] = {}
    for language in dict.fromkeys(row.language for row in kept):
        own = [row for row in kept if row.language == language]
        by_language[language] = Captions([row.caption for row in own], np.array([place[row.image] for row in own]))
    return _checked(Captioned([images / image for image in place], by_language))


def from_corpus(corpus: Corpus, *, languages: Sequence[str]) -> Captioned:
    """The pictures of a split with their captions in those of the languages that have some.

    Raises:
      UserError: a picture is no file, as where a set is of features or clips.
    """
    rows = {language: corpus.captions_of(language) for language in languages}
    captions = {
        language: Captions([corpus.caption_text[row] for row in own], corpus.caption_image[own])
        for language, own in rows.items()
        if len(own)
    }
    return _checked(Captioned([Path(path) for path in corpus.paths], captions))


def _checked(data: Captioned) -> Captioned:
    for path in data.pictures:
        if not path.is_file():
            raise UserError(f"{path} is no picture file; the judges take pictures, neither clips nor features")
    return data


def own_metrics(model: TwoTowers, data: Captioned) -> dict[str, Extremes]:
    """By language, what `retrieval.metrics` says, and how far ties could move it."""
    vision = model.encode_image(data.pictures)
    return {
        language: extremes(model.encode_text(captions.texts), vision, text_image=captions.picture)
        for language, captions in data.captions.items()
    }


class Extremes(NamedTuple):
    """Metrics by name: ours, and those if every tie fell against us (`worst`) or for us (`best`)."""

    ours: dict[str, float]
    worst: dict[str, float]
    best: dict[str, float]


def extremes(text: np.ndarray, vision: np.ndarray, *, text_image: np.ndarray, tied: float = TIED) -> Extremes:
    """Our metrics of one language, and the interval in which those of any other tie rule lie.

    Args:
      text: (M, D) float32 caption vectors.
      vision: (N, D) float32 picture vectors.
      text_image: (M,) int, each caption's row in `vision`.
      tied: scores that differ by no more are counted as equal.
    """
    captioned = np.unique(text_image)
    places = np.arange(len(vision))
    to_vision = _competitors(text, vision, right=text_image[:, None] == places, tied=tied)
    to_text = _competitors(vision[captioned], text, right=captioned[:, None] == text_image, tied=tied)
    worst, best = (
        metrics(
            Ranks(
                text_to_vision=ranks_of(of_text),
                vision_to_text=ranks_of(of_vision),
                text_image=text_image,
                vision_image=captioned,
                text_to_vision_ap=average_precision_of(of_text),
                vision_to_text_ap=average_precision_of(of_vision),
            )
        )
        for of_text, of_vision in zip(to_vision, to_text, strict=True)
    )
    return Extremes(metrics(retrieval_ranks(text, vision, text_image=text_image)), worst, best)


def _competitors(
    queries: np.ndarray, gallery: np.ndarray, *, right: np.ndarray, tied: float
) -> tuple[np.ndarray, np.ndarray]:
    """As `maths.ranking.competitors`, (M, P), if ties count as higher, and if they count as lower.

    `right` (M, N) bool says which items of the gallery are a query's positives.
    """
    shape = len(queries), int(right.sum(axis=1).max())
    worst, best = (np.full(shape, ABSENT, np.int64) for _ in range(2))
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ gallery.T
        for row, (score, hit) in enumerate(zip(scores, right[start : start + _BLOCK], strict=True), start):
            others, positives = np.sort(score[~hit]), np.sort(score[hit])[::-1]
            worst[row, : len(positives)] = len(others) - np.searchsorted(others, positives - tied, "left")
            best[row, : len(positives)] = len(others) - np.searchsorted(others, positives + tied, "right")
    return worst, best
