"""Reads the vision features of the paper's sets as their authors publish them.

Frames of videos are in a folder: shape.txt "N D", id.txt with N ids, feature.bin of N x D little-endian float32, and
video2frames.txt, a Python dict literal. Features of images are a .npy file a split, with the image id of each row in a
text file. Source: NRCCR, LECCR (the formats); ours: the sampling of long videos.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cl2cm_jax.data.readers.cap_ids import media_id
from cl2cm_jax.data.readers.feature_file import FeatureFile, read_feature_file
from cl2cm_jax.data.readers.text_lines import read_entries, read_ids
from cl2cm_jax.errors import UserError

MAX_FRAMES = 64  # NRCCR, LECCR: limit of the frames of a video
_SIZE = re.compile("[1-9][0-9]{0,8}")
FRAME_FILES = ("shape.txt", "id.txt", "feature.bin", "video2frames.txt")


@dataclass(frozen=True)
class FrameFolder:
    """Frame features by video; the array is memory-mapped."""

    values: np.ndarray  # (N, D) float32, memory-mapped
    row_of: dict[str, np.ndarray]  # rows (F,) of a video's frames, in their order; F may be 0

    @property
    def shape(self) -> tuple[None, int]:
        """(frames, d); the frames differ."""
        return None, self.values.shape[1]

    def row(self, video: str) -> np.ndarray:
        """(F, d) float32 of at most `MAX_FRAMES` frames."""
        rows = self.row_of[video]
        return np.asarray(self.values[thinned(rows)], np.float32)


def thinned(frames: np.ndarray) -> np.ndarray:
    """All frames, or `MAX_FRAMES` of more: the first, the last, and evenly spaced ones between.

    (NRCCR and LECCR keep the first 64.)
    """
    if len(frames) <= MAX_FRAMES:
        return frames
    return frames[np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)]


def read_frame_folder(folder: Path) -> FrameFolder:
    """Maps feature.bin and reads which of its rows are a video's.

    Raises:
      UserError: a file is missing or malformed, or they disagree.
    """
    number, dim = read_shape(folder / "shape.txt")
    ids = _read(folder / "id.txt", "iso-8859-1").split()
    if len(ids) != number:
        raise UserError(f"{folder / 'id.txt'} has {len(ids)} ids but shape.txt says {number} rows; get a fresh copy")
    row_of = {name: row for row, name in enumerate(ids)}
    if len(row_of) != number:
        twice = next(name for row, name in enumerate(ids) if row_of[name] != row)
        raise UserError(f"{folder / 'id.txt'}: duplicate id {twice!r}; get a fresh copy")
    frames = _read_frames(folder / "video2frames.txt", row_of)
    return FrameFolder(_map_features(folder / "feature.bin", number, dim), frames)


def read_shape(path: Path) -> tuple[int, int]:
    """The numbers of rows and columns in a shape.txt; raises a UserError where it has others."""
    words = _read(path, "iso-8859-1").split()
    if len(words) != 2 or not all(_SIZE.fullmatch(word) for word in words):
        raise UserError(
            f"{path} holds {' '.join(words)[:40]!r}; it must be two numbers from 1 to 999999999, rows and columns"
        )
    return int(words[0]), int(words[1])


def read_image_features(features: Path, ids: Path) -> FeatureFile:
    """Maps a .npy file of image features; ids may have the ending of a picture.

    Raises:
      UserError: it is no .npy of floats, has not as many rows as there are ids, or an id is empty or there twice.
    """
    return read_feature_file(str(features), str(ids), id_of=media_id)


def read_image_ids(path: Path) -> list[str]:
    """The image ids of a list, one per line, without .jpg.

    Raises:
      UserError: it cannot be read, or an id is empty or there twice.
    """
    return list(read_ids(path, id_of=media_id))


def read_image_files(path: Path) -> dict[str, str]:
    """The file name of each image id: lines `<id> <file>`, split once at the first space.

    Raises:
      UserError: it cannot be read, or a line has not both.
    """
    files: dict[str, str] = {}
    for number, line in enumerate(read_entries(path), start=1):
        name, _, file = line.partition(" ")
        image, file = media_id(name), file.strip()
        if not image or not file:
            raise UserError(f"{path}, line {number}: {line!r} is not an id, a space and a file name")
        if files.setdefault(image, file) != file:
            raise UserError(f"{path}, line {number}: {image!r} has the file {files[image]!r} in a line before")
    return files


def _read(path: Path, encoding: str) -> str:
    try:
        return path.read_bytes().decode(encoding)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); get a fresh copy") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 (byte {error.start}); get a fresh copy") from error


def _map_features(path: Path, number: int, dim: int) -> np.ndarray:
    size, wanted = path.stat().st_size if path.is_file() else 0, 4 * number * dim
    if size != wanted:
        state = "shorter" if size < wanted else "longer"
        raise UserError(
            f"{path} has {size:,} bytes, {state} than the {wanted:,} of shape.txt's {number} x {dim} float32; "
            "get a fresh copy of both"
        )
    return np.memmap(path, dtype="<f4", mode="r", shape=(number, dim))


def _read_frames(path: Path, row_of: dict[str, int]) -> dict[str, np.ndarray]:
    """The dict literal, parsed and never run, as rows of each video's frames."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in names
            found = ast.literal_eval(_read(path, "utf-8-sig").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{path} is not a dict literal {{'video': ['frame', ...]}} ({type(error).__name__}); it is read, never run"
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(video, str) and isinstance(frames, list | tuple) for video, frames in found.items()
    ):
        raise UserError(f"{path} must be a dict literal {{'video': ['frame', ...]}} of names and lists")
    rows: dict[str, np.ndarray] = {}
    for video, frames in found.items():
        if media_id(video) in rows:
            raise UserError(f"{path} has {media_id(video)!r} twice, with an ending and without; remove one")
        rows[media_id(video)] = _rows(path, video, frames, row_of)
    return rows


def _rows(path: Path, video: str, frames: Sequence[object], row_of: dict[str, int]) -> np.ndarray:
    try:
        return np.array([row_of[frame] for frame in frames], np.int64)  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError) as error:
        lost = next(frame for frame in frames if not isinstance(frame, str) or frame not in row_of)
        raise UserError(f"{path}: video {video!r} has the frame {lost!r}, which is not in id.txt") from error
