"""The pictures of an index, re-encoded for the page.

Only the decoded pixels are sent: no EXIF data such as a location, and no file that a browser could interpret otherwise.
"""

from __future__ import annotations

import io
import threading
from functools import lru_cache
from pathlib import Path

from PIL import Image

from cl2cm_jax.data.media.clips import picture_of
from cl2cm_jax.data.media.images import MAX_FILE, ImageError, decode

THUMBNAIL, LARGE = 480, 1600  # pixels of the longer side
_CACHED = 1024  # encoded pictures; a thumbnail has about 20 kB


class Pictures:
    """Encodes the pictures of a folder.

    Args:
      root: the folder; "" if there is none.
    """

    def __init__(self, root: str):
        self._root = Path(root).resolve() if root else None
        self._decoding = threading.Semaphore(2)  # each decoded picture takes up to 300 MB
        self._encoded = lru_cache(_CACHED)(self._encode)

    def webp(self, path: str, *, size: int) -> bytes | None:
        """A picture as WebP; None if it does not exist or cannot be read.

        Args:
          path: inside the folder; one that leads outside, by ".." or a link, does not exist.
          size: maximum of the longer side, in pixels.
        """
        try:
            file = self._file(path)
            return None if file is None else self._encoded(file, file.stat().st_mtime_ns, size)
        except (ImageError, OSError, ValueError):
            return None

    def _file(self, path: str) -> Path | None:
        if self._root is None:
            return None
        place = Path(picture_of(str(self._root / path))).resolve()
        if not place.is_relative_to(self._root) or not place.is_file() or place.stat().st_size > MAX_FILE:
            return None
        return place

    def _encode(self, file: Path, _changed: int, size: int) -> bytes:
        with self._decoding:
            picture = Image.fromarray(decode(file))
        picture.thumbnail((size, size))
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=82)
        return out.getvalue()
