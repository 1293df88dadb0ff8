"""Export and import of an index's vectors: .npy shards with parquet metadata.

    img_emb/img_emb_0.npy            (n, D) float16 or float32
    metadata/metadata_0.parquet      one row per vector: image_path, caption, and columns of this package

Source: clip-retrieval (the layout, which its inference writes and its index reads).
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.data.readers.feature_file import map_floats
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.search.entry import Entry, captions_from_text, captions_to_text, id_of
from cl2cm_jax.search.stores.milvus import MAX_PATH, Manifest, Store

SHARD = 100_000  # vectors per file
MANIFEST_FILE = "cl2cm_index.json"
MAX_TEXT = 500_000_000  # bytes of all texts of a metadata file, with repetitions
_COLUMNS = ("image_path", "caption", "captions", "id", "hash", "size", "mtime", "date")
_VECTORS, _METADATA = "img_emb", "metadata"
_PARTS = (_VECTORS, MANIFEST_FILE, _METADATA)  # of an export, in the order of removal; without the first it is not read
_SHARDS = {_VECTORS: re.compile(r"img_emb_(\d+)\.npy"), _METADATA: re.compile(r"metadata_(\d+)\.parquet")}
_NEW, _OLD = ".export.partial", ".export.before"  # folders beside them while the export is replaced


def write_vectors(store: Store, out: Path, *, shard: int = SHARD) -> int:
    """Writes all entries with their vectors; returns their number.

    An earlier export at the same place is kept until the new one is complete, so that an interruption loses neither.

    Raises:
      UserError: `out` has vectors or metadata of another program in it.
    """
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
    write_text(new / MANIFEST_FILE, json.dumps(asdict(store.manifest), indent=2, ensure_ascii=False))
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
    rows = (row for entries, vectors in store.everything() for row in zip(entries, vectors, strict=True))
    while shard := list(itertools.islice(rows, size)):
        yield [entry for entry, _ in shard], np.stack([vector for _, vector in shard])


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


def read_vectors(folder: Path) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """Reads entries with unit vectors (n, D) float32, shard by shard, from an export or from clip-retrieval's files.

    Raises:
      UserError: the folder has another layout, a file is damaged or a pickle, or metadata and vectors do not match.
    """
    files = folder.glob(f"{_VECTORS}/img_emb_*.npy")
    found = {int(match[1]): path for path in files if (match := _SHARDS[_VECTORS].fullmatch(path.name))}
    if not found and (folder / _OLD).exists():
        raise UserError(f"--vectors={folder} is from an interrupted export; run that export again")
    if not found:
        raise UserError(f"--vectors={folder} has no img_emb/img_emb_0.npy; give a folder in clip-retrieval's layout")
    for number, path in sorted(found.items()):
        vectors = _read_array(path)
        entries = _read_metadata(folder / _METADATA / f"metadata_{number}.parquet", len(vectors))
        yield entries, vectors


def _read_array(path: Path) -> np.ndarray:
    mapped = map_floats(path, shape="(n, D)", axes=(2,))
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinity, which is refused below
        vectors = np.asarray(mapped, np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise UserError(f"{path} has a vector that is not finite, or zero; remove its row from both files")
    return vectors / lengths


def _read_metadata(path: Path, count: int) -> list[Entry]:
    import pyarrow
    import pyarrow.parquet

    try:
        # Dictionary columns keep a text that many rows share once, so that the size is checked before it is repeated.
        leaves = list(pyarrow.parquet.read_metadata(path).schema)
        columns = [leaf.path for leaf in leaves]  # nested ones, such as in a list, are ignored
        texts = [leaf.path for leaf in leaves if leaf.path in _COLUMNS and leaf.physical_type == "BYTE_ARRAY"]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            rows = file.metadata.num_rows
            if rows != count:  # before reading: a few bytes can encode any number of rows
                raise UserError(f"{path} has {rows} rows for {count} vectors; write both again")
            if "image_path" not in columns:
                raise UserError(f"{path} has no column image_path; it has {', '.join(columns)}")
            _check_size(_stored_size(file.metadata), path)
            table = file.read([name for name in _COLUMNS if name in columns])
            _check_size(_text_size(table), path)
            table = table.to_pylist()
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); get a fresh copy of it with its vectors"
        ) from error
    return [_entry(row, path) for row in table]


def _check_size(size: int, path: Path) -> None:
    if size > MAX_TEXT:
        raise UserError(f"{path} unpacks to {size:,} bytes, over the limit of {MAX_TEXT:,}; write smaller shards")


def _stored_size(metadata: Any) -> int:
    """Uncompressed bytes of the columns that are read, by the file's own metadata."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in _COLUMNS)


def _text_size(table: Any) -> int:
    """Bytes of all texts of a table of dictionary columns, with repetitions."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are created at import
    size = 0
    for column in table.columns:
        if pyarrow.types.is_dictionary(column.type):
            for chunk in column.chunks:
                lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
                size += compute.sum(lengths.cast(pyarrow.int64())).as_py() or 0
    return size


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
    """The manifest of an export; None for files of other programs."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); export the vectors again") from error
