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


def test_programs_that_were_cut_off_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: dict[str, object] = {}
    monkeypatch.setattr(start.hosts, "start", lambda: None)
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    folder, whole = tmp_path / "compiled", zlib.compress(bytes(range(256)) * 40)
    flipped = bytes([*whole[:-1], whole[-1] ^ 1])
    folder.mkdir()
    other = b"\x28\xb5\x2f\xfd of zstandard"
    files = {"jit_step": whole, "jit_cut": whole[:50], "jit_flip": flipped, "jit_empty": b"", "jit_zstd": other}
    for name, content in files.items():
        (folder / f"{name}-0f-cache").write_bytes(content)
    (folder / "mine").write_bytes(b"")
    start.start_jax(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"jit_step-0f-cache", "mine"}
    assert set_to["jax_compilation_cache_dir"] == str(folder)
