"""Features of an earlier version of a data set: those of unchanged pictures and captions are not computed again."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cl2cm_jax.data.corpus import CaptionFeatures, Corpus, Ragged
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import replacing

if TYPE_CHECKING:
    from cl2cm_jax.data.stored_pictures import Picture

_DIGESTS = "pictures.sha256"  # in the folder of a split: of its pictures, end to end
_SIZE = 32  # bytes of each
Row = tuple[Corpus, int]
Languages = dict[str, tuple[str, ...]]  # by split


class Known(NamedTuple):
    """Rows of a feature cache, by the SHA-256 of the picture and by the text of the caption; and its folder."""

    pictures: Mapping[bytes, Row]
    captions: Mapping[str, Row]
    folder: Path | None = None


NOTHING = Known({}, {})


def earlier(parent: Path, encoders: str, *, read: Callable[[Path, Languages], Mapping[str, Corpus]]) -> Known:
    """What the newest features of the same encoders and another version of the set hold; `read` reads a cache."""
    complete = [path.parent for path in parent.glob("[!.]*/done.json")]
    for folder in sorted(complete, key=lambda folder: folder.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):  # it is damaged, or older
            about = json.loads((folder / "done.json").read_text(encoding="utf-8"))
            if about["encoders"] == encoders:
                found = _known(folder, read(folder, {split: tuple(own) for split, own in about["languages"].items()}))
                logging.info("features: unchanged pictures and captions are taken from %s", folder)
                return found
    return NOTHING


def _known(folder: Path, splits: Mapping[str, Corpus]) -> Known:
    """What a complete cache holds; no pictures, where their features were not computed."""
    pictures: dict[bytes, Row] = {}
    for split, corpus in splits.items():
        file = folder / split / _DIGESTS
        digests = file.read_bytes() if file.exists() else b""
        pictures |= {digests[_SIZE * row : _SIZE * (row + 1)]: (corpus, row) for row in range(len(digests) // _SIZE)}
    captions = {text: (corpus, row) for corpus in splits.values() for row, text in enumerate(corpus.caption_text)}
    return Known(pictures, captions, folder)


def share(folder: Path, earlier: Path) -> None:
    """Makes the files of a finished cache that an earlier one has too links to those, so that they take space once."""
    for file in [path for path in folder.rglob("*.npy") if path.is_file()]:
        before = earlier / file.relative_to(folder)
        with contextlib.suppress(OSError):  # the disk knows no links, or the earlier one is gone
            if filecmp.cmp(file, before, shallow=False):
                with replacing(file) as temporary:
                    os.link(before, temporary)


def save_digests(place: Path, digests: Sequence[bytes]) -> None:
    """Keeps the digests of a split's pictures in its folder, for later versions of the set."""
    with replacing(place / _DIGESTS) as temporary:
        temporary.write_bytes(b"".join(digests))


def picture_features(
    pictures: Iterator[Picture],
    digests: Sequence[bytes],
    known: Mapping[bytes, Row],
    encode: Callable[[Iterable[Picture]], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
    """The features (F_i, d) of each picture; those that are not known, or all without digests, are encoded."""
    if not digests:
        yield from encode(pictures)
        return
    encoded = encode(itertools.compress(pictures, [one not in known for one in digests]))
    for one in digests:
        if one in known:
            corpus, row = known[one]
            yield corpus.vision[row][corpus.vision_mask[row]]
        else:
            yield next(encoded)


def copied(out: CaptionFeatures, rows: np.ndarray, texts: Sequence[str], known: Mapping[str, Row]) -> bool:
    """Fills the captions `rows` if all their texts are known, and says whether it did."""
    if not all(texts[int(row)] in known for row in rows):
        return False
    for row in map(int, rows):
        corpus, there = known[texts[row]]
        out.sentences[row] = corpus.sentences[there]
        for mine, theirs in ((out.words, corpus.words), (out.states, corpus.states)):
            if mine is not None and theirs is not None:
                _caption(mine, row)[...] = _caption(theirs, there)
    return True


def _caption(ragged: Ragged, row: int) -> np.ndarray:
    begin, end = ragged.offsets[row : row + 2]
    return ragged.values[begin:end]
