"""Export and import of an index's vectors: .npy shards with parquet metadata.

    img_emb/img_emb_0.npy            (n, D) float16 or float32
    metadata/metadata_0.parquet      one row per vector: image_path, caption, and columns of this package
    cl2cm_index.json                 the model that made the vectors, and the checksums of all files

Source: clip-retrieval (the layout, which its inference writes and its index reads).
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.data.readers.feature_file import map_floats
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.checksums import checksum
from cl2cm_jax.runtime.storage import exclusive
from cl2cm_jax.search.entry import Entry, captions_from_text, captions_to_text, id_of
from cl2cm_jax.search.parquet_rows import BadRowsError, rows
from cl2cm_jax.search.stores.milvus import MAX_CAPTIONS, MAX_PATH, Manifest, Store
from cl2cm_jax.text.json_file import read_json

SHARD = 100_000  # vectors per file
MANIFEST_FILE = "cl2cm_index.json"
MAX_TEXT = 500_000_000  # bytes of all texts of a metadata file, with repetitions
TEXT, TEXT_PER_BYTE = 50_000_000, 10  # also: so many, and for each byte of the file
MIN_BYTES = 128  # of a vector, where a file has more than `SHARD`
PART, PART_TEXT = 8192, 8_000_000  # entries that are read at a time, and bytes of their texts
_SUMS = "checksums"  # a key of the manifest's file: CRC-32 of all files by name, and of the rest of the manifest
_VECTORS, _METADATA = "img_emb", "metadata"
_PARTS = (_VECTORS, MANIFEST_FILE, _METADATA)  # of an export, in the order of removal; without the first it is not read
_SHARDS = {_VECTORS: re.compile(r"img_emb_(\d+)\.npy"), _METADATA: re.compile(r"metadata_(\d+)\.parquet")}
_NEW, _OLD = ".export.partial", ".export.before"  # folders beside them while the export is replaced


def write_vectors(store: Store, out: Path, *, shard: int = SHARD) -> int:
    """Writes all entries with their vectors; returns their number.

    An earlier export at the same place is kept until the new one is complete, so that an interruption loses neither.

    Raises:
      UserError: `out` has vectors or metadata of another program in it, or another process is writing it.
    """
    with exclusive(out / ".export.lock", busy=f"--out={out}: another process is writing it; wait for it"):
        if (out / _OLD).exists():
            _swap(out)  # completes an interrupted exchange
        _check_out(out)
        try:
            total = _write(store, out / _NEW, shard)
        except BaseException:
            shutil.rmtree(out / _NEW, ignore_errors=True)
            raise
        _swap(out)
        return total


def _write(store: Store, new: Path, shard: int) -> int:
    assert store.manifest is not None
    if new.exists():
        shutil.rmtree(new)
    for name in _SHARDS:
        (new / name).mkdir(parents=True)
    total = 0
    for number, (entries, vectors) in enumerate(_shards(store, shard)):
        np.save(new / _VECTORS / f"img_emb_{number}.npy", vectors)
        _write_metadata(new / _METADATA / f"metadata_{number}.parquet", entries)
        total += len(entries)
    sums = {path.relative_to(new).as_posix(): checksum(path) for path in sorted(new.rglob("*.*")) if path.is_file()}
    content = asdict(store.manifest) | {_SUMS: sums | {MANIFEST_FILE: _sum_of(store.manifest)}}
    write_text(new / MANIFEST_FILE, json.dumps(content, indent=2, ensure_ascii=False))
    return total


def _check_out(out: Path) -> None:
    is_export = (out / MANIFEST_FILE).is_file()
    for name, shard in _SHARDS.items():
        for file in (out / name).iterdir() if (out / name).exists() else ():
            if not (is_export and shard.fullmatch(file.name)):
                raise UserError(f"--out={out} has {name}/{file.name}, which is not from an export; give a new folder")


def _swap(out: Path) -> None:
    """Replaces the previous export by the new one, which is complete; resumes an interrupted exchange.

    The vectors are moved away first and in last, so that they are never read with the metadata of the other export.
    """
    new, old = out / _NEW, out / _OLD
    old.mkdir(exist_ok=True)
    for part in _PARTS:
        if (new / part).exists() and (out / part).exists():
            (out / part).rename(old / part)
    for part in reversed(_PARTS):
        if (new / part).exists():
            (new / part).rename(out / part)
    for done in (new, old):  # `old` last: it marks an exchange that is not complete
        if done.exists():
            shutil.rmtree(done)


def _shards(store: Store, size: int) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """Parts of at most so many entries, and of so little text that `read_vectors` accepts it, however it compresses."""
    entries: list[Entry] = []
    vectors: list[np.ndarray] = []
    text = 0
    for entry, vector in (row for part in store.everything() for row in zip(*part, strict=True)):
        entries.append(entry)
        vectors.append(vector)
        text += len(entry.path.encode()) + 2 * len(captions_to_text(entry.captions, limit=10**9).encode()) + 96
        if len(entries) == size or text > TEXT - 4 * MAX_CAPTIONS:
            yield entries, np.stack(vectors)
            entries, vectors, text = [], [], 0
    if entries:
        yield entries, np.stack(vectors)


def _write_metadata(path: Path, entries: list[Entry]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "image_path": [entry.path for entry in entries],
        "caption": [entry.caption()[1] for entry in entries],
        "captions": [captions_to_text(entry.captions, limit=10**9) for entry in entries],
        **{name: [getattr(entry, name) for entry in entries] for name in ("id", "hash", "size", "mtime", "date")},
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def read_vectors(folder: Path, *, dim: int | None = None) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """Reads entries with unit vectors (n, D) float32, in parts, from an export or from clip-retrieval's files.

    A file that its manifest has a checksum of is compared with it.

    Args:
      folder: has img_emb/ and metadata/.
      dim: the D that is required.

    Raises:
      UserError: the folder has another layout, a file is damaged or a pickle, or metadata and vectors do not match.
    """
    files = folder.glob(f"{_VECTORS}/img_emb_*.npy")
    found = {int(match[1]): path for path in files if (match := _SHARDS[_VECTORS].fullmatch(path.name))}
    if not found and (folder / _OLD).exists():
        raise UserError(f"--vectors={folder} is from an interrupted export; run that export again")
    if not found:
        raise UserError(f"--vectors={folder} has no img_emb/img_emb_0.npy; give a folder in clip-retrieval's layout")
    sums = _read_export(folder)[1]
    shards = [(path, folder / _METADATA / f"metadata_{number}.parquet") for number, path in sorted(found.items())]
    if sums is not None:
        _check_names(folder, sums, {path for shard in shards for path in shard})
    for path, metadata in shards:
        for file in (path, metadata):
            if not file.is_file():
                raise UserError(f"{file} is missing, or is not a regular file; get a fresh copy of the vectors")
            if sums is not None and checksum(file) != sums[file.relative_to(folder).as_posix()]:
                raise UserError(f"{file} is damaged, by its checksum in {MANIFEST_FILE}; export the vectors again")
        vectors = _read_array(path, dim)
        start = 0
        for entries in _parts(_read_metadata(metadata, len(vectors)), metadata):
            yield entries, vectors[start : start + len(entries)]
            start += len(entries)


def _check_names(folder: Path, sums: Mapping[str, int], paths: AbstractSet[Path]) -> None:
    listed, there = {folder / name for name in sums}, {path for path in paths if path.exists()}
    if listed != there:
        path = min(listed ^ there)
        state = "is missing" if path in listed else f"is not in {MANIFEST_FILE}"
        raise UserError(f"{path} {state}; export the vectors again")


def _read_array(path: Path, dim: int | None) -> np.ndarray:
    mapped = map_floats(path, shape="(n, D)", axes=(2,))
    if dim not in (None, mapped.shape[1]):
        raise UserError(f"{path} has vectors of {mapped.shape[1]} numbers, the model {dim}")
    if len(mapped) > max(SHARD, mapped.nbytes // MIN_BYTES):
        raise UserError(f"{path} has {len(mapped):,} vectors of {mapped.shape[1]} numbers; write {SHARD:,} a file")
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinity, which is refused below
        vectors = np.asarray(mapped, np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise UserError(f"{path} has a vector that is not finite, or zero; remove its row from both files")
    return vectors / lengths


def _read_metadata(path: Path, count: int) -> Iterator[dict[str, Any]]:
    try:
        limit = min(MAX_TEXT, TEXT + TEXT_PER_BYTE * path.stat().st_size)
        yield from rows(path, count=count, text_limit=limit)
    except BadRowsError as error:
        raise UserError(f"{path} {error}") from error
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); get a fresh copy of it with its vectors"
        ) from error


def _parts(rows: Iterable[dict[str, Any]], source: Path) -> Iterator[list[Entry]]:
    """Entries in parts of limited size: captions take more memory than their text."""
    part: list[Entry] = []
    size = 0
    for row in rows:
        part.append(_entry(row, source))
        size += sum(len(text) for text in row.values() if isinstance(text, str))
        if len(part) == PART or size > PART_TEXT:
            yield part
            part, size = [], 0
    if part:
        yield part


def _entry(row: dict[str, Any], source: Path) -> Entry:
    path = row["image_path"]
    if not isinstance(path, str) or not path or len(path.encode(errors="replace")) > MAX_PATH:
        raise UserError(f"{source} has the image_path {str(path)[:80]!r}; it must be text of 1 to {MAX_PATH} bytes")
    captions = captions_from_text(row["captions"]) if isinstance(row.get("captions"), str) else {}
    if not captions and isinstance(row.get("caption"), str) and row["caption"]:
        captions = {"und": (row["caption"],)}  # "undetermined", by ISO 639-2
    numbers = {name: row[name] for name in ("size", "mtime", "date") if _is_int64(row.get(name))}
    hash = str(row.get("hash") or "")
    hash = hash if re.fullmatch("[0-9a-f]{64}", hash) else ""
    return Entry(id=id_of(path), path=path, hash=hash, captions=captions, **numbers)


def _is_int64(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an export; None for files of other programs.

    Raises:
      UserError: it is damaged.
    """
    return _read_export(folder)[0]


def _read_export(folder: Path) -> tuple[Manifest | None, dict[str, int] | None]:
    """The manifest, and the checksums of the files by name; None where there are none."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None, None
    try:
        content = read_json(path)
        sums = content.pop(_SUMS, None)
        manifest = Manifest(**content)
        if sums is not None and sums.pop(MANIFEST_FILE) != _sum_of(manifest):
            raise ValueError(f"{MANIFEST_FILE} has another checksum")
        return manifest, sums
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); export the vectors again") from error


def _sum_of(manifest: Manifest) -> int:
    return zlib.crc32(json.dumps(asdict(manifest), sort_keys=True).encode())
