"""How a command starts JAX."""

from __future__ import annotations

import os
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
    jax.config.update("jax_compilation_cache_dir", str((data_dir / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
