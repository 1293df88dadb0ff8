"""The pictures of an index, re-encoded for the page.

Only the decoded pixels are sent: no EXIF data such as a location, and no file that a browser could interpret otherwise.
Each is made once: equal requests wait for the first, and the results are kept, in memory and in a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import zlib
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

from cl2cm_jax.data.media.clips import picture_of
from cl2cm_jax.data.media.images import MAX_FILE, ImageError
from cl2cm_jax.runtime.atomic import replacing
from cl2cm_jax.runtime.file_hashes import user_cache
from cl2cm_jax.serve.workers import Workers

THUMBNAIL, LARGE = 480, 1600  # pixels of the longer side
_CRC = 4  # bytes of the checksum at the end of a file
IN_MEMORY, ON_DISK = 50_000_000, 1_000_000_000  # bytes, limits for the encoded pictures; a thumbnail has about 20 kB

log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where thumbnails are kept between two starts of the service; None for a user without a home."""
    cache = user_cache()
    return cache and cache / "thumbnails"


class Pictures:
    """Encodes the pictures of a folder.

    Args:
      root: the folder; "" if there is none.
      workers: decode the pictures.
      kept: the folder where encoded pictures are kept; None keeps them in memory alone.
    """

    def __init__(self, root: str, workers: Workers | None = None, *, kept: Path | None = None):
        self._root = Path(root).resolve() if root else None
        self._workers = workers or Workers()
        self._memory, self._disk = MemoryCache(IN_MEMORY), None if kept is None else DiskCache(kept, ON_DISK)
        self._lock = threading.Lock()
        self._made: dict[str, Future[bytes]] = {}  # those that are being made

    def webp(self, path: str, *, size: int) -> bytes | None:
        """A picture as WebP; None if it does not exist or cannot be read.

        Args:
          path: inside the folder; one that leads outside, by ".." or a link, does not exist.
          size: maximum of the longer side, in pixels.

        Raises:
          BusyError: too many pictures are asked for at once.
        """
        try:
            file = self._file(path)
            return None if file is None else self._encoded(file, size) or None
        except (ImageError, OSError, ValueError):
            return None

    def _file(self, path: str) -> Path | None:
        if self._root is None:
            return None
        place = Path(picture_of(str(self._root / path))).resolve()
        if not place.is_relative_to(self._root) or not place.is_file() or place.stat().st_size > MAX_FILE:
            return None
        return place

    def _encoded(self, file: Path, size: int) -> bytes:
        """The WebP; b"" if it cannot be read."""
        about = file.stat()
        key = hashlib.sha256(repr((str(file), about.st_mtime_ns, about.st_size, size)).encode()).hexdigest()
        with self._lock:
            found = self._memory.get(key)
            if found is not None:
                return found
            made = self._made.get(key)
            is_first = made is None
            if made is None:
                made = self._made[key] = Future()
        if is_first:
            try:
                made.set_result(self._make(key, file, size))
            except BaseException as error:
                made.set_exception(error)
                raise
            finally:
                with self._lock:
                    del self._made[key]
        return made.result()

    def _make(self, key: str, file: Path, size: int) -> bytes:
        content = self._disk.get(key) if self._disk else None
        if content is None:
            with file.open("rb"):  # raises where there is no access for now, which is not remembered
                pass
            try:
                content = self._workers.webp(file, size=size)
            except ImageError:  # remembered too, so that a broken picture is tried once
                content = b""
            if self._disk and content:
                self._disk.put(key, content)
        with self._lock:
            self._memory.put(key, content)
        return content


class MemoryCache:
    """Values by key, at most `limit` bytes; of more, those used longest ago are forgotten."""

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[str, bytes] = OrderedDict()

    def get(self, key: str) -> bytes | None:
        """The value, if it is there."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value."""
        self._bytes += _cost(value) - (_cost(self._values[key]) if key in self._values else 0)
        self._values[key] = value
        self._values.move_to_end(key)
        while self._bytes > self._limit:
            self._bytes -= _cost(self._values.popitem(last=False)[1])


def _cost(value: bytes) -> int:
    return len(value) + 500  # a key and an entry


def _crc(key: str, value: bytes) -> bytes:
    return zlib.crc32(key.encode() + value).to_bytes(_CRC, "little")


class DiskCache:
    """Files by key, at most `limit` bytes; of more, the oldest are removed. A disk that is full costs time alone."""

    def __init__(self, folder: Path, limit: int):
        self._folder, self._limit, self._lock, self._bytes = folder, limit, threading.Lock(), limit
        self._has_warned = False
        with contextlib.suppress(OSError):
            self._create()
            self._bytes = sum(file.stat().st_size for file in folder.glob("*.webp"))

    def _create(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # pictures of one user

    def get(self, key: str) -> bytes | None:
        """The content of a file, if it is there and as it was written."""
        try:
            content = (self._folder / f"{key}.webp").read_bytes()
        except OSError:
            return None
        value, checksum = content[:-_CRC], content[-_CRC:]
        return value if value and _crc(key, value) == checksum else None

    def put(self, key: str, value: bytes) -> None:
        """Writes a file."""
        try:
            self._create()  # the user may have deleted it
            with replacing(self._folder / f"{key}.webp") as temporary:
                temporary.write_bytes(value + _crc(key, value))  # programs ignore what follows a picture
            with self._lock:
                self._bytes += len(value) + _CRC
                if self._bytes > self._limit:
                    self._bytes = self._shrink()
        except OSError as error:
            if not self._has_warned:
                log.warning("thumbnails are not kept in %s (%s)", self._folder, error.strerror)
            self._has_warned = True

    def _shrink(self) -> int:
        """Removes the oldest files until four fifths of the limit are left; returns the bytes that are left."""
        files = sorted((file.stat().st_mtime_ns, file.stat().st_size, file) for file in self._folder.glob("*.webp"))
        left = sum(size for _, size, _ in files)
        for _, size, file in files:
            if left <= 0.8 * self._limit:
                break
            file.unlink(missing_ok=True)
            left -= size
        return left
