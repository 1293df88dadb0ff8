"""Brings an index up to date with a folder: what is new or changed is embedded, what is gone leaves.

Each batch is written before the next is embedded, under ids that paths alone decide. A killed run therefore loses no
more than a batch, and the same command again goes on where it was.

Source: ours.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cl2cm_jax.data.media.clips import MAX_BYTES, decode_clip, taken_files
from cl2cm_jax.data.media.images import ImageError
from cl2cm_jax.data.readers.caption_file import read_rows
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery
from cl2cm_jax.search.entry import Captions, Entry, id_of
from cl2cm_jax.search.folder import OUTSIDE, list_folder
from cl2cm_jax.search.stores.milvus import AT_ONCE, MAX_INT64, MAX_PATH, Store
from cl2cm_jax.trained.encoder import Encoder

BATCH, BATCH_BYTES = 32, 256_000_000  # least pictures between two writes, and how much of their files is held
_EXIF, _DATE_TIME_ORIGINAL = 0x8769, 0x9003  # the block, and a field in it

log = logging.getLogger(__name__)
Told = Callable[[int, int], None]


@dataclass
class Outcome:
    """What an update did, in pictures; `skipped` has the paths of those that cannot be read, with the reason."""

    unchanged: int = 0
    embedded: int = 0
    moved: int = 0  # found under another name, or touched: the vector is kept
    recaptioned: int = 0
    removed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Present:
    """A picture or clip of the folder.

    Attributes:
      path: inside the folder, with slashes.
      sources: the files that it is read from: itself, or the frames that are taken of a clip.
      size: of them all, in bytes.
      mtime: of the newest, in nanoseconds since 1970; no later than 2262, where int64 ends.
    """

    path: str
    sources: tuple[Path, ...]
    size: int
    mtime: int


def read_captions(path: Path) -> dict[str, Captions]:
    """The captions of a CSV, TSV or JSONL file, by picture; see docs/data.md for its form.

    Raises:
      UserError: no such file, wrong columns, or a row is wrong (the first such row is named).
    """
    found: dict[str, dict[str, list[str]]] = {}
    for row in read_rows(str(path), flag="--captions"):
        found.setdefault(row.image, {}).setdefault(row.language, []).append(row.caption)
    return {image: {code: tuple(texts) for code, texts in one.items()} for image, one in found.items()}


@dataclass
class Scan:
    """A folder as it is now.

    Attributes:
      present: its pictures.
      skipped: the paths of what may not or cannot be indexed, with the reason.
      unseen: those of `skipped` that the system says nothing of: what is there, or below, may be what it was.
    """

    present: list[Present] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)

    def hides(self, path: str) -> bool:
        """Whether nobody can say if the picture or clip at `path` is still there."""
        if not self.unseen:
            return False
        place = PurePosixPath(path)
        return any(str(one) in self.unseen for one in (place, *place.parents)) or path in self._clips

    @cached_property
    def _clips(self) -> set[str]:
        return {str(PurePosixPath(path).parent) for path in self.unseen}  # such a file may be a frame


def scan(folder: Path, *, frames: int) -> Scan:
    """Looks at every picture of a folder without reading any.

    A link to a place outside the folder is skipped: the service would hand out what nobody put there.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    root, listing, found = folder.resolve(), list_folder(folder), Scan()
    found.skipped = {path.relative_to(folder).as_posix(): reason for path, reason in listing.skipped.items()}
    found.unseen = {path.relative_to(folder).as_posix() for path in listing.unseen}
    for place, files in listing.entries(frames=frames).items():
        path = place.relative_to(folder).as_posix()
        reason = _unfit(path, place, files, root)
        if reason:
            found.skipped[path] = reason
            continue
        try:
            sources = tuple(taken_files(place, limit=frames)) if place.is_dir() else (place,)
            stats = [file.stat() for file in sources]
        except ImageError as error:
            found.skipped[path] = str(error)
            continue
        except OSError as error:
            found.skipped[path] = f"it cannot be looked at ({error.strerror})"
            if not isinstance(error, FileNotFoundError):
                found.unseen.add(path)
            continue
        size = sum(stat.st_size for stat in stats)
        if size > MAX_BYTES:
            found.skipped[path] = f"it has {size:,} bytes, over the limit of {MAX_BYTES:,}"
            continue
        mtime = max(stat.st_mtime_ns for stat in stats)
        found.present.append(Present(path, sources, size, min(max(mtime, -MAX_INT64), MAX_INT64)))
    return found


def _unfit(path: str, place: Path, files: Sequence[Path], root: Path) -> str:
    if any(not file.resolve().is_relative_to(root) for file in (place, *files)):
        return OUTSIDE
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "its name is no UTF-8; rename it"
    return f"its path has more than {MAX_PATH} bytes" if length > MAX_PATH else ""


def update(
    store: Store,
    encoder: Encoder,
    folder: Path,
    *,
    captions: Mapping[str, Captions] | None = None,
    told: Told = lambda done, total: None,
) -> Outcome:
    """Makes the index what the folder is now; where nobody can see what is there, it stays what it was.

    Args:
      store: an index with its manifest.
      encoder: the model that it was made with.
      folder: of the pictures.
      captions: by path inside the folder; None leaves those that are there.
      told: is called with the number of pictures dealt with, and of all new or changed ones.

    Raises:
      UserError: no such folder, no picture in it, or the disk is full.
    """
    found = scan(folder, frames=encoder.frames)
    outcome = Outcome(skipped=found.skipped)
    known = {entry.id: entry for entry in store.entries()}
    todo: list[Present] = []
    recaptioned: list[Entry] = []
    for one in found.present:
        entry = known.get(id_of(one.path))
        if entry is None or (entry.size, entry.mtime) != (one.size, one.mtime):
            todo.append(one)
            continue
        wanted = entry.captions if captions is None else captions.get(one.path, {})
        if wanted != entry.captions:
            recaptioned.append(replace(entry, captions=wanted))
        else:
            outcome.unchanged += 1
    work = _Work(store, encoder, captions, known, outcome)
    done = 0
    most = max(BATCH, 4 * encoder.batch)  # the pictures of one batch are read while the one before is computed
    for batch in _batches(todo, most=most):
        work.batch(batch)
        done += len(batch)
        told(done, len(todo))
    work.recaption(recaptioned)
    here = {id_of(one.path) for one in found.present} - {id_of(path) for path in outcome.skipped}
    here |= {id for id, entry in known.items() if found.hides(entry.path)}
    gone = [id for id in known if id not in here]
    store.remove(gone)
    outcome.removed = len(gone)
    for path, reason in sorted(outcome.skipped.items()):
        log.warning("skipped: %s: %s", path, reason)
    if captions is not None:
        _warn_of_strangers(captions, here)
    store.flush()
    return outcome


def _batches(todo: Sequence[Present], *, most: int) -> Iterator[list[Present]]:
    """At most `most` pictures, and no more than `BATCH_BYTES` unless one alone has more."""
    batch: list[Present] = []
    for one in todo:
        if batch and (len(batch) == most or sum(other.size for other in batch) + one.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _warn_of_strangers(captions: Mapping[str, Captions], here: set[str]) -> None:
    strangers = [path for path in captions if id_of(path) not in here]
    if strangers:
        log.warning("%d captioned pictures are not in the folder, the first is %s", len(strangers), strangers[0])


@dataclass
class _Work:
    """What the batches of one update share."""

    store: Store
    encoder: Encoder
    captions: Mapping[str, Captions] | None
    known: dict[str, Entry]
    outcome: Outcome

    def __post_init__(self) -> None:
        self._by_hash = {entry.hash: entry.id for entry in self.known.values() if entry.hash}

    def batch(self, batch: Sequence[Present]) -> None:
        """Reads, embeds and writes some pictures."""
        contents = {one: content for one in batch if (content := self._read(one)) is not None}
        entries = {one: self._entry(one, content) for one, content in contents.items()}
        same = {one: self._by_hash[e.hash] for one, e in entries.items() if e.hash in self._by_hash}
        vectors = self.store.vectors(sorted(set(same.values())))
        kept = {one: vectors[id] for one, id in same.items() if id in vectors}
        new = [one for one in entries if one not in kept]
        made = self._embed(new, contents)
        rows = kept | made
        if rows:
            self.store.put([entries[one] for one in rows], np.stack(list(rows.values())))
        self._by_hash |= {entries[one].hash: entries[one].id for one in rows}
        self.outcome.moved += len(kept)
        self.outcome.embedded += len(made)

    def recaption(self, entries: Sequence[Entry]) -> None:
        """Writes entries whose captions alone have changed."""
        for start in range(0, len(entries), AT_ONCE):
            vectors = self.store.vectors([entry.id for entry in entries[start : start + AT_ONCE]])
            part = [entry for entry in entries[start : start + AT_ONCE] if entry.id in vectors]
            self.store.put(part, np.stack([vectors[entry.id] for entry in part]))
            self.outcome.recaptioned += len(part)

    def _read(self, one: Present) -> list[bytes] | None:
        try:
            return [file.read_bytes() for file in one.sources]
        except OSError as error:
            self.outcome.skipped[one.path] = f"it cannot be read ({error.strerror})"
            return None

    def _entry(self, one: Present, content: Sequence[bytes]) -> Entry:
        id = id_of(one.path)
        before = self.known[id].captions if id in self.known else {}
        return Entry(
            id=id,
            path=one.path,
            size=one.size,
            mtime=one.mtime,
            hash=_hash(content),
            date=_exif_date(content[0]) or one.mtime // 10**9,
            captions=before if self.captions is None else self.captions.get(one.path, {}),
        )

    def _embed(self, pictures: Sequence[Present], contents: Mapping[Present, list[bytes]]) -> dict[Present, np.ndarray]:
        if not pictures:
            return {}
        unread: set[Present] = set()

        def frames(one: Present) -> Iterator[np.ndarray]:
            try:
                yield from decode_clip(contents[one], limit=self.encoder.frames)
            except ImageError as error:
                self.outcome.skipped[one.path] = str(error)
                unread.add(one)

        vectors = self.encoder.images(frames(one) for one in pictures)
        made = {one: vector for one, vector in zip(pictures, vectors, strict=True) if one not in unread}
        if not all(np.isfinite(vector).all() for vector in made.values()):
            raise UserError("the model gives vectors that are not finite; train it anew, or give another --model")
        return made


def _hash(content: Sequence[bytes]) -> str:
    """SHA-256 of a picture; of a clip, that of its frames' hashes."""
    hashes = [hashlib.sha256(one).hexdigest() for one in content]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _exif_date(content: bytes) -> int:
    """When a photograph was made, in seconds since 1970, as if the camera's clock was UTC; 0 where that is not said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                text = str(image.getexif().get_ifd(_EXIF).get(_DATE_TIME_ORIGINAL, ""))
        date = datetime.datetime.strptime(text.strip("\0 "), "%Y:%m:%d %H:%M:%S").replace(tzinfo=datetime.UTC)
        return max(int(date.timestamp()), 0)
    except Exception:  # noqa: BLE001  # Pillow raises nearly anything on a broken block; the picture counts, not it
        return 0


def from_gallery(store: Store, gallery: Gallery, root: str, *, source: str) -> Outcome:
    """Makes the index the gallery of a training run; nothing is embedded.

    Args:
      store: an index with its manifest.
      gallery: with captions in the language `source`.
      root: the folder that holds the gallery's pictures; "" where it has none.
      source: language of its captions.

    Raises:
      UserError: neither has a folder, and the index holds nothing of this gallery.
    """
    outcome, known = Outcome(), {entry.id: entry for entry in store.entries()}
    entries: list[Entry] = []
    for id, caption, path in zip(gallery.ids, gallery.captions, gallery.paths, strict=True):
        name = os.path.relpath(path, root).replace(os.sep, "/") if root else id
        date = int(os.path.getmtime(path)) if root and os.path.exists(path) else 0
        captions = {source: (caption,)} if caption else {}
        entries.append(Entry(id=id_of(name), path=name, date=date, captions=captions))
    here = {entry.id for entry in entries}
    if not root and known and here.isdisjoint(known):  # no folder tells them apart: these were imported
        raise UserError(f"--index={store.uri} holds none of the training run's pictures; give another --index for them")
    new = [row for row, entry in enumerate(entries) if known.get(entry.id) != entry]
    store.put([entries[row] for row in new], gallery.embeddings[new])
    gone = [id for id in known if id not in here]
    store.remove(gone)
    store.flush()
    outcome.unchanged, outcome.moved, outcome.removed = len(entries) - len(new), len(new), len(gone)
    return outcome


def root_of(gallery: Gallery, *, within: Sequence[str]) -> str:
    """The folder that holds all pictures of a gallery; "" if one has none.

    What lies in it is handed out by the service, and a gallery may be a stranger's: its paths alone do not decide.

    Args:
      gallery: of a training run.
      within: the folders that the run read its pictures from or wrote them to; the root is one of them, or below.

    Raises:
      UserError: it is not.
    """
    if not gallery.paths or not all(gallery.paths):
        return ""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in gallery.paths])
    if not any(_holds(folder, root) for folder in within):
        raise UserError(
            f"--model: the pictures of its gallery have the common folder {root}, which is not in the run's "
            f"({', '.join(within)}); give --images=DIR, or start the command where the training was started"
        )
    return root


def _holds(folder: str, root: str) -> bool:
    try:
        place = Path(folder).resolve()
        return place != Path(place.anchor) and Path(root).resolve().is_relative_to(place)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no path
        return False
