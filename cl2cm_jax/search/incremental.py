"""Incremental update of an index: embed new and changed pictures, drop deleted ones.

Each batch is written before the next is embedded, under ids that depend on paths only. A killed run therefore loses at
most one batch, and the same command resumes it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from ml_collections import ConfigDict

from cl2cm_jax.data.media.clips import MAX_BYTES
from cl2cm_jax.data.readers.caption_file import read_rows
from cl2cm_jax.data.readers.picture_names import with_files
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery, common_folder
from cl2cm_jax.search.dates import taken
from cl2cm_jax.search.entry import Captions, Entry, id_of
from cl2cm_jax.search.scan import OUTSIDE, Item, Scan, embed, scan
from cl2cm_jax.search.stores.milvus import AT_ONCE, MAX_INT64, MAX_PATH, Store
from cl2cm_jax.trained.encoder import Encoder

BATCH, BATCH_BYTES = 32, 256_000_000  # minimum pictures between two writes, and maximum bytes of their files
AWAY_SHARE, AWAY_COUNT = 0.2, 10  # of an index: if more pictures than both are gone, none is removed

log = logging.getLogger(__name__)
OnProgress = Callable[[int, int], None]


@dataclass
class Outcome:
    """What an update did, in pictures; `skipped` has the paths of those that cannot be read, with the reason."""

    unchanged: int = 0
    embedded: int = 0
    moved: int = 0  # renamed or touched; the vector is kept
    recaptioned: int = 0
    removed: int = 0
    away: int = 0  # not in the folder now, and kept
    skipped: dict[str, str] = field(default_factory=dict)


def read_captions(path: Path, folder: Path | None = None) -> dict[str, Captions]:
    """The captions of a CSV, TSV or JSONL file, by picture; see docs/data.md for its form.

    With the folder of the pictures, names that are written in another way are those of its files.

    Raises:
      UserError: no such file, wrong columns, or a row is wrong (the first such row is named).
    """
    found: dict[str, dict[str, list[str]]] = {}
    rows = read_rows(str(path), flag="--captions")
    for row in with_files(rows, str(folder)) if folder else rows:
        found.setdefault(row.image, {}).setdefault(row.language, []).append(row.caption)
    return {image: {code: tuple(texts) for code, texts in one.items()} for image, one in found.items()}


def _indexable(folder: Path, *, frames: int, exclude: Sequence[str]) -> Scan:
    """The pictures of a folder that may be indexed; modification times are clipped to int64."""
    root, found = folder.resolve(), scan(folder, frames=frames, exclude=exclude)
    items, found.items = found.items, []
    for item in items:
        if reason := _unfit(item, root):
            found.skip(item.path, reason)
        else:
            found.items.append(replace(item, mtime=min(max(item.mtime, -MAX_INT64), MAX_INT64)))
    return found


def _unfit(item: Item, root: Path) -> str:
    """Why a picture may not be indexed, or "". Links that lead outside would be published by the service."""
    if any(not file.resolve().is_relative_to(root) for file in (item.place, *item.files)):
        return OUTSIDE
    try:
        length = len(item.path.encode())
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    if length > MAX_PATH:
        return f"its path has more than {MAX_PATH} bytes"
    return f"it has {item.size:,} bytes, over the limit of {MAX_BYTES:,}" if item.size > MAX_BYTES else ""


def update(
    store: Store,
    encoder: Encoder,
    folder: Path,
    *,
    captions: Mapping[str, Captions] | None = None,
    exclude: Sequence[str] = (),
    prune: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Outcome:
    """Updates the index to the present contents of the folder; entries of places without access are kept.

    So are, unless `prune`, entries that seem to be away with a disk: those of whose folder no picture is left, those of
    links to files that are not there, and all that are gone or damaged if they are many (`AWAY_SHARE`, `AWAY_COUNT`).

    Args:
      store: the index.
      encoder: of the model that made it.
      folder: the pictures.
      captions: by path inside the folder; None keeps those of the index.
      exclude: patterns of files and folders to leave out, see `scan`; their entries are removed.
      prune: removes the entries of all pictures that are not there.
      on_progress: called with the number of new and changed pictures that are done, and of all.

    Raises:
      UserError: no such folder, no picture in it, or the disk is full.
    """
    found = _indexable(folder, frames=encoder.frames, exclude=exclude)
    outcome = Outcome(skipped=found.skipped)
    known = {entry.id: entry for entry in store.entries()}
    todo: list[Item] = []
    recaptioned: list[Entry] = []
    for item in found.items:
        entry = known.get(id_of(item.path))
        if entry is None or (entry.size, entry.mtime) != (item.size, item.mtime):
            todo.append(item)
            continue
        wanted = entry.captions if captions is None else captions.get(item.path, {})
        if wanted != entry.captions:
            recaptioned.append(replace(entry, captions=wanted))
        else:
            outcome.unchanged += 1
    run = _Update(store, encoder, captions, known, found, outcome)
    done = 0
    for batch in _batches(todo, limit=max(BATCH, 4 * encoder.batch)):  # files are read while the encoder computes
        run.batch(batch)
        done += len(batch)
        on_progress(done, len(todo))
    present = {id_of(item.path) for item in found.items} - {id_of(path) for path in outcome.skipped}
    present |= set(map(id_of, found.hidden(entry.path for entry in known.values())))
    away = {} if prune else run.away(present)
    outcome.away = len(away)
    run.recaption([*recaptioned, *(_with_captions(entry, captions or {}) for entry in away.values())])
    outcome.removed = len(run.renamed) + _remove_others(store, known, present | away.keys() | run.renamed)
    found.warn()
    _warn_of_away(away.values(), outcome.skipped)
    if unknown := [path for path in captions or () if id_of(path) not in present | away.keys()]:
        log.warning("%d captioned pictures are not in the folder, the first is %s", len(unknown), unknown[0])
    return outcome


def _with_captions(entry: Entry, captions: Mapping[str, Captions]) -> Entry:
    return replace(entry, captions=captions.get(entry.path, entry.captions))


def _warn_of_away(away: Collection[Entry], skipped: Collection[str]) -> None:
    if away:
        folders = sorted({str(PurePosixPath(entry.path).parent) for entry in away})
        log.warning(
            "%d pictures of the index are %s now (in %s%s): kept, with their captions, as their disk may be "
            "away; when they are back nothing is embedded again, --prune removes them",
            len(away),
            "not there, or damaged," if any(entry.path in skipped for entry in away) else "not there",
            ", ".join(folders[:3]),
            f" and {len(folders) - 3} more folders" if len(folders) > 3 else "",
        )


def _remove_others(store: Store, known: Mapping[str, Entry], present: set[str]) -> int:
    """Removes all entries but those present, and completes the update; returns how many."""
    gone = [id for id in known if id not in present]
    store.remove(gone)
    store.flush()
    return len(gone)


def _batches(todo: Sequence[Item], *, limit: int) -> Iterator[list[Item]]:
    """Batches of at most `limit` pictures and, unless a single one is larger, `BATCH_BYTES`."""
    batch: list[Item] = []
    for item in todo:
        if batch and (len(batch) == limit or sum(other.size for other in batch) + item.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@dataclass
class _Update:
    """State that the batches of one update share."""

    store: Store
    encoder: Encoder
    captions: Mapping[str, Captions] | None
    known: dict[str, Entry]
    found: Scan
    outcome: Outcome

    def __post_init__(self) -> None:
        self._damaged: set[str] = set()  # paths of pictures that cannot be decoded
        self.renamed: set[str] = set()  # removed entries, whose vectors pictures at new places have taken over
        there = {id_of(item.path) for item in self.found.items}
        self._gone: dict[str, list[str]] = {}  # by hash: entries whose files are not there
        for entry in self._not_there(there):
            self._gone.setdefault(entry.hash, []).append(entry.id)
        self._by_hash = {entry.hash: entry.id for entry in self.known.values() if entry.hash}

    def batch(self, batch: Sequence[Item]) -> None:
        """Reads, embeds and writes some pictures; the vector of a renamed one is taken over."""
        contents = {item.path: content for item in batch if (content := self._read(item)) is not None}
        entries = {item.path: self._entry(item, contents[item.path]) for item in batch if item.path in contents}
        same = {path: self._by_hash[entry.hash] for path, entry in entries.items() if entry.hash in self._by_hash}
        vectors = self.store.vectors(sorted(set(same.values())))
        kept = {path: vectors[id] for path, id in same.items() if id in vectors}
        new = {path: contents[path] for path in entries if path not in kept}
        damaged: dict[str, str] = {}
        made = embed(self.encoder, new, damaged)
        self.outcome.skipped.update(damaged)
        self._damaged.update(damaged)
        if rows := kept | made:
            self.store.put([entries[path] for path in rows], np.stack(list(rows.values())))
        new_places = [path for path in kept if not self._is_touched(entries[path])]
        former = {self._former(entries[path].hash, same[path]) for path in new_places} - {""}
        self.store.remove(sorted(former))  # now, since a run that resumes this one would not know of the renaming
        self.renamed |= former
        self._by_hash |= {entries[path].hash: entries[path].id for path in rows}
        self.outcome.moved += len(kept)
        self.outcome.embedded += len(made)

    def _former(self, hash: str, source: str) -> str:
        """The entry of the former name of a picture, which takes its vector from `source`; "" if it is a copy."""
        gone = self._gone.get(hash, [])
        return gone.pop(gone.index(source) if source in gone else 0) if gone else ""

    def _not_there(self, settled: set[str]) -> Iterator[Entry]:
        """The entries whose files are damaged, or not in the folder as far as one can see, but those of `settled`."""
        hidden = self.found.hidden(entry.path for entry in self.known.values())
        unread = self.outcome.skipped.keys() - self.found.absent - self._damaged
        seen = settled | {id_of(path) for path in (*unread, *hidden)}
        for entry in self.known.values():
            if entry.id not in seen and not self.found.leaves_out(entry.path):
                yield entry

    def _is_touched(self, entry: Entry) -> bool:
        """Whether the same picture was at the same place before."""
        return (before := self.known.get(entry.id)) is not None and before.hash == entry.hash

    def away(self, present: set[str]) -> dict[str, Entry]:
        """The entries, by id, whose files are not there or damaged, and seem to be so with a disk that is away."""
        gone = {entry.id: entry for entry in self._not_there(present | self.renamed)}
        folders = {PurePosixPath(self.known[id].path).parent for id in present & self.known.keys()}
        folders |= {PurePosixPath()} if folders else set()  # what is left of a folder shows that its disk is there
        links = set(map(id_of, self.found.absent))
        away = {id: one for id, one in gone.items() if id in links or PurePosixPath(one.path).parent not in folders}
        many = len(gone) - len(away) > max(AWAY_SHARE * len(self.known), AWAY_COUNT)
        return gone if many else away

    def recaption(self, entries: Sequence[Entry]) -> None:
        """Writes entries of which only the captions have changed, if they have."""
        entries = [entry for entry in entries if entry.captions != self.known[entry.id].captions]
        for start in range(0, len(entries), AT_ONCE):
            part = entries[start : start + AT_ONCE]
            vectors = self.store.vectors([entry.id for entry in part])
            part = [entry for entry in part if entry.id in vectors]
            self.store.put(part, np.stack([vectors[entry.id] for entry in part]))
            self.outcome.recaptioned += len(part)

    def _read(self, item: Item) -> list[bytes] | None:
        try:
            return [file.read_bytes() for file in item.sources]
        except OSError as error:
            self.found.skip(item.path, f"it cannot be read ({error.strerror})", unseen=True)
            return None

    def _entry(self, item: Item, content: Sequence[bytes]) -> Entry:
        id = id_of(item.path)
        hash, date = _hash(content), taken(content[0])
        before = self.known.get(id) or self.known.get(self._by_hash.get(hash, ""))  # a renamed picture keeps captions
        return Entry(
            id=id,
            path=item.path,
            size=item.size,
            mtime=item.mtime,
            hash=hash,
            date=item.mtime // 10**9 if date is None else date,
            captions=(before.captions if before else {}) if self.captions is None else self.captions.get(item.path, {}),
        )


def _hash(content: Sequence[bytes]) -> str:
    """SHA-256 of a picture; for a clip, the hash of its frames' hashes."""
    hashes = [hashlib.sha256(one).hexdigest() for one in content]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def from_gallery(store: Store, gallery: Gallery, root: str, *, source: str, dated: bool = True) -> Outcome:
    """Updates the index to the gallery of a training run, with captions in `source`; nothing is embedded.

    Paths become relative to `root`, the folder of the gallery's pictures; "" if they have no files. Dates are those of
    the files, or none unless `dated`.

    Raises:
      UserError: there is no folder, and the index has other pictures only.
    """
    known = {entry.id: entry for entry in store.entries()}
    entries: list[Entry] = []
    for id, caption, path in zip(gallery.ids, gallery.captions, gallery.paths, strict=True):
        name = os.path.relpath(path, root).replace(os.sep, "/") if root else id
        date = int(os.path.getmtime(path)) if dated and os.path.exists(path) else 0
        captions = {source: (caption,)} if caption else {}
        entries.append(Entry(id=id_of(name), path=name, date=date, captions=captions))
    present = {entry.id for entry in entries}
    if not root and known and present.isdisjoint(known):  # imported vectors, which no folder distinguishes from these
        raise UserError(f"--index={store.uri} has none of the training run's pictures; give another --index for them")
    new = [row for row, entry in enumerate(entries) if known.get(entry.id) != entry]
    store.put([entries[row] for row in new], gallery.embeddings[new])
    removed = _remove_others(store, known, present)
    return Outcome(unchanged=len(entries) - len(new), moved=len(new), removed=removed)


def root_of(gallery: Gallery, *, within: Sequence[str]) -> str:
    """The common folder of a gallery's pictures; "" if one has no file.

    The service publishes what is in it, and a workdir may come from an untrusted source. Its paths must therefore be in
    one of the folders `within` that the run read its pictures from or wrote them to.

    Raises:
      UserError: they are not.
    """
    if not gallery.paths or not all(gallery.paths):
        return ""
    root = gallery.root or common_folder(gallery.paths)
    if not any(_contains(folder, root) for folder in within):
        raise UserError(
            f"--model: the pictures of its gallery have the common folder {root}, which is not in the run's "
            f"({', '.join(within)}); give --images=DIR, start the command where the training was started, or write "
            "the gallery again where they are now: cl2cm train --mode=evaluate --workdir=... --config.data.images=..."
        )
    return root


def is_drawn(root: str, data: ConfigDict) -> bool:
    """Whether a folder of pictures is in a built data set that holds its own drawings, such as the emoji.

    Only these are shown without being named by the user. Any other folder that a workdir names may be private, and the
    workdir a stranger's.
    """
    if data.images or data.root or data.name == "captions" or "." in data.name:
        return False
    folder = os.path.join(data.dir, data.name)
    parents = (Path(root).resolve(), *Path(root).resolve().parents)
    return any(_contains(folder, str(place)) and (place / "dataset_info.json").is_file() for place in parents)


def drawn_paths(gallery: Gallery, data: ConfigDict) -> set[str]:
    """The files of a workdir's gallery that may be opened unasked: the package's own drawings, see `is_drawn`."""
    files = list(filter(None, gallery.paths))
    root = gallery.root or common_folder(files)
    return {path for path in files if _contains(root, path)} if root and is_drawn(root, data) else set()


def _contains(folder: str, root: str) -> bool:
    try:
        place = Path(folder).resolve()
        return place != Path(place.anchor) and Path(root).resolve().is_relative_to(place)
    except (OSError, RuntimeError, ValueError):  # a loop of links, or not a valid path
        return False
