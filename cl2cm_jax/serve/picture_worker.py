"""A process that decodes pictures of unknown origin, one after the other, with limited memory.

`cl2cm_jax.serve.workers` starts it and writes requests to its standard input: a line of JSON with the arguments of
`answer` and the number of bytes that follow. It answers in the same form, with "error" where a picture cannot be read,
and ends at the end of its input. It imports neither JAX nor TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from typing import BinaryIO

import numpy as np
from PIL import Image

from cl2cm_jax.data.media.images import MAX_MEMORY, decode
from cl2cm_jax.errors import UserError

COMPUTING = 3.0  # seconds of CPU time, limit for one picture; what headers let pass takes two on a usual machine
SECONDS = 60.0  # the same in all; the service waits less, but it may have been killed
MEMORY = 2 * MAX_MEMORY  # bytes, limit for this process: one picture, its file, Python and the libraries


def answer(content: bytes, *, path: str, max_pixels: int, enough: int, webp: int) -> tuple[bytes, tuple[int, ...]]:
    """Decodes a picture.

    Args:
      content: the bytes of its file; b"" if it has a path.
      path: its file.
      max_pixels: as in `images.decode`.
      enough: as in `images.decode`.
      webp: maximum pixels of the longer side of a WebP that is returned; 0: the pixels are returned.

    Returns:
      The WebP, or uint8 pixels; and their shape (H, W, 3).

    Raises:
      ImageError: it cannot be read.
    """
    pixels = decode(path or content, max_pixels=max_pixels, enough=enough)
    return (_webp(pixels, webp) if webp else pixels.tobytes()), pixels.shape


def _webp(pixels: np.ndarray, size: int) -> bytes:
    picture, out = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((size, size))
    picture.save(out, "WEBP", quality=82)
    return out.getvalue()


def main() -> None:
    """Answers until its input ends."""
    _limit()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not a reply
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request.pop("bytes"))
        _end_after(computing=COMPUTING, seconds=SECONDS)
        try:
            body, shape = answer(content, **request)
        except UserError as error:
            _reply(replies, b"", error=str(error))
        except MemoryError:
            _reply(replies, b"", error="the image needs too much memory; scale it down")
        else:
            _reply(replies, body, shape=shape)
        _end_after(computing=0, seconds=0)
        del content


def _end_after(*, computing: float, seconds: float) -> None:
    """Ends this process after so much CPU time, or time in all, where the system can; 0: no limit."""
    with contextlib.suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, computing)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _reply(replies: BinaryIO, body: bytes, **about: object) -> None:
    replies.write(json.dumps({**about, "bytes": len(body)}).encode() + b"\n" + body)
    replies.flush()


def _limit() -> None:
    """Limits memory, and lets other processes go first, where the system can."""
    with contextlib.suppress(ImportError):
        import resource

        for kind, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(OSError, ValueError):  # macOS refuses the first
                resource.setrlimit(kind, (value, value))
        with contextlib.suppress(OSError):
            os.nice(5)


if __name__ == "__main__":
    main()
