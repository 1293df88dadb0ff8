"""How a command starts JAX, and gives back memory that starting took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import zlib
from pathlib import Path

import jax
from jax._src import compilation_cache

from cl2cm_jax.parallel import hosts


def start_jax(data_dir: Path) -> None:
    """Joins the cluster where there is one, and keeps compiled programs on disk for the next start.

    The cache is in the data folder, or where the environment variable JAX_COMPILATION_CACHE_DIR says.
    """
    hosts.start()
    # where zstandard is installed, JAX compresses programs with it and without checksums; zlib finds a flipped bit
    setattr(compilation_cache, "zstandard", None)  # noqa: B010
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    _remove_damaged(data_dir / "compiled")
    jax.config.update("jax_compilation_cache_dir", str((data_dir / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def return_freed_memory() -> None:
    """Gives the system what was freed and what the C library keeps for later; with glibc alone, elsewhere nothing."""
    gc.collect()
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _remove_damaged(folder: Path) -> None:
    """Removes compiled programs that a kill or a full disk has cut off, and those of another compressor than zlib.

    JAX would warn of each at every start, compile it again, and never write it again.
    """
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # another process removes them too
            if not _is_whole(path.read_bytes()):
                path.unlink()


def _is_whole(content: bytes) -> bool:
    stream = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        stream.decompress(content)
    return stream.eof
