from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.colour_encoder import ColourEncoder, paint

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import Gallery
from cl2cm_jax.search.entry import Entry, Filters, day, id_of
from cl2cm_jax.search.incremental import BATCH, from_gallery, read_captions, update
from cl2cm_jax.search.stores.memory import load
from cl2cm_jax.search.stores.milvus import Store

RED, GREEN, BLUE = np.eye(3, dtype=np.float32)


def paths(store: Store) -> list[str]:
    return sorted(entry.path for entry in store.entries())


def test_only_changed_pictures_are_embedded(store, photos, colours) -> None:
    assert update(store, colours.encoder, photos).embedded == 3
    again = update(store, colours.encoder, photos)
    assert (again.unchanged, again.embedded, again.removed, colours.seen) == (3, 0, 0, 3)

    os.utime(photos / "red.png", (1, 1))  # touched, and the same
    (photos / "b%_ch" / "blue.png").rename(photos / "sea.png")  # another name
    paint(photos / "b%_ch" / 'li"me.png', "red", side=30)  # another picture under the same name
    paint(photos / "new.png", "blue", side=30)
    outcome = update(store, colours.encoder, photos)
    assert (outcome.moved, outcome.embedded, outcome.removed) == (2, 2, 1) and colours.seen == 5
    assert paths(store) == ['b%_ch/li"me.png', "new.png", "red.png", "sea.png"]
    best = store.search(BLUE[None], top=2)[0]
    assert {found.entry.path for found in best} == {"new.png", "sea.png"}
    assert store.search(GREEN[None], top=1)[0][0].score == pytest.approx(0, abs=1e-5)  # no trace of the lime one


def test_unreadable_pictures_are_skipped_and_removed(store, photos, colours, caplog) -> None:
    update(store, colours.encoder, photos)
    (photos / "red.png").write_bytes(b"no picture any more")
    (photos / "secret.png").symlink_to(paint(photos.parent / "elsewhere.png", "red"))
    (photos / "linked.png").symlink_to(photos / "b%_ch" / "blue.png")  # inside: as good as any
    with caplog.at_level(logging.WARNING):
        outcome = update(store, colours.encoder, photos)
    assert set(outcome.skipped) == {"red.png", "secret.png"} and outcome.removed == 1
    assert paths(store) == ["b%_ch/blue.png", 'b%_ch/li"me.png', "linked.png"]
    assert "skipped: red.png: " in caplog.text and "secret.png: it is a link to a place outside" in caplog.text


def test_a_link_to_an_outside_folder_is_skipped(store, photos, colours, caplog) -> None:
    paint(photos.parent / "private" / "key.png", "red")
    (photos / "door").symlink_to(photos.parent / "private", target_is_directory=True)
    (photos / "inside").symlink_to(photos / "b%_ch", target_is_directory=True)  # its pictures are there anyway
    with caplog.at_level(logging.WARNING):
        outcome = update(store, colours.encoder, photos)
    assert len(store) == 3 and list(outcome.skipped) == ["door"]
    assert "skipped: door: it is a link to a place outside" in caplog.text


def test_broken_links_and_pipes_are_skipped_and_those_of_the_index_kept(store, photos, colours) -> None:
    update(store, colours.encoder, photos)
    os.mkfifo(photos / "pipe.png")
    (photos / "dead.png").symlink_to(photos / "gone.png")
    (photos / "loop.png").symlink_to(photos / "loop.png")
    (photos / "red.png").unlink()
    (photos / "red.png").symlink_to(photos / "gone.png")
    outcome = update(store, colours.encoder, photos)
    assert set(outcome.skipped) == {"pipe.png", "dead.png", "loop.png", "red.png"}
    assert (outcome.removed, outcome.away, outcome.unchanged) == (0, 1, 2)
    assert update(store, colours.encoder, photos, prune=True).removed == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO])
def test_a_folder_that_cannot_be_listed_keeps_its_pictures(store, photos, colours, caplog, forbid, number) -> None:
    paint(photos / "b%_ch" / "deep" / "red.png", "red", side=30)
    update(store, colours.encoder, photos)
    before = paths(store)
    (photos / "red.png").unlink()
    paint(photos / "new.png", "red", side=20)
    forbid(os, "scandir", "b%_ch", number)
    with caplog.at_level(logging.WARNING):
        outcome = update(store, colours.encoder, photos)
    assert (outcome.removed, outcome.embedded) == (1, 1)
    assert paths(store) == sorted({*before, "new.png"} - {"red.png"})
    assert f"skipped: b%_ch: its contents cannot be listed ({os.strerror(number)})" in caplog.text
    assert list(outcome.skipped) == ["b%_ch"]


def test_a_folder_without_search_permission_keeps_its_pictures(store, photos, colours, forbid) -> None:
    """Its mode is 600: its names can be listed, and the files not accessed."""
    update(store, colours.encoder, photos)
    before = paths(store)
    forbid(Path, "stat", "b%_ch/")
    outcome = update(store, colours.encoder, photos)
    assert set(outcome.skipped) == {"b%_ch/blue.png", 'b%_ch/li"me.png'} and outcome.unchanged == 1
    assert paths(store) == before and outcome.removed == 0


def test_a_folder_of_frames_without_search_permission_keeps_its_clip(store, photos, forbid) -> None:
    encoder = ColourEncoder(frames=2).encoder
    update(store, encoder, photos)
    assert paths(store) == ["b%_ch", "red.png"]
    forbid(Path, "stat", "b%_ch/")
    assert update(store, encoder, photos).removed == 0 and paths(store) == ["b%_ch", "red.png"]


def test_a_folder_without_any_access_is_an_error(store, photos, colours, forbid) -> None:
    forbid(os, "scandir", "photos")
    with pytest.raises(UserError, match="photos has no readable pictures; .* cannot be listed .Permission"):
        update(store, colours.encoder, photos)


def test_an_empty_folder_does_not_empty_the_index(store, photos, colours, tmp_path) -> None:
    update(store, colours.encoder, photos)
    photos.rename(tmp_path / "away")
    photos.mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        update(store, colours.encoder, photos)
    assert len(store) == 3


def test_captions_change_without_embedding(store, photos, colours, caplog, tmp_path) -> None:
    file = tmp_path / "captions.csv"
    file.write_text("image,language,caption\nred.png,de,rot\nred.png,en,red\nnowhere.png,en,x\n", encoding="utf-8")
    update(store, colours.encoder, photos)
    with caplog.at_level(logging.WARNING):
        outcome = update(store, colours.encoder, photos, captions=read_captions(file))
    assert outcome.recaptioned == 1 and colours.seen == 3 and "the first is nowhere.png" in caplog.text
    found = store.search(BLUE[None], top=9, filters=Filters(language="de"))[0]
    assert [one.entry.path for one in found] == ["red.png"] and found[0].entry.caption("de") == ("de", "rot")
    update(store, colours.encoder, photos)  # without --captions they stay
    assert store.search(BLUE[None], top=9, filters=Filters(language="de"))[0] == found
    update(store, colours.encoder, photos, captions={})
    assert store.search(BLUE[None], top=9, filters=Filters(language="de"))[0] == []


def test_wrong_captions_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match="^--captions=.*nothing.csv"):
        read_captions(tmp_path / "nothing.csv")
    (tmp_path / "c.csv").write_text("image,language,caption\na.png,de,\n")
    with pytest.raises(UserError, match="--captions=.*c.csv.*1 such rows"):
        read_captions(tmp_path / "c.csv")


def test_the_date_is_read_from_exif(store, photos, colours) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2020:02:29 12:00:00"
    Image.new("RGB", (8, 8), "red").save(photos / "leap.jpg", exif=exif)
    update(store, colours.encoder, photos)
    found = store.search(RED[None], top=9, filters=Filters(until=1_583_020_800))[0]  # 2020-03-01
    assert [one.entry.path for one in found] == ["leap.jpg"] and found[0].entry.date == 1_582_977_600


def test_a_date_before_1970_is_found(store, photos, colours) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "1955:06:01 12:00:00"
    Image.new("RGB", (8, 8), "red").save(photos / "scan.jpg", exif=exif)
    update(store, colours.encoder, photos)
    since, until = day("1955-06-01", name="since"), day("1955", name="until", after=True)
    for index in (store, load(store)):
        for filters in (Filters(until=until), Filters(since=since, until=until)):
            found = index.search(RED[None], top=9, filters=filters)[0]
            assert [one.entry.path for one in found] == ["scan.jpg"] and found[0].entry.date == -460296000
        assert index.search(RED[None], top=9, filters=Filters(until=since))[0] == []


@pytest.mark.parametrize("seconds", [13_000_000_000, -1])
def test_a_modification_time_beyond_int64_is_indexed_once(store, photos, colours, seconds) -> None:
    os.utime(photos / "red.png", (seconds, seconds))
    if (photos / "red.png").stat().st_mtime != seconds:
        pytest.skip("this file system knows no such time")
    assert update(store, colours.encoder, photos).embedded == 3
    again = update(store, colours.encoder, photos)
    assert (again.unchanged, again.embedded, again.moved) == (3, 0, 0)


def test_a_gallery_without_a_folder_does_not_replace_imported_vectors(store) -> None:
    store.put([Entry(id=id_of("theirs.png"), path="theirs.png")], RED[None])
    gallery = Gallery(np.stack([RED, BLUE]), ("a", "b"), ("red", ""), ("", ""), "step 10")
    with pytest.raises(UserError, match="has none of the training run's pictures; give another --index"):
        from_gallery(store, gallery, "", source="en")
    assert paths(store) == ["theirs.png"]
    store.remove([id_of("theirs.png")])
    assert from_gallery(store, gallery, "", source="en").moved == 2
    fewer = Gallery(RED[None], ("a",), ("red",), ("",), "step 10")
    assert from_gallery(store, fewer, "", source="en").removed == 1 and paths(store) == ["a"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from support.colour_encoder import ColourEncoder
from cl2cm_jax.search.incremental import update
from cl2cm_jax.search.stores.milvus import Manifest, Store
colours, seen = ColourEncoder(), 0
def images(clips):
    global seen
    vectors = colours.images(clips)
    seen += len(vectors)
    if seen > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors
from dataclasses import replace
store = Store({uri!r})
if store.manifest is None:
    store.create(Manifest(weights="step 10", model="colours", dim=3))
update(store, replace(colours.encoder, images=images), Path({photos!r}))
"""


@pytest.mark.slow
def test_a_killed_run_resumes_without_loss_or_repetition(tmp_path, colours) -> None:
    photos, uri, count = tmp_path / "photos", str(tmp_path / "index.db"), 3 * BATCH
    for number in range(count):
        paint(photos / f"{number:03}.png", (number, 255 - number, 7))
    tests = str(Path(__file__).parents[1])
    code = KILLED.format(tests=tests, uri=uri, photos=str(photos), after=2 * BATCH)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Store(uri) as store:
        assert len(store) == 2 * BATCH
        outcome = update(store, colours.encoder, photos)
        assert (outcome.unchanged, outcome.embedded) == (2 * BATCH, BATCH)
        assert paths(store) == [f"{number:03}.png" for number in range(count)]
        ids = [id_of(f"{number:03}.png") for number in range(count)]
        vectors = store.vectors(ids)
    for number, id in enumerate(ids):
        np.testing.assert_allclose(vectors[id] * np.linalg.norm([number, 255 - number, 7]),
                                   [number, 255 - number, 7], atol=0.01)  # fmt: skip
