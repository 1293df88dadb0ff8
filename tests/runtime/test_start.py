"""How JAX is started."""

from __future__ import annotations

import zlib
from pathlib import Path

import jax
import pytest
from jax._src import compilation_cache

from cl2cm_jax.runtime import start


def test_compiled_programs_have_a_checksum_where_zstandard_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation_cache, "zstandard", object())
    monkeypatch.setattr(start.hosts, "start", lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    start.start_jax(tmp_path)
    program = bytes(range(256)) * 8
    stored = compilation_cache.compress_executable(program)
    assert compilation_cache.decompress_executable(stored) == zlib.decompress(stored) == program
    for place in range(0, len(stored), 7):
        with pytest.raises(zlib.error):
            compilation_cache.decompress_executable(stored[:place] + bytes([stored[place] ^ 4]) + stored[place + 1 :])
