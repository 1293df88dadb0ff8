"""Pictures that are not there for one update, perhaps with a disk, keep their vectors and captions."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.colour_encoder import paint

from cl2cm_jax.search import incremental
from cl2cm_jax.search.entry import Filters
from cl2cm_jax.search.incremental import update


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Two disks, a folder of four on one of them, and pictures beside them."""
    root = tmp_path / "library"
    names = [*(f"nas/{n}.png" for n in range(4)), *(f"nas/2020/{n}.png" for n in range(4)), *(f"{n}.png" for n in "ab")]
    for number, name in enumerate([*names, *(f"local/{n}.png" for n in range(30))]):
        paint(root / name, (number, 9, 90))
    return root


RED = np.eye(3, dtype=np.float32)[:1]
CAPTIONS = {"nas/1.png": {"de": ("Kreis",)}, "nas/2020/3.png": {"de": ("Haus",)}}


@pytest.mark.parametrize("mount_point", [True, False])
def test_a_disk_that_is_away_keeps_vectors_and_captions(store, library, colours, tmp_path, caplog, mount_point) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    before = {entry.id: entry for entry in store.entries()}
    (library / "nas").rename(tmp_path / "away")
    if mount_point:
        (library / "nas").mkdir()
    (library / "local" / "3.png").unlink()  # one that was deleted, as ever
    outcome = update(store, colours.encoder, library, captions={})
    assert (outcome.away, outcome.removed, outcome.embedded) == (8, 1, 0) and len(store) == 39
    assert "8 pictures of the index are not there now (in nas, nas/2020): kept, with their captions" in caplog.text
    assert store.search(RED, top=99, filters=Filters(language="de"))[0]  # they are still found

    if mount_point:
        (library / "nas").rmdir()
    (tmp_path / "away").rename(library / "nas")
    again = update(store, colours.encoder, library)
    assert (again.away, again.embedded, again.moved, again.unchanged) == (0, 0, 0, 39)
    after = {entry.id: entry for entry in store.entries()}
    assert after == {id: entry for id, entry in before.items() if entry.path != "local/3.png"}


def test_a_new_picture_at_a_mount_point_does_not_show_that_the_disk_is_there(store, library, colours, tmp_path) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    (library / "nas").rename(tmp_path / "away")
    paint(library / "nas" / "NOT_MOUNTED.png", "red")
    outcome = update(store, colours.encoder, library)
    assert (outcome.away, outcome.removed, outcome.embedded) == (8, 0, 1)


def test_a_small_library_that_is_away_is_kept_beside_a_new_picture(store, photos, colours, tmp_path) -> None:
    update(store, colours.encoder, photos)
    photos.rename(tmp_path / "away")
    paint(photos / "new.png", "red", side=30)
    assert update(store, colours.encoder, photos).away == 3


def test_a_disk_that_goes_while_it_is_read_keeps_its_pictures(store, library, colours, forbid) -> None:
    update(store, colours.encoder, library)
    forbid(Path, "stat", "nas/", errno.ENOENT)  # listed, and then not there
    outcome = update(store, colours.encoder, library)
    assert (outcome.away, outcome.removed, outcome.skipped) == (8, 0, {})


def test_many_pictures_that_are_damaged_are_not_removed_without_asking(store, library, colours, caplog) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    for number in range(20):  # as a program leaves them that copies or downloads them
        (library / "local" / f"{number}.png").write_bytes(b"")
    outcome = update(store, colours.encoder, library)
    assert (outcome.away, outcome.removed, len(outcome.skipped)) == (20, 0, 20)
    assert "20 pictures of the index are not there, or damaged, now (in local): kept" in caplog.text
    assert update(store, colours.encoder, library, prune=True).removed == 20


def test_pictures_of_a_disk_that_is_away_can_be_pruned(store, library, colours, caplog) -> None:
    update(store, colours.encoder, library)
    shutil.rmtree(library / "nas")
    outcome = update(store, colours.encoder, library, prune=True)
    assert (outcome.away, outcome.removed) == (0, 8) and "not there now" not in caplog.text


def test_many_pictures_are_not_removed_without_asking(store, library, colours, caplog) -> None:
    update(store, colours.encoder, library)
    for number in range(20):  # the folder still has others, as one made of several disks
        (library / "local" / f"{number}.png").unlink()
    outcome = update(store, colours.encoder, library)
    assert (outcome.away, outcome.removed) == (20, 0) and "--prune removes them" in caplog.text
    assert update(store, colours.encoder, library, prune=True).removed == 20


def test_captions_of_pictures_that_are_away_can_change(store, library, colours, tmp_path, caplog) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    (library / "nas").rename(tmp_path / "away")
    outcome = update(store, colours.encoder, library, captions={"nas/2.png": {"de": ("neu",)}})
    found = {entry.path: entry.captions for entry in store.entries() if entry.captions}
    assert outcome.recaptioned == 1 and found == CAPTIONS | {"nas/2.png": {"de": ("neu",)}}
    assert "captioned pictures are not in the folder" not in caplog.text


def test_a_renamed_folder_is_not_away_and_keeps_captions(store, library, colours) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    (library / "nas").rename(library / "disk")
    outcome = update(store, colours.encoder, library)
    assert (outcome.moved, outcome.away, outcome.removed, len(store)) == (8, 0, 8, 40)
    assert {entry.path: entry.captions for entry in store.entries() if entry.captions} == {
        path.replace("nas", "disk"): captions for path, captions in CAPTIONS.items()
    }


def test_an_update_that_is_killed_after_a_renaming_leaves_nothing_twice(store, library, colours, monkeypatch) -> None:
    update(store, colours.encoder, library, captions=CAPTIONS)
    (library / "nas").rename(library / "disk")
    monkeypatch.setattr(incremental, "BATCH", 3)

    def kill(done: int, total: int) -> None:
        if done > 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        update(store, replace(colours.encoder, batch=0), library, on_progress=kill)
    assert len(store) == 40
    outcome = update(store, colours.encoder, library)
    assert (outcome.moved, outcome.away, outcome.removed, outcome.unchanged) == (2, 0, 2, 38)
    assert {entry.path: entry.captions for entry in store.entries() if entry.captions} == {
        path.replace("nas", "disk"): captions for path, captions in CAPTIONS.items()
    }


def test_equal_pictures_of_a_renamed_folder_are_not_away(store, library, colours) -> None:
    for name in ("nas/copy.png", "nas/2020/copy.png"):
        shutil.copy(library / "nas" / "1.png", library / name)
    update(store, colours.encoder, library)
    (library / "nas").rename(library / "disk")
    outcome = update(store, colours.encoder, library)
    assert (outcome.moved, outcome.away, outcome.removed, len(store)) == (10, 0, 10, 42)


def test_a_copy_replaces_one_of_equal_pictures_that_are_away(store, library, colours, tmp_path) -> None:
    for name in ("nas/copy.png", "local/copy.png"):
        shutil.copy(library / "nas" / "1.png", library / name)
    update(store, colours.encoder, library)
    (library / "nas").rename(tmp_path / "away")
    os.utime(library / "local" / "copy.png", ns=(1, 1))  # it is read, and no new place of another
    assert update(store, colours.encoder, library).away == 9
    shutil.copy(library / "local" / "copy.png", library / "local" / "new.png")
    assert update(store, colours.encoder, library).away == 8


def test_a_picture_that_cannot_be_read_for_now_is_kept(store, photos, colours, monkeypatch) -> None:
    update(store, colours.encoder, photos)
    os.utime(photos / "red.png", (1, 1))

    def broken(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_bytes", broken)
    outcome = update(store, colours.encoder, photos)
    assert list(outcome.skipped) == ["red.png"] and outcome.removed == 0 and len(store) == 3


def test_what_is_excluded_is_removed(store, library, colours, caplog) -> None:
    for folder in ("@eaDir", "#recycle", ".thumbnails", "$RECYCLE.BIN", "__MACOSX"):
        paint(library / "nas" / folder / "0.png", "red")
    assert update(store, colours.encoder, library).embedded == 40
    assert (
        "5 folders that are hidden, bins or of thumbnails: nas/#recycle, nas/$RECYCLE.BIN, nas/.thumbnails and 2"
        in (caplog.text)
    )
    outcome = update(store, colours.encoder, library, exclude=["nas/2020", "b.*", "local/2?.png"])
    assert (outcome.removed, outcome.away) == (4 + 1 + 10, 0)
    assert "12 files and folders by --exclude: b.png, local/20.png, local/21.png and 9 more" in caplog.text
    assert update(store, colours.encoder, library, exclude=["nas/"]).removed == 4
