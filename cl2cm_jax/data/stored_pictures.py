"""The pictures of a built set. They stay where they are: a set holds their places, and the SHA-256 of their files.

So every picture that is read is the one that the set was built from, or an error says which one is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from cl2cm_jax.data.captions import ShardOffset
from cl2cm_jax.data.corpus import Corpus
from cl2cm_jax.data.media.clips import taken_files
from cl2cm_jax.data.media.images import decode, read_file
from cl2cm_jax.data.readers.shards import read_picture
from cl2cm_jax.errors import UserError


class Picture(NamedTuple):
    """One image: a file, a folder of frames, a part of a shard, or features.

    Attributes:
      sha256: of its files, or of its features, end to end.
      place: where its files are; "" if the set holds them itself.
      frames: limit of the files that are read of a folder.
      stored: its files, in sets of earlier versions.
      feature: (frames, d) float32.
    """

    sha256: bytes
    place: str | ShardOffset = ""
    frames: int = 1
    stored: tuple[bytes, ...] = ()
    feature: np.ndarray | None = None

    @property
    def digest(self) -> bytes:
        """One SHA-256, 32 bytes."""
        return hashlib.sha256(self.sha256).digest()

    def files(self) -> tuple[bytes, ...]:
        """The encoded files, read now; none where there are features.

        Raises:
          UserError: one is not there, or is not the one that the set was built from.
        """
        if not self.place:
            return self.stored
        files = tuple(read_files(self.place, self.frames))
        if sha256_of(files) != self.sha256:
            raise _changed(self.place if isinstance(self.place, str) else self.place.shard)
        return files


def read_files(place: str | ShardOffset, frames: int) -> Iterator[bytes]:
    """The encoded files of a picture or clip; of a folder at most `frames`.

    Raises:
      UserError: one cannot be read.
    """
    if isinstance(place, ShardOffset):
        yield read_picture(place)
    else:
        yield from map(read_file, taken_files(place, limit=frames))


def sha256_of(files: Iterable[bytes | memoryview]) -> bytes:
    """SHA-256 of each file, end to end."""
    return b"".join(hashlib.sha256(file).digest() for file in files)


def decode_unchanged(corpus: Corpus, row: int) -> np.ndarray:
    """The picture (H, W, 3) uint8 of an image whose `Corpus.vision` is its digest, from its file.

    Raises:
      UserError: it is not there, or is not the one that the set was built from.
    """
    path = corpus.paths[row]
    content = read_file(path)
    if Picture(sha256_of([content])).digest != corpus.vision[row].tobytes():
        raise _changed(path)
    return decode(path, read=lambda _: content)


def _changed(path: str) -> UserError:
    return UserError(
        f"{path} is not the picture that the data set was built from; put that one back, or save this one anew, and "
        "the set is built again",
        id="changed-picture",
    )
