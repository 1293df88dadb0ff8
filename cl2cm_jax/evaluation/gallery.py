"""The gallery of a workdir: the vectors of its pictures with their ids, captions and files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.models.pretrained import read_npz
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.runtime.moved import present_place, seen_from
from cl2cm_jax.text.json_file import parse_json

GALLERY_FILE = "gallery.npz"
_MOST_TEXTS = 5_000_000  # ids, captions and paths; commas in captions count too


@dataclass(frozen=True)
class Gallery:
    """N pictures. Captions are in the source language, "" if there is none; paths are "" for precomputed features."""

    embeddings: np.ndarray  # (N, D) float32, unit vectors
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    paths: tuple[str, ...]
    weights: str  # `Encoder.weights` of the model that made the embeddings
    root: str = ""  # the folder that all paths are in; "" if it is not known

    def __post_init__(self) -> None:
        lengths = {len(self.embeddings), len(self.ids), len(self.captions), len(self.paths)}
        if len(lengths) != 1:
            raise ValueError(f"a gallery needs one id, caption and path for each embedding; lengths are {lengths}")

    def __len__(self) -> int:
        return len(self.ids)

    def check(self, *, weights: str, dim: int) -> None:
        """Raises a UserError unless the vectors are of the model with these `Encoder.weights` and dimensions."""
        again = "run --mode=evaluate on the workdir to embed it again"
        if self.weights != weights:
            raise UserError(
                f"the gallery was embedded by the weights {self.weights!r}, but the model is {weights!r}; {again}",
                id="other-weights",
            )
        if self.embeddings.shape[1] != dim:
            raise UserError(
                f"the gallery's vectors have {self.embeddings.shape[1]} numbers, but the model's have {dim}; {again}"
            )


def common_folder(paths: Sequence[str], *, within: str = "") -> str:
    """The folder `within` if all paths are in it, else the deepest one that has all; "" if one has no file, or none."""
    if not paths or not all(paths):
        return ""
    root = _shared([os.path.dirname(os.path.abspath(path)) for path in paths])
    named = os.path.realpath(within) if within else ""
    return named if named and root and _shared([named, root]) == named else root


def _shared(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on several drives of Windows
        return ""


def save_gallery(path: Path, gallery: Gallery) -> None:
    """Writes a gallery to one .npz file, atomically. The texts are stored as one JSON string.

    Its root is also stored as seen from the file, so that both may be moved together.
    """
    texts = {"ids": gallery.ids, "captions": gallery.captions, "paths": gallery.paths, "weights": gallery.weights}
    if gallery.root:
        texts["paths"] = tuple(os.path.relpath(path, gallery.root) for path in gallery.paths)
        texts |= {"root": os.path.abspath(gallery.root), "near": seen_from(path.parent, gallery.root)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        encoded = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        np.savez(file, embeddings=gallery.embeddings.astype(np.float32), texts=encoded)


def load_gallery(path: Path) -> Gallery:
    """Reads the file that `save_gallery` writes.

    Raises:
        UserError: the file is damaged.
    """
    arrays = read_npz(path)
    try:
        texts = parse_json(arrays["texts"].tobytes(), values=_MOST_TEXTS)
        columns = {name: tuple(texts[name]) for name in ("ids", "captions", "paths")}
        if not all(
            isinstance(text, str) for text in (texts["weights"], *(t for column in columns.values() for t in column))
        ):
            raise TypeError("a text is not a string")
        embeddings = arrays["embeddings"]
        if embeddings.ndim != 2 or embeddings.dtype != np.float32:
            raise ValueError(f"embeddings of shape {embeddings.shape} and type {embeddings.dtype}")
        if not np.isfinite(embeddings).all():
            raise ValueError("not all embeddings are finite")
        root = present_place(texts.get("root", ""), near=texts.get("near", ""), folder=path.parent)
        if root:
            columns["paths"] = tuple(os.path.join(root, inside) for inside in columns["paths"])
        return Gallery(embeddings=embeddings, weights=texts["weights"], root=root, **columns)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


def training_gallery(workdir: Path) -> Gallery:
    """The gallery of a finished training run.

    Raises:
        UserError: there is no such folder, or training has not finished in it.
    """
    if not workdir.is_dir():
        raise UserError(f"--model={workdir}: no such folder; give the workdir of a finished training run")
    path = workdir / GALLERY_FILE
    again = f"python -m cl2cm_jax.main --mode=evaluate --workdir={workdir}"
    if not path.is_file():
        raise UserError(
            f"--model={workdir} has no {GALLERY_FILE}; finish its training with python -m cl2cm_jax.main "
            f"--config=... --workdir={workdir}, or write the gallery again with {again}",
            id="no-gallery",
        )
    try:
        return load_gallery(path)
    except UserError as error:
        raise UserError(f"{error}; write it again with {again}") from error
