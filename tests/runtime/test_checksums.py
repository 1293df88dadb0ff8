from __future__ import annotations

import pytest

from cl2cm_jax.runtime.checksums import LIST_NAME, verify_checksums, write_checksums


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


def test_changed_files_are_named(folder):
    (folder / "d" / "values").write_bytes(b"abd")
    with pytest.raises(ValueError, match="d/values is damaged"):
        verify_checksums(folder)
    (folder / "d" / "values").unlink()
    with pytest.raises(ValueError, match="d/values is missing"):
        verify_checksums(folder)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"{", b"3"])
def test_a_damaged_list_is_an_error(folder, content):
    (folder / LIST_NAME).write_bytes(content)
    with pytest.raises(ValueError, match="checksums.json is damaged"):
        verify_checksums(folder)
