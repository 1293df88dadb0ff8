from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.data.media import clips, images
from cl2cm_jax.errors import UserError
from cl2cm_jax.search import index_command
from cl2cm_jax.search.folder import embed, folder_gallery, scan
from cl2cm_jax.search.query import search


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name, colour in (
        ("a.png", "red"),
        ("deep/er/b.JPG", "lime"),
        ("c.webp", "blue"),
        ("d.gif", "red"),
        ("e.bmp", "lime"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), colour).save(root / name)
    (root / "notes.txt").write_text("not a picture")
    (root / ".hidden.png").write_bytes(b"not looked at")
    return root


def test_search_finds_the_picture_of_a_colour(folder, tmp_path, colours) -> None:
    gallery = folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    assert gallery.ids == ("a.png", "c.webp", "d.gif", "deep/er/b.JPG", "e.bmp")
    answers = search(["blau", "grün"], gallery, colours.encoder, top=2)
    assert answers[0].results[0].id == "c.webp"
    assert {result.id for result in answers[1].results} == {"deep/er/b.JPG", "e.bmp"}
    assert answers[0].results[0].path == str(folder / "c.webp")


def test_unreadable_pictures_are_skipped_with_a_line_each_time(folder, tmp_path, colours, caplog) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    (folder / "empty.png").touch()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            gallery = folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
        warnings = [record.getMessage() for record in caplog.records if record.name.startswith("cl2cm_jax")]
        assert len(warnings) == 2
        assert "broken.jpg" in warnings[0] and "empty.png" in warnings[1]
        assert len(gallery) == 5
    assert colours.seen == 5


def test_a_picture_model_reads_the_first_frame_of_each_file(folder, tmp_path, colours) -> None:
    blue, red = (Image.new("RGB", (20, 12), colour) for colour in ("blue", "red"))
    blue.save(folder / "f.gif", save_all=True, append_images=[red] * 3)
    gallery = folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    assert len(gallery) == 6
    np.testing.assert_allclose(gallery.embeddings[gallery.ids.index("f.gif")], [0, 0, 1], atol=0.01)


def test_a_clip_model_reads_animations_and_folders_of_frames(folder, tmp_path, colours, caplog) -> None:
    blue, red = (Image.new("RGB", (20, 12), colour) for colour in ("blue", "red"))
    (folder / "album").mkdir()
    blue.save(folder / "album" / "g.gif", save_all=True, append_images=[red])
    blue.save(folder / "deep" / "er" / "frame10.png")
    encoder = type(colours)(frames=2).encoder
    (clip,) = [item for item in scan(folder, frames=2).items if item.path == "deep/er"]
    assert clip.files == tuple(folder / "deep" / "er" / name for name in ("b.JPG", "frame10.png"))
    gallery = folder_gallery(folder, encoder, cache=tmp_path / "cache")
    assert gallery.ids == ("a.png", "album/g.gif", "c.webp", "d.gif", "deep/er", "e.bmp")
    assert gallery.paths[4] == str(folder / "deep" / "er")
    vectors = dict(zip(gallery.ids, gallery.embeddings, strict=True))
    np.testing.assert_allclose(vectors["album/g.gif"], np.array([1, 0, 1]) / 2**0.5, atol=0.01)
    np.testing.assert_allclose(vectors["deep/er"], np.array([0, 1, 1]) / 2**0.5, atol=0.01)

    red.save(folder / "deep" / "er" / "frame10.png")
    (folder / "album" / "g.gif").write_bytes((folder / "album" / "g.gif").read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        changed = folder_gallery(folder, encoder, cache=tmp_path / "cache")
    assert "g.gif is truncated" in caplog.text
    assert changed.ids == tuple(name for name in gallery.ids if name != "album/g.gif")
    np.testing.assert_allclose(changed.embeddings[3], np.array([1, 1, 0]) / 2**0.5, atol=0.01)


def test_a_link_to_nothing_is_skipped(folder, tmp_path, colours, caplog) -> None:
    (folder / "dead.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "dead.jpg" not in folder_gallery(folder, colours.encoder, cache=tmp_path / "cache").ids
    assert "dead.jpg: it is not a regular file, or a broken link" in caplog.text


def test_changes_invalidate_the_cache(folder, tmp_path, colours) -> None:
    cache = tmp_path / "cache"
    first = folder_gallery(folder, colours.encoder, cache=cache)
    again = folder_gallery(folder, colours.encoder, cache=cache)
    assert colours.seen == 5
    np.testing.assert_array_equal(first.embeddings, again.embeddings)

    os.utime(folder / "a.png", (1, 1))
    folder_gallery(folder, colours.encoder, cache=cache)
    assert colours.seen == 10
    Image.new("RGB", (5, 5), "blue").save(folder / "new.png")
    assert len(folder_gallery(folder, colours.encoder, cache=cache)) == 6
    assert colours.seen == 16

    other = type(colours)(weights="step 20")
    assert folder_gallery(folder, other.encoder, cache=cache).weights == "step 20"
    assert other.seen == 6


def test_a_moved_folder_keeps_its_vectors_but_not_its_paths(folder, tmp_path, colours) -> None:
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    moved = folder.rename(tmp_path / "moved")
    gallery = folder_gallery(moved, colours.encoder, cache=tmp_path / "cache")
    assert colours.seen == 5
    assert gallery.paths[0] == str(moved / "a.png")


def test_a_damaged_or_unwritable_cache_is_no_error(folder, tmp_path, colours, caplog) -> None:
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(b"damaged")
    assert len(folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")) == 5
    (tmp_path / "file").touch()
    assert len(folder_gallery(folder, colours.encoder, cache=tmp_path / "file")) == 5
    assert "are not cached" in caplog.text


def test_folders_that_cannot_be_searched(folder, tmp_path, colours) -> None:
    with pytest.raises(UserError, match="no such folder"):
        scan(tmp_path / "nowhere", frames=1)
    with pytest.raises(UserError, match="no such folder"):
        scan(folder / "a.png", frames=1)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="has no pictures"):
        scan(tmp_path / "bare", frames=1)
    (tmp_path / "bare" / "x.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of its 1 pictures can be read"):
        folder_gallery(tmp_path / "bare", colours.encoder, cache=tmp_path / "cache")


def test_pictures_are_decoded_in_threads_and_no_larger_than_needed(tmp_path, colours, monkeypatch) -> None:
    shapes, threads, original = {}, set(), images.decode

    def decode(source, **options):
        threads.add(threading.get_ident())
        pixels = original(source, **options)
        shapes[source.name] = pixels.shape
        return pixels

    monkeypatch.setattr(clips, "decode", decode)
    names = [f"{number:02}.jpg" for number in range(40)]
    for number, name in enumerate(names):
        Image.new("RGB", (400, 300) if number % 2 else (200, 150), ["red", "lime", "blue"][number % 3]).save(
            tmp_path / name
        )
    (tmp_path / "07.jpg").write_bytes(b"\xff\xd8\xff no more")
    unread: dict[str, str] = {}
    encoder = replace(colours.encoder, enough=100)
    made = embed(encoder, {name: [tmp_path / name] for name in names}, unread)
    assert list(made) == [name for name in names if name != "07.jpg"] and list(unread) == ["07.jpg"]
    assert [int(vector.argmax()) for vector in made.values()] == [n % 3 for n in range(40) if n != 7]
    assert set(shapes.values()) == {(150, 200, 3)} and threading.get_ident() not in threads


def test_the_limit_of_pixels_is_the_encoders(tmp_path, colours) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.png")]
    for path, side in zip(paths, (100, 200, 101), strict=True):
        Image.new("RGB", (side, side), "red").save(path)
    unread: dict[str, str] = {}
    encoder = replace(colours.encoder, max_pixels=10_000)
    assert list(embed(encoder, {path.name: [path] for path in paths}, unread)) == ["a.png", "b.jpg"]
    assert "c.png has 101 x 101 pixels, over the limit of 10,000" in unread["c.png"]


def test_the_limit_of_pixels_is_a_flag(folder, tmp_path) -> None:
    with pytest.raises(UserError, match="--max_pixels=0 must be 1 or more"):
        index_command.main(["--model=m", f"--images={folder}", f"--index={tmp_path}/i.db", "--max_pixels=0"])
