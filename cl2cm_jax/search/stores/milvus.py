"""An index in Milvus: a Milvus Lite file, or a collection of a server; the URI decides."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime.moved import present_place, seen_from
from cl2cm_jax.search.entry import Captions, Entry, Filters, Found, captions_from_text, captions_to_text
from cl2cm_jax.search.stores import lite
from cl2cm_jax.text.languages import canonical

COLLECTION = "pictures"
FORMAT = 1  # increase it when an older reader would misread an index
MAX_PATH, MAX_CAPTIONS, MAX_LANGUAGES = 4096, 60_000, 1024  # bytes, bytes, number: limits of Milvus's fields
MAX_INT64 = 2**63 - 1
AT_ONCE = 1000  # rows per request
_MANIFEST = "cl2cm_manifest"  # property of the collection
_NEAR = "near"  # the folder of the pictures as seen from a local index, so that both may be moved
_FIELDS = ["id", "path", "size", "mtime", "hash", "date", "captions"]
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,254}")  # allowed by a Milvus server
MAX_RESULTS = 10_000  # per query; Milvus has a limit of 16,384


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Model and folder of an index."""

    weights: str  # identifies the weights that made the vectors, see `Encoder`
    model: str  # its name, for messages
    dim: int  # D, of the vectors
    images: str = ""  # the folder that paths are relative to; "" if only vectors are known
    format: int = FORMAT

    def check(self, *, weights: str, model: str, uri: str) -> None:
        """Raises a UserError unless the vectors were made by that model."""
        if weights != self.weights:
            raise UserError(
                f"--index={uri} holds vectors of the model {self.model!r} ({self.weights}), but --model is {model!r} "
                f"({weights}); give the model that made it, or another --index for this one"
            )


def is_local(uri: str) -> bool:
    """Whether a URI names a file of Milvus Lite, not a server."""
    return "://" not in uri


class Store:
    """A collection of pictures in Milvus. As a context manager it closes and turns errors of Milvus into UserErrors.

    Args:
      uri: a path that ends in ".db" (Milvus Lite), or "http://host:19530" (a server, whose token is `token`).
      token: "user:password" or a key of the server's.
      collection: its name in the database.

    A local index is checked before it is opened, and its checksums are written when it is closed after changes.

    Raises:
      UserError: pymilvus is not installed, the file is in use or damaged, the server does not answer, or the collection
        is not an index of this package.
    """

    def __init__(self, uri: str, *, token: str = "", collection: str = COLLECTION):
        if not _NAME.fullmatch(collection):
            raise UserError(
                f"--collection={collection!r} is not valid; use A to Z, a to z, 0 to 9 and _, no digit first"
            )
        self.uri, self._collection = uri, collection
        self._client: Any
        self._server: lite.Server | None
        self._client, self._server = _connected(uri, token)
        self._changed = self._unfinished = False
        self._sums: dict[str, tuple[int, int]] = {}
        try:
            is_there = self._server is None or lite.check(Path(uri), collection)
            self.manifest = self._read_manifest() if is_there else None
        except BaseException as error:
            self.close()
            _raise_milvus_error(error, uri)
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # of the error that is raised already
            self.close()
        _raise_milvus_error(error, self.uri)

    def __len__(self) -> int:
        return self.count(Filters())

    def count(self, filters: Filters) -> int:
        """The number of entries that meet the filters."""
        rows = self._client.query(self._collection, filter=filters.expression(), output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Closes the connection, so that another process can open the file."""
        self._client.close()
        server, self._server = self._server, None
        if server is None:
            return
        try:
            if self._changed:
                server.finish(self._collection)
                lite.complete(Path(self.uri), self._collection)
        finally:
            server.close()

    def _begin(self) -> None:
        """To be called before each change."""
        if self._server is not None and not self._changed:
            lite.begin(Path(self.uri), self._collection)
            self._changed = True

    def _record(self) -> None:
        """To be called after each change of entries."""
        if self._server is not None and self._changed:
            lite.record(Path(self.uri), self._collection, self._sums)

    def create(self, manifest: Manifest) -> None:
        """Creates the empty collection."""
        from pymilvus import DataType, MilvusClient

        self._begin()
        if self._server is not None:
            lite.clear(Path(self.uri), self._collection)
        if self._unfinished:
            self._client.drop_collection(self._collection)
        content = self._stored(manifest)
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=content)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=32)
        for name, length in (("path", MAX_PATH), ("hash", 64), ("captions", 65_535)):
            schema.add_field(name, DataType.VARCHAR, max_length=length)
        for name in ("size", "mtime", "date"):
            schema.add_field(name, DataType.INT64)
        languages = {"element_type": DataType.VARCHAR, "max_capacity": MAX_LANGUAGES, "max_length": 32}
        schema.add_field("languages", DataType.ARRAY, **languages)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=manifest.dim)
        index = self._client.prepare_index_params()
        kind: dict[str, Any] = {"index_type": "FLAT"}  # exact search, which is fast enough for a local file
        if not is_local(self.uri):
            kind = {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
        index.add_index("vector", metric_type="IP", **kind)
        strong = {"consistency_level": "Strong"}  # a resumed run must see the rows of the killed one
        self._client.create_collection(self._collection, schema=schema, index_params=index, **strong)
        if self._server is not None:
            lite.begin(Path(self.uri), self._collection)
        self.set_manifest(manifest)

    def set_manifest(self, manifest: Manifest) -> None:
        """Replaces the manifest."""
        self._begin()
        content = self._stored(manifest)
        self._client.alter_collection_properties(self._collection, properties={_MANIFEST: content})
        self.manifest = manifest

    def _stored(self, manifest: Manifest) -> str:
        """The manifest as JSON; that of a local index also has its folder as seen from the index."""
        near = seen_from(Path(self.uri).parent, manifest.images) if is_local(self.uri) else ""
        return json.dumps(asdict(manifest) | {_NEAR: near}, ensure_ascii=False)

    def _parsed(self, content: str) -> Manifest:
        fields = json.loads(content)
        near, manifest = fields.pop(_NEAR, ""), Manifest(**fields)
        if not near or not is_local(self.uri):
            return manifest
        return replace(manifest, images=present_place(manifest.images, near=near, folder=Path(self.uri).parent))

    def _read_manifest(self) -> Manifest | None:
        if not self._client.has_collection(self._collection):
            return None
        about = self._client.describe_collection(self._collection)
        # Milvus Lite keeps properties and loses descriptions; the description exists from the creation on.
        content = (about.get("properties") or {}).get(_MANIFEST) or about.get("description") or ""
        try:
            manifest = self._parsed(content)
        except (ValueError, TypeError, AttributeError):
            if is_local(self.uri) and not content and not self._any_row():
                self._unfinished = True  # killed between creating it and setting the manifest
                return None
            raise UserError(
                f"--index={self.uri} has a collection {self._collection!r} that is not an index of cl2cm; "
                "give another name with --collection"
            ) from None
        if manifest.format != FORMAT:
            raise UserError(f"--index={self.uri} has format {manifest.format}, this version reads {FORMAT}; rebuild it")
        self._client.load_collection(self._collection)
        return manifest

    def _any_row(self) -> bool:
        self._client.load_collection(self._collection)
        return bool(self._client.query(self._collection, filter="", limit=1, output_fields=["id"]))

    def put(self, entries: Sequence[Entry], vectors: np.ndarray) -> None:
        """Adds entries with their vectors (N, D) float32, replacing those of the same id."""
        self._begin()
        rows = [
            {
                **{name: getattr(entry, name) for name in _FIELDS},
                "captions": captions_to_text(entry.captions, limit=MAX_CAPTIONS),
                "languages": sorted(entry.captions)[:MAX_LANGUAGES],
                "vector": vector,
            }
            for entry, vector in zip(entries, np.asarray(vectors, np.float32), strict=True)
        ]
        for start in range(0, len(rows), AT_ONCE):
            self._client.upsert(self._collection, rows[start : start + AT_ONCE])
        self._record()

    def remove(self, ids: Sequence[str]) -> None:
        """Removes the entries of these ids."""
        if ids:
            self._begin()
        for start in range(0, len(ids), AT_ONCE):
            self._client.delete(self._collection, ids=list(ids[start : start + AT_ONCE]))
        self._record()

    def flush(self) -> None:
        """Writes all changes to disk; an index of an earlier version gets its checksums when it is closed."""
        if self._server is not None and not lite.is_listed(Path(self.uri), self._collection):
            self._begin()
        self._client.flush(self._collection)

    def entries(self) -> Iterator[Entry]:
        """All entries, in no particular order."""
        for row in self._rows(_FIELDS):
            yield _entry(row)

    def everything(self) -> Iterator[tuple[list[Entry], np.ndarray]]:
        """All entries with vectors (n, D) float32, in parts, in no particular order."""
        rows = self._rows([*_FIELDS, "vector"])
        while part := list(itertools.islice(rows, AT_ONCE)):
            yield [_entry(row) for row in part], np.asarray([row["vector"] for row in part], np.float32)

    def _rows(self, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        if self.manifest is None:
            return
        # Milvus Lite scans every row for each request, so few large requests of 16 MB
        rows = min(8000, 1 + 4_000_000 // self.manifest.dim) if "vector" in fields else 8000
        found = self._client.query_iterator(self._collection, filter="", batch_size=rows, output_fields=list(fields))
        try:
            while batch := found.next():
                yield from batch
        finally:
            found.close()

    def languages(self) -> list[str]:
        """The codes of the languages that captions are in, sorted; scans every row."""
        return sorted({canonical(language) for row in self._rows(["languages"]) for language in row["languages"]})

    def entry(self, id: str) -> Entry | None:
        """The entry of an id, or None."""
        rows = self._client.get(self._collection, ids=[id], output_fields=_FIELDS)
        return _entry(rows[0]) if rows else None

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors (D,) float32 of those ids that exist."""
        found: dict[str, np.ndarray] = {}
        for start in range(0, len(ids), AT_ONCE):
            part = list(ids[start : start + AT_ONCE])
            rows = self._client.get(self._collection, ids=part, output_fields=["id", "vector"])
            found |= {row["id"]: np.asarray(row["vector"], np.float32) for row in rows}
        return found

    def search(self, queries: np.ndarray, *, top: int, filters: Filters | None = None) -> list[list[Found]]:
        """The `top` best entries for each of the queries (M, D), best first."""
        effort = {"params": {} if is_local(self.uri) else {"ef": max(128, 2 * top)}}
        answers = self._client.search(
            self._collection,
            data=list(np.asarray(queries, np.float32)),
            limit=min(top, MAX_RESULTS),
            filter=(filters or Filters()).expression(),
            output_fields=_FIELDS,
            search_params=effort,
        )
        return [
            [Found(_entry({**hit["entity"], "id": hit["id"]}), float(hit["distance"])) for hit in hits]
            for hits in answers
        ]


def _entry(row: dict[str, Any]) -> Entry:
    captions: Captions = captions_from_text(row["captions"])
    return Entry(**{name: row[name] for name in _FIELDS if name != "captions"}, captions=captions)


def _raise_milvus_error(error: BaseException, uri: str) -> None:
    from pymilvus.exceptions import MilvusException

    if isinstance(error, MilvusException):
        raise UserError(
            f"--index={uri}: Milvus ended with an error ({_first_line(error)}); try again, and if that does not help "
            "index into another --index",
            id="milvus",
        ) from error


def _connected(uri: str, token: str) -> tuple[Any, lite.Server | None]:
    """A client, and the server of a local index."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if is_local(uri):
            import milvus_lite as _  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; in a checkout pip install -e '.[index]'") from error
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors that they log are also raised
    if is_local(uri):
        return _opened(uri)
    try:
        return cast(Any, MilvusClient)(uri=uri, token=token), None
    except (MilvusException, ImportError, OSError, ValueError) as error:
        raise UserError(f"--index={uri} does not answer ({_first_line(error)}); start the server") from error


def _opened(uri: str) -> tuple[Any, lite.Server]:
    from milvus_lite.exceptions import DataDirLockedError
    from pymilvus import MilvusClient

    lite.check_location(uri)
    try:
        server = lite.Server(Path(uri))
    except DataDirLockedError as error:
        raise UserError(
            f"--index={uri} cannot be opened: another process has it open, and a file can be open in one process only; "
            "wait for the other one or stop it, or use a Milvus server and give its http:// address",
            id="index-in-use",
        ) from error
    # the server is in this process, whatever proxy the environment names; pings while it computes would be taken for
    # its end, or for an attack
    options = {"grpc.enable_http_proxy": 0, "grpc.keepalive_time_ms": 2**31 - 1}
    try:
        client = cast(Any, MilvusClient)(uri=server.uri, grpc_options=options)
    except BaseException:
        server.close()
        raise
    return client, server


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "message", "")) or str(error) or type(error).__name__).splitlines()[0][:200]
