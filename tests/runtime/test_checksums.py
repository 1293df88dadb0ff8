"""Lists of checksums beside the files: a changed file is named, one of an earlier version is taken with a warning."""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib

import pytest
from support.flipped_bits import flipped_bits

from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime import checksums
from cl2cm_jax.runtime.checksums import LIST_NAME, read_checked, verify_checksums, write_checked, write_checksums


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "values").write_bytes(b"abc")
    (tmp_path / "empty").write_bytes(b"")
    write_checksums(tmp_path)
    return tmp_path


def test_unchanged_files_pass_and_so_does_a_folder_without_a_list(folder):
    verify_checksums(folder)
    (folder / "d" / "values").write_bytes(b"abd")
    (folder / LIST_NAME).unlink()
    verify_checksums(folder)


@pytest.mark.parametrize("name", [".DS_Store", "d/._values", "Thumbs.db", ".nfs0000002a", ".values.1.partial"])
def test_files_of_the_system_are_not_listed(folder, name):
    (folder / name).write_bytes(b"before")
    write_checksums(folder)
    (folder / name).unlink()
    verify_checksums(folder)
    assert set(json.loads((folder / LIST_NAME).read_text())) == {"d/values", "empty"}


def test_changed_files_are_named(folder):
    (folder / "d" / "values").write_bytes(b"abd")
    with pytest.raises(ValueError, match="d/values is damaged"):
        verify_checksums(folder)
    (folder / "d" / "values").unlink()
    with pytest.raises(ValueError, match="d/values is missing"):
        verify_checksums(folder)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"{", b"3", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": NaN}'])
def test_a_damaged_list_is_an_error(folder, content):
    (folder / LIST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="checksums.json is damaged"):
        verify_checksums(folder)


def test_every_flipped_bit_of_a_file_or_of_the_list_is_seen_or_harmless(tmp_path):
    path = tmp_path / "results.json"
    write_checked(path, '{"R@1": 41.5}\n')
    for place in flipped_bits(path, count=14):
        with pytest.raises(
            UserError, match=r"results\.json changed after it was written.*; train again; or, if"
        ) as error:
            read_checked(path, fix="train again")
        assert f"delete {tmp_path / LIST_NAME} to take it" in str(error.value), place
    for _ in flipped_bits(tmp_path / LIST_NAME, count=28):
        try:
            assert read_checked(path, fix="train again") == b'{"R@1": 41.5}\n'
        except UserError as error:
            assert LIST_NAME in str(error)
    assert read_checked(path, fix="train again") == b'{"R@1": 41.5}\n'


def test_a_changed_file_is_accepted_by_deleting_the_list(tmp_path, caplog):
    path = tmp_path / "config.json"
    write_checked(path, "{}")
    path.write_text('{"seed": 1}')
    (tmp_path / LIST_NAME).unlink()
    for _ in range(2):
        assert read_checked(path, fix="") == b'{"seed": 1}'
    assert [record.levelno for record in caplog.records] == [logging.WARNING], "one line, and only once"
    assert f"{path} has no checksum" in caplog.text
    path.write_text('{"seed": 2}')
    with pytest.raises(UserError, match="changed after it was written"):
        read_checked(path, fix="")


def test_writing_again_replaces_the_checksum_and_heals_a_damaged_list(tmp_path, caplog):
    for name in ("a", "b", "a"):
        write_checked(tmp_path / name, f"{name}, of {len(list(tmp_path.iterdir()))}")
    listed = json.loads((tmp_path / LIST_NAME).read_text())
    assert listed == {name: zlib.crc32((tmp_path / name).read_bytes()) for name in "ab"}
    (tmp_path / LIST_NAME).write_text("{")
    with pytest.raises(UserError, match=r"checksums\.json is damaged; delete checksums\.json"):
        read_checked(tmp_path / "a", fix="")
    write_checked(tmp_path / "a", "new")
    assert read_checked(tmp_path / "a", fix="") == b"new" and not caplog.records


def test_a_kill_between_the_file_and_its_checksum_is_no_damage(tmp_path, monkeypatch, caplog):
    write_checked(tmp_path / "a", "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checksums.zlib, "crc32", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checked(tmp_path / "a", "new")
    monkeypatch.undo()
    assert read_checked(tmp_path / "a", fix="") == b"new" and "has no checksum" in caplog.text


def test_a_reader_waits_for_a_writer(tmp_path, monkeypatch, caplog):
    """A file that was replaced while its checksum was not, is read again when both are written."""
    write_checked(tmp_path / "a", "old")
    between, go_on, read = threading.Event(), threading.Event(), []
    set_checksum = checksums._set

    def slow(path, checksum):
        if checksum is not None:
            between.set()
            go_on.wait(60)
        set_checksum(path, checksum)

    monkeypatch.setattr(checksums, "_set", slow)
    writer = threading.Thread(target=write_checked, args=(tmp_path / "a", "new"))
    writer.start()
    assert between.wait(60)
    reader = threading.Thread(target=lambda: read.append(read_checked(tmp_path / "a", fix="")))
    reader.start()
    reader.join(timeout=0.2)
    assert not read
    go_on.set()
    writer.join()
    reader.join()
    assert read == [b"new"] and "has no checksum" not in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_only_read(tmp_path, caplog):
    (tmp_path / "a").write_text("old")
    tmp_path.chmod(0o500)
    assert read_checked(tmp_path / "a", fix="") == b"old" and "has no checksum" in caplog.text


def test_a_missing_file_is_a_system_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checked(tmp_path / "none", fix="")
    assert not list(tmp_path.iterdir())
