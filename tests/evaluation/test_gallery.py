from __future__ import annotations

import dataclasses
import ntpath
import os
import shutil
import types

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import gallery as gallery_module
from cl2cm_jax.evaluation.gallery import GALLERY_FILE, common_folder, load_gallery, save_gallery, training_gallery


def test_a_gallery_survives_the_disk(tmp_path, gallery) -> None:
    odd = dataclasses.replace(
        gallery, captions=("", "two\nlines", "红苹果", "x" * 10_000), ids=("a", "b\x00", "犬", "\udcff")
    )
    save_gallery(tmp_path / "deep" / GALLERY_FILE, odd)
    loaded = load_gallery(tmp_path / "deep" / GALLERY_FILE)
    np.testing.assert_array_equal(loaded.embeddings, odd.embeddings)
    assert (loaded.ids, loaded.captions, loaded.paths, loaded.weights) == (
        odd.ids,
        odd.captions,
        odd.paths,
        odd.weights,
    )
    assert len(loaded) == 4
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [GALLERY_FILE]


def test_columns_of_one_length(gallery) -> None:
    with pytest.raises(ValueError, match="lengths"):
        dataclasses.replace(gallery, ids=("only one",))


def test_a_full_disk_leaves_the_old_gallery(workdir, gallery, monkeypatch) -> None:
    before = (workdir / GALLERY_FILE).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError):
        save_gallery(workdir / GALLERY_FILE, gallery)
    assert os.listdir(workdir) == [GALLERY_FILE]
    assert (workdir / GALLERY_FILE).read_bytes() == before


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_gallery_is_one_line(workdir, keep) -> None:
    path = workdir / GALLERY_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{GALLERY_FILE}.*write it again with .* --mode=evaluate --workdir="):
        training_gallery(workdir)


def test_workdirs_that_cannot_be_searched(tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        training_gallery(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no gallery.npz; finish its training"):
        training_gallery(tmp_path)


def test_a_gallery_of_nan_is_one_line(workdir, gallery) -> None:
    save_gallery(workdir / GALLERY_FILE, dataclasses.replace(gallery, embeddings=np.full((4, 3), np.nan, np.float32)))
    with pytest.raises(UserError, match="not all embeddings are finite.*write it again with .* --mode=evaluate"):
        training_gallery(workdir)


def test_a_gallery_and_its_pictures_are_moved_together(gallery, tmp_path) -> None:
    pictures = tmp_path / "old" / "data" / "png"
    pictures.mkdir(parents=True)
    paths = tuple(str(pictures / f"{name}.png") for name in gallery.ids)
    placed = dataclasses.replace(gallery, paths=paths, root=common_folder(paths))
    save_gallery(tmp_path / "old" / "runs" / GALLERY_FILE, placed)
    assert training_gallery(tmp_path / "old" / "runs").paths == paths
    (tmp_path / "old").rename(tmp_path / "new")
    moved = training_gallery(tmp_path / "new" / "runs")
    assert moved.root == str(tmp_path / "new" / "data" / "png")
    assert moved.paths[0] == str(tmp_path / "new" / "data" / "png" / f"{gallery.ids[0]}.png")
    shutil.rmtree(tmp_path / "new" / "data")
    assert training_gallery(tmp_path / "new" / "runs").paths == paths  # gone: as they were


def test_pictures_on_several_drives_have_no_common_folder(monkeypatch) -> None:
    monkeypatch.setattr(gallery_module, "os", types.SimpleNamespace(path=ntpath))
    assert common_folder(["C:\\a\\1.png", "D:\\b\\2.png"]) == ""
    assert common_folder(["D:\\b\\2.png"], within="C:\\a") == "D:\\b"


def test_the_common_folder_of_pictures(tmp_path) -> None:
    paths = [str(tmp_path / "a" / "b" / "1.png"), str(tmp_path / "a" / "b" / "2.png")]
    assert common_folder(paths) == str(tmp_path / "a" / "b")
    assert common_folder(paths, within=str(tmp_path / "a")) == str(tmp_path / "a")
    assert common_folder(paths, within=str(tmp_path / "c")) == str(tmp_path / "a" / "b")
    assert common_folder([]) == common_folder(["", paths[0]]) == ""
