"""Hashes of files: a file is read once in a process, unless the system reports a change, however it is changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cl2cm_jax.runtime import file_hashes

CONTENT = b"weights"
EXPECTED = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read; a file counts as settled at once."""
    files: list[str] = []
    digest = file_hashes._digest
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes, "_SETTLED", -(10**15))
    monkeypatch.setattr(file_hashes, "_digest", lambda path: files.append(path) or digest(path))
    return files


def test_an_unchanged_file_is_read_once_by_all_its_names(file: Path, read: list[str]) -> None:
    (file.parent / "link").symlink_to(file)
    assert [file_hashes.file_hash(name) for name in (file, str(file), file.parent / "link")] == [EXPECTED] * 3
    assert len(read) == 1


def test_a_change_with_the_same_size_and_time_is_noticed(file: Path, read: list[str]) -> None:
    file_hashes.file_hash(file)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_hashes.file_hash(file) == hashlib.sha256(b"WEIGHTS").hexdigest() and len(read) == 2


def test_a_file_written_a_moment_ago_is_not_kept(file: Path, read: list[str], monkeypatch) -> None:
    monkeypatch.setattr(file_hashes, "_SETTLED", 10**15)
    assert [file_hashes.file_hash(file) for _ in range(2)] == [EXPECTED] * 2 and len(read) == 2


def test_nothing_is_kept_on_disk(file: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that changes a file does not say so: what an earlier process found proves nothing."""
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parent / "cache"))
    file_hashes.file_hash(file)
    assert os.listdir(file.parent) == [file.name] and len(read) == 1
