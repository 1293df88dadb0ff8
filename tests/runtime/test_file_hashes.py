"""Hashes of files: a large file is read once until the system reports a change, however it is changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cl2cm_jax.runtime import file_hashes


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read; a file counts as large and as settled at once."""
    files: list[str] = []
    digest = file_hashes._digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_LARGE", 1)
    monkeypatch.setattr(file_hashes, "_SETTLED", -(10**15))
    monkeypatch.setattr(file_hashes, "_digest", lambda path: files.append(path) or digest(path))
    return files


def test_an_unchanged_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert [file_hashes.file_hash(file) for _ in range(3)] == [expected] * 3 and len(read) == 1


def test_a_change_with_the_same_size_and_time_is_noticed(tmp_path: Path, read: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    file_hashes.file_hash(file)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_hashes.file_hash(file) == hashlib.sha256(b"WEIGHTS").hexdigest() and len(read) == 2


def test_a_file_written_a_moment_ago_is_not_kept(tmp_path: Path, read: list[str], monkeypatch) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED", 10**15)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    for _ in range(2):
        file_hashes.file_hash(file)
    assert len(read) == 2 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"state": 1}', b"\xff"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, read: list[str], content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    first = file_hashes.file_hash(file)
    (kept,) = (tmp_path / "cache" / "cl2cm_jax" / "hashes").iterdir()
    kept.write_bytes(content)
    assert file_hashes.file_hash(file) == first and len(read) == 2


def test_without_a_home_folder_a_file_is_read_each_time(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert [file_hashes.file_hash(tmp_path / "model.safetensors") for _ in range(2)] == [expected] * 2
    assert len(read) == 2
