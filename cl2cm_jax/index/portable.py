"""Vectors out of an index and into one, in the layout of clip-retrieval: .npy shards with parquet beside them.

    img_emb/img_emb_0.npy            (n, D) float16 or float32
    metadata/metadata_0.parquet      a row a vector: image_path, caption, and what we add

Source: the layout is clip-retrieval's (its inference writes it, its index reads it); the code is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cl2cm_jax.atomic import replacing, write_text
from cl2cm_jax.data.feature_file import map_floats
from cl2cm_jax.errors import UserError
from cl2cm_jax.index.entry import Entry, captions_from_text, captions_to_text, id_of
from cl2cm_jax.index.store import MAX_PATH, Manifest, Store

SHARD = 100_000  # vectors a file
MANIFEST_FILE = "cl2cm_index.json"
_COLUMNS = ("image_path", "caption", "captions", "id", "hash", "size", "mtime", "date")
_NAME = re.compile(r"img_emb_(\d+)\.npy")


def write_portable(store: Store, out: Path, *, shard: int = SHARD) -> int:
    """Writes all entries with their vectors; returns how many.

    Raises:
      UserError: `out` has vectors of something else in it.
    """
    assert store.manifest is not None
    if (out / "img_emb").exists() and not (out / MANIFEST_FILE).exists():
        raise UserError(f"--out={out} holds vectors that are not ours; name a new folder")
    for old in [*out.glob("img_emb/img_emb_*.npy"), *out.glob("metadata/metadata_*.parquet")]:
        old.unlink()
    total, number = 0, 0
    for entries, vectors in _shards(store, shard):
        with replacing(out / "img_emb" / f"img_emb_{number}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        _write_metadata(out / "metadata" / f"metadata_{number}.parquet", entries)
        total, number = total + len(entries), number + 1
    write_text(out / MANIFEST_FILE, json.dumps(asdict(store.manifest), indent=2, ensure_ascii=False))
    return total


def _shards(store: Store, size: int) -> Iterator[tuple[list[Entry], np.ndarray]]:
    entries: list[Entry] = []
    vectors: list[np.ndarray] = []
    for part, rows in store.everything():
        for place in range(0, len(part), size):
            entries += part[place : place + size]
            vectors.append(rows[place : place + size])
            if len(entries) >= size:
                joined = np.concatenate(vectors)
                yield entries[:size], joined[:size]
                entries, vectors = entries[size:], [joined[size:]]
    if entries:
        yield entries, np.concatenate(vectors)


def _write_metadata(path: Path, entries: list[Entry]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "image_path": [entry.path for entry in entries],
        "caption": [entry.caption()[1] for entry in entries],
        "captions": [captions_to_text(entry.captions, most=10**9) for entry in entries],
        **{name: [getattr(entry, name) for entry in entries] for name in ("id", "hash", "size", "mtime", "date")},
    }
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def read_portable(folder: Path) -> Iterator[tuple[list[Entry], np.ndarray]]:
    """Reads entries with unit vectors (n, D) float32, shard by shard; other programs' are as good as ours.

    Raises:
      UserError: the folder has not that layout, a file is damaged, holds a pickle, or the two do not fit.
    """
    found = {int(m[1]): path for path in folder.glob("img_emb/img_emb_*.npy") if (m := _NAME.fullmatch(path.name))}
    if not found:
        raise UserError(f"--vectors={folder} has no img_emb/img_emb_0.npy; give a folder in clip-retrieval's layout")
    for number, path in sorted(found.items()):
        vectors = _read_vectors(path)
        entries = _read_metadata(folder / "metadata" / f"metadata_{number}.parquet", len(vectors))
        yield entries, vectors


def _read_vectors(path: Path) -> np.ndarray:
    mapped = map_floats(path, shape="(n, D)", axes=(2,))
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 becomes infinity, which is named below
        vectors = np.asarray(mapped, np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise UserError(f"{path} has a vector that is not finite, or zero; remove its row from both files")
    return vectors / lengths


def _read_metadata(path: Path, count: int) -> list[Entry]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows, columns = file.metadata.num_rows, file.schema_arrow.names
            if rows != count:  # before they are read: a few bytes can stand for any number of them
                raise UserError(f"{path} has {rows} rows for {count} vectors; write both anew")
            if "image_path" not in columns:
                raise UserError(f"{path} has no column image_path; it has {', '.join(columns)}")
            table = file.read([name for name in _COLUMNS if name in columns]).to_pylist()
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}); it belongs to the vectors beside it"
        ) from error
    return [_entry(row, path) for row in table]


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
    """The manifest of vectors that we wrote; None of others'."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); write the vectors anew") from error
