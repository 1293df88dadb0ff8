"""Decodes pictures of unknown origin in processes that are ended where one takes too long.

A thread cannot be ended: the time and memory of a hostile picture would stay with the service after it has answered.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cl2cm_jax.data.media.images import MAX_PIXELS, ImageError
from cl2cm_jax.errors import UserError
from cl2cm_jax.serve.picture_worker import COMPUTING

WORKERS = 2  # processes, each of at most `picture_worker.MEMORY` bytes
SECONDS = 15.0  # limit for one picture on a busy machine; of computing, see `picture_worker.COMPUTING`
PATIENCE = 12.0  # seconds that a picture waits for a process
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class BusyError(UserError):
    """Too many pictures at once."""


class _Reply(NamedTuple):
    about: dict[str, Any]
    body: bytes


class Workers:
    """A few processes that decode pictures; each is started when it is first needed, and again after it was ended.

    Args:
      count: processes.
      seconds: a picture that takes longer is refused, and its process ended.
      patience: seconds that a picture waits for a process.
    """

    def __init__(self, count: int = WORKERS, *, seconds: float = SECONDS, patience: float = PATIENCE):
        self._seconds, self._patience = seconds, patience
        self._free: queue.LifoQueue[subprocess.Popen[bytes] | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)

    def pixels(
        self, content: bytes, *, max_pixels: int = MAX_PIXELS, enough: int = 0, until: float = math.inf
    ) -> np.ndarray:
        """As `images.decode`: the pixels (H, W, 3) uint8 of a file's bytes; at `until` (monotonic) its process ends.

        Raises:
          ImageError: as `images.decode`; or it takes too long, or too much memory.
          BusyError: no process is free.
        """
        reply = self._ask(content, until=until, path="", max_pixels=max_pixels, enough=enough, webp=0)
        return np.frombuffer(reply.body, np.uint8).reshape(reply.about["shape"])

    def webp(self, file: Path, *, size: int) -> bytes:
        """A picture as WebP, its longer side at most `size` pixels.

        Raises:
          ImageError: as `pixels`.
          BusyError: no process is free.
        """
        return self._ask(b"", path=str(file), max_pixels=MAX_PIXELS, enough=size, webp=size).body

    def close(self) -> None:
        """Ends the processes that are free; the others end with this one."""
        with contextlib.suppress(queue.Empty):
            while True:
                _end(self._free.get_nowait())

    def _ask(self, content: bytes, *, until: float = math.inf, **request: object) -> _Reply:
        if not content and not request["path"]:
            raise ImageError("the image is empty (0 bytes); replace it or leave it out")
        try:
            worker = self._free.get(timeout=min(self._patience, max(0.0, until - time.monotonic())))
        except queue.Empty:
            raise BusyError("too many pictures at once; try again later") from None
        reply = None
        try:
            worker = worker if worker is not None and worker.poll() is None else _started()
            seconds = min(self._seconds, until - time.monotonic())
            reply = _exchange(worker, {**request, "bytes": len(content)}, content, seconds=seconds)
        finally:
            if reply is None:
                _end(worker)
            self._free.put(worker if reply else None)
        if reply is None:
            raise ImageError(
                f"{request['path'] or 'the image'} takes more than {COMPUTING:g} s of computing, {self._seconds:g} s "
                "in all, or too much memory to decode; scale it down"
            )
        if "error" in reply.about:
            raise ImageError(reply.about["error"])
        return reply


def _started() -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cl2cm_jax.serve.picture_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | _ONE_THREAD | {"PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C reaches the service alone, which answers what it has begun
    )


def _exchange(
    worker: subprocess.Popen[bytes], request: dict[str, object], content: bytes, *, seconds: float
) -> _Reply | None:
    """A request and its reply; None if the process ends before, or is ended since it takes too long."""
    assert worker.stdin is not None and worker.stdout is not None
    limit = threading.Timer(seconds, worker.kill)
    limit.daemon = True
    limit.start()
    try:
        worker.stdin.write(json.dumps(request).encode() + b"\n" + content)
        worker.stdin.flush()
        about = json.loads(worker.stdout.readline())
        size = about.pop("bytes")
        body = worker.stdout.read(size)
    except (OSError, ValueError):  # it has ended
        return None
    finally:
        limit.cancel()
    return _Reply(about, body) if len(body) == size else None


def _end(worker: subprocess.Popen[bytes] | None) -> None:
    if worker is None:
        return
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    worker.wait()
