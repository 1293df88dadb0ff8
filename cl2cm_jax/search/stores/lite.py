"""Milvus Lite: the server of a local index, and the checks of its files before they are opened.

Where Milvus Lite cannot read its manifest it takes an older one, and it deletes every data file that the manifest does
not name. So nothing is opened before the manifest and all that it names have been checked.

    photos.db/LOCK                                    held by the process that has the index open
    photos.db/collections/pictures/schema.json        the fields, and the properties of the collection
    photos.db/collections/pictures/manifest.json      names the data files
    photos.db/collections/pictures/partitions/...     the data, as parquet files that are never changed
    photos.db/collections/pictures/checksums.json     of all these files, written when an update is complete
    photos.db/collections/pictures/checksums.json.before   the same list while an update runs, or after a kill
    photos.db/collections/pictures/wal/...            the changes that are not in data files yet, while an update runs
    photos.db/collections/pictures/checksums.json.wal      of these
    photos.db/trash/...                               what interrupted updates have left; the newest `KEPT` of them stay
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.runtime.atomic import write_text
from cl2cm_jax.runtime.checksums import LIST_NAME, checksum, verify_checksums, write_checksums

LOCK, TRASH = "LOCK", "trash"
KEPT = 2  # folders of the trash, the newest, that stay when an update is complete
_SCHEMA, _MANIFEST = "schema.json", "manifest.json"
_BEFORE, _WAL = f"{LIST_NAME}.before", f"{LIST_NAME}.wal"
_JSON = {name + end for name in (_SCHEMA, _MANIFEST) for end in ("", ".tmp", ".prev")}
_WITHOUT_DATA = _JSON | {LIST_NAME, _BEFORE, _WAL}
_NEW = frozenset({LOCK, TRASH, "collections", "databases", ".database-staging"})  # what an index has
_MANIFEST_KEYS = {"active_wal_number", "current_seq", "index_specs", "partitions", "schema_version", "version"}
_KINDS = {"data_files", "delta_files"}
_REMOVED = ".removed"  # ends the name of a folder of the trash that nobody needs
_PARQUET = b"PAR1"  # the first and the last bytes of a file
_ADVICE = "restore the index from a copy, or build it again at another --index"

log = logging.getLogger(__name__)


class Server:
    """Milvus Lite on a port of this machine; it has the lock of the index until it is closed."""

    def __init__(self, path: Path):
        from milvus_lite.adapter.grpc.server import start_server_in_thread
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(path))  # that of a pymilvus client in this process, which keeps it
        self._server, self._database, port = start_server_in_thread(
            data_dir=str(path.absolute()), host="127.0.0.1", port=0
        )
        self.uri = f"http://127.0.0.1:{port}"

    def finish(self, collection: str) -> None:
        """Writes what a collection has in memory, and ends its background work."""
        self._server.stop(grace=2).wait()
        if self._database.has_collection(collection):
            self._database.get_collection(collection).close()

    def close(self) -> None:
        """Stops the server and releases the lock."""
        self._server.stop(grace=2).wait()
        self._database.close()


def check_location(uri: str) -> None:
    """Refuses a location that is in other use or cannot be written; creates the parent folder."""
    if not uri.endswith(".db"):
        raise UserError(f"--index={uri} must end in .db (a file), or be the http:// address of a Milvus server")
    path = Path(uri)
    if path.is_file():
        raise UserError(f"--index={uri} is a file of another program; give a path that does not exist yet")
    path.parent.mkdir(parents=True, exist_ok=True)
    for written in (path, path / LOCK) if path.exists() else (path.parent,):
        if written.exists() and not os.access(written, os.W_OK):
            raise UserError(
                f"--index={uri}: {written} is not writable, and even a search takes a lock there; fix the "
                "permissions, or give another path"
            )
    names = {one.name for one in path.iterdir()} if path.exists() else set()
    if LOCK not in names and names - _NEW:
        others = ", ".join(sorted(names - _NEW)[:3])
        raise UserError(
            f"--index={uri} is a folder with other files in it ({others}); give a path that does not exist yet"
        )


def check(database: Path, collection: str) -> bool:
    """Checks the files of a collection, before Milvus opens it and while the lock is held; removes none.

    An index of an earlier version, and one whose update was killed, have no list of checksums; then the manifest must
    be complete, and what it names must be there.

    Returns:
      Whether there is a collection; not if its creation was interrupted.

    Raises:
      UserError: a file is missing or damaged.
    """
    folder = database / "collections" / collection
    if not _has_schema(folder):
        return False
    try:
        verify_checksums(folder)
        _check_unchanged(folder)
    except (OSError, ValueError) as error:  # a disk that cannot read it, or other content
        raise UserError(
            f"--index={database}: {one_line(error)}, by the checksums in {folder}; nothing was opened or changed; "
            f"{_ADVICE}",
            id="damaged-index",
        ) from error
    named = _named(folder)
    unnamed = sorted(path for path in _data_files(folder) if path.relative_to(folder).as_posix() not in named)
    if unnamed and not (folder / "snapshots").exists():
        _move_to_trash(database, folder, unnamed)
    if not (folder / LIST_NAME).exists():
        if named and not (folder / _BEFORE).exists():
            text = "--index=%s has no checksums (an earlier version wrote it?); its files are taken as they are"
            log.warning(text, database)
        _remove_copies(database, folder)
    return True


def is_listed(database: Path, collection: str) -> bool:
    """Whether the files of a collection have checksums, and no update runs."""
    return (database / "collections" / collection / LIST_NAME).exists()


def begin(database: Path, collection: str) -> None:
    """Marks that the files of a collection change from now on; without effect if they are marked."""
    folder = database / "collections" / collection
    if (folder / LIST_NAME).exists():
        os.replace(folder / LIST_NAME, folder / _BEFORE)


def record(database: Path, collection: str, sums: dict[str, tuple[int, int]]) -> None:
    """Writes the checksums of the changes so far, of which only new bytes are read, when these are on disk.

    Else a power failure could leave a list of changes that were lost, and the index would be taken for damaged.

    `sums`, which is updated, has the size and checksum of each file of them that were recorded before.
    """
    folder = database / "collections" / collection
    for path in folder.glob("wal/*.arrow"):
        size, value = sums.get(path.name, (0, 0))
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            file.seek(size)
            new = file.read()
            if new:
                os.fsync(file.fileno())
            sums[path.name] = size + len(new), zlib.crc32(new, value)
    write_text(folder / _WAL, json.dumps(sums))


def complete(database: Path, collection: str) -> None:
    """Writes the checksums of a collection that is closed."""
    folder = database / "collections" / collection
    if folder.is_dir():
        write_checksums(folder)
        for name in (_BEFORE, _WAL):
            (folder / name).unlink(missing_ok=True)
        _bound_trash(database)


def clear(database: Path, collection: str) -> None:
    """Removes the rest of a collection whose creation was interrupted, which has no data."""
    folder = database / "collections" / collection
    if folder.exists() and not _has_schema(folder):
        trash = _trash(database, _REMOVED) / collection
        folder.rename(trash)
        shutil.rmtree(trash.parent)
        _remove_if_empty(trash.parent.parent)


def _has_schema(folder: Path) -> bool:
    """Whether there is a collection: Milvus Lite creates the folder first and the schema after it.

    Raises:
      UserError: the schema is missing or damaged, and there is data.
    """
    schema = folder / _SCHEMA
    if not folder.is_dir() or _is_schema(schema):
        return folder.is_dir()
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if data := [path for path in files if path.name not in _WITHOUT_DATA]:
        raise UserError(
            f"{schema} is {'damaged' if schema.exists() else 'missing'}, and the {len(data)} data files beside it "
            "cannot be read without it; restore it from a copy, or build the index again at another --index",
            id="damaged-index",
        )
    return False


def _is_schema(path: Path) -> bool:
    try:
        return "fields" in json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, TypeError):
        return False


def _check_unchanged(folder: Path) -> None:
    """Raises a ValueError if what an update that was not completed had written, or left as it was, changed since."""
    before = _read_list(folder / _BEFORE)
    for path in _data_files(folder):
        name = path.relative_to(folder).as_posix()
        if name in before and checksum(path) != before[name]:
            raise ValueError(f"{name} is damaged")
    for name, recorded in _read_list(folder / _WAL).items():
        with contextlib.suppress(FileNotFoundError), (folder / "wal" / name).open("rb") as file:
            if [len(content := file.read(recorded[0])), zlib.crc32(content)] != recorded:
                raise ValueError(f"wal/{name} is damaged")


def _read_list(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError):
        raise ValueError(f"{path.name} is damaged") from None


def _data_files(folder: Path) -> Iterator[Path]:
    for kind in ("data", "delta"):
        yield from (path for path in folder.glob(f"partitions/*/{kind}/*") if path.is_file())


def _named(folder: Path) -> set[str]:
    """The data files that the manifest names, by their paths in `folder`.

    Raises:
      UserError: the manifest is damaged, or missing although there is data; or a file that it names is.
    """
    from milvus_lite.storage.manifest import Manifest

    path = folder / _MANIFEST
    if not path.exists() and not any(_data_files(folder)) and not (folder / f"{_MANIFEST}.prev").exists():
        return set()
    try:
        content = json.loads(path.read_bytes())
        named = {f"partitions/{name}" for name in _files_of(content)}
        taken: Any = Manifest.load(str(folder))
        if taken.version != content["version"]:
            raise ValueError("Milvus Lite would take an older one")
    except FileNotFoundError:
        raise _damaged(path, "missing") from None
    except Exception as error:  # noqa: BLE001  # Milvus Lite raises nearly any on a damaged manifest
        raise _damaged(path, "damaged") from error
    for name in named:
        if not (folder / name).is_file():
            raise _damaged(folder / name, "missing, which the manifest names")
        if not _is_parquet(folder / name):
            raise _damaged(folder / name, "damaged")
    return named


def _damaged(path: Path, state: str) -> UserError:
    return UserError(f"{path} is {state}; nothing was opened or changed; {_ADVICE}", id="damaged-index")


def _files_of(manifest: dict[str, Any]) -> Iterator[str]:
    """The files that a manifest names, below partitions/; raises almost anything if it is not complete."""
    if missing := _MANIFEST_KEYS - manifest.keys():
        raise ValueError(f"no {', '.join(sorted(missing))}")
    for partition, files in manifest["partitions"].items():
        if files.keys() != _KINDS:
            raise ValueError(f"the partition {partition} has {', '.join(files)}")
        yield from (f"{partition}/{name}" for kind in sorted(_KINDS) for name in files[kind])


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(max(-4, -path.stat().st_size), os.SEEK_END)
        return first == file.read(4) == _PARQUET


def _remove_copies(database: Path, folder: Path) -> None:
    """Removes the copies of vectors that Milvus Lite searches; it writes them again, from the data, where they lack.

    Without checksums nobody knows whether they are whole: a kill may have left one half-written.
    """
    if copies := list(folder.glob("partitions/*/indexes")):
        trash = _trash(database, _REMOVED)
        for number, path in enumerate(copies):
            path.rename(trash / f"{number}")
        shutil.rmtree(trash)
        _remove_if_empty(trash.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _trash(database: Path, end: str = "") -> Path:
    """A new folder for files that are to be removed."""
    trash = database / TRASH / f"{time.time_ns()}{end}"
    trash.mkdir(parents=True)
    return trash


def _bound_trash(database: Path) -> None:
    """Removes what earlier interrupted updates have left, once an update is complete, and says what stays."""
    folders = sorted((path for path in (database / TRASH).glob("*") if path.is_dir()), key=lambda path: path.name)
    kept = [path for path in folders if path.suffix != _REMOVED][-KEPT:]
    for path in folders:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    if kept:
        size = sum(file.stat().st_size for path in kept for file in path.rglob("*") if file.is_file())
        log.warning(
            "--index=%s: %s has %.1f MB that interrupted updates have left; this update is complete, so you can delete "
            "that folder",
            database,
            database / TRASH,
            size / 1e6,
        )
    elif folders:
        _remove_if_empty(database / TRASH)


def _move_to_trash(database: Path, folder: Path, files: list[Path]) -> None:
    """Keeps data files that the manifest does not name, which Milvus Lite deletes."""
    trash = _trash(database)
    for path in files:
        target = trash / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    log.warning(
        "--index=%s: moved %d data files that the manifest does not name, as after an interrupted update, to %s; "
        "run the update again, then delete that folder",
        database,
        len(files),
        trash,
    )
