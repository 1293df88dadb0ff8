"""The files behind an index, as pictures for a page: found by id, kept inside their folder, drawn anew.

What goes out is a new picture of the decoded pixels: no EXIF block with a place in it, and no file that a browser could
take for something else.
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
_KEPT = 1024  # drawn pictures; a thumbnail has about 20 kB


class Pictures:
    """Draws the pictures of a folder.

    Args:
      root: the folder; "" where there is none.
    """

    def __init__(self, root: str):
        self._root = Path(root).resolve() if root else None
        self._one = threading.Semaphore(2)  # pictures decoded at a time, each of up to 300 MB
        self._drawn = lru_cache(_KEPT)(self._draw)

    def webp(self, path: str, *, size: int) -> bytes | None:
        """A picture of at most `size` pixels a side as WebP; None where it is not there, or cannot be read.

        Args:
          path: inside the folder. One that leads out of it, by dots or by a link, is not there.
          size: of the longer side.
        """
        try:
            file = self._file(path)
            return None if file is None else self._drawn(file, file.stat().st_mtime_ns, size)
        except (ImageError, OSError, ValueError):
            return None

    def _file(self, path: str) -> Path | None:
        if self._root is None:
            return None
        place = Path(picture_of(str(self._root / path))).resolve()
        if not place.is_relative_to(self._root) or not place.is_file() or place.stat().st_size > MAX_FILE:
            return None
        return place

    def _draw(self, file: Path, _changed: int, size: int) -> bytes:
        with self._one:
            picture = Image.fromarray(decode(file))
        picture.thumbnail((size, size))
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=82)
        return out.getvalue()
