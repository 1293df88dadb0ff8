from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cl2cm_jax.data.media import clips, images
from cl2cm_jax.errors import UserError
from cl2cm_jax.search import folder as module
from cl2cm_jax.search import index_command
from cl2cm_jax.search.folder import folder_gallery, load_with_gallery, scan
from cl2cm_jax.search.query import search
from cl2cm_jax.search.scan import embed


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
    assert colours.seen == 6
    Image.new("RGB", (5, 5), "blue").save(folder / "new.png")
    assert len(folder_gallery(folder, colours.encoder, cache=cache)) == 6
    assert colours.seen == 7

    other = type(colours)(weights="step 20")
    assert folder_gallery(folder, other.encoder, cache=cache).weights == "step 20"
    assert other.seen == 6


def test_a_moved_folder_keeps_its_vectors_but_not_its_paths(folder, tmp_path, colours) -> None:
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    moved = folder.rename(tmp_path / "moved")
    gallery = folder_gallery(moved, colours.encoder, cache=tmp_path / "cache")
    assert colours.seen == 5
    assert gallery.paths[0] == str(moved / "a.png")
    assert len(list((tmp_path / "cache").iterdir())) == 2  # under its new name too, so that it is used from now on


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


def test_pictures_and_films_of_other_formats_are_counted_and_named(folder, caplog) -> None:
    for name in ("IMG_1.HEIC", "deep/IMG_2.heic", "IMG_3.jxl", "IMG_4.DNG", "IMG_5.MOV"):
        (folder / name).write_bytes(bytes(50))
    found = scan(folder, frames=1)
    assert len(found.items) == 5
    found.warn()
    assert "passed over: 5 files of formats that are not read (.heic 2, .dng 1, .jxl 1, .mov 1)" in caplog.text
    assert "such as IMG_1.HEIC, IMG_4.DNG, IMG_3.jxl and 1 more" in caplog.text
    assert "notes.txt" not in caplog.text and ".hidden.png" not in caplog.text


def test_a_folder_of_other_formats_only_says_so(tmp_path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(bytes(50))
    with pytest.raises(UserError, match=r"has no pictures; .*passed over: 1 files .* \(.heic 1\), such as IMG_1.HEIC"):
        scan(tmp_path, frames=1)


@pytest.mark.parametrize(
    ("suffix", "format"),
    [
        (".jfif", "JPEG"),
        pytest.param(".avif", "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="built without it")),
    ],
)
def test_further_suffixes_are_read(folder, tmp_path, colours, suffix, format) -> None:
    Image.new("RGB", (20, 12), "blue").save(folder / f"x{suffix.upper()}", format=format)
    gallery = folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    np.testing.assert_allclose(gallery.embeddings[gallery.ids.index(f"x{suffix.upper()}")], [0, 0, 1], atol=0.05)


def test_many_skipped_files_are_few_lines(folder, tmp_path, colours, caplog) -> None:
    for number in range(200):
        (folder / f"{number:03}.png").write_bytes(b"no picture" + bytes(number))
    for number in range(50):
        (folder / f"dead{number:02}.jpg").symlink_to(tmp_path / "gone.jpg")
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("cl2cm_jax")]
    assert len(lines) == 2
    assert lines[0].startswith("skipped: 000.png, 001.png, 002.png and 197 more: is not an image of a known format")
    assert lines[1].startswith("skipped: dead00.jpg, dead01.jpg, dead02.jpg and 47 more: it is not a regular file")


def test_patterns_of_exclude_are_names_or_paths_and_those_that_match_nothing_are_named(folder, caplog) -> None:
    patterns = ["./deep/", str(folder / "c.webp"), "d.*"]
    found = scan(folder, frames=1, exclude=[*patterns, "DEEP", "/elsewhere/a.png"])
    assert [item.path for item in found.items] == ["a.png", "e.bmp"]
    found.warn()
    assert "--exclude=DEEP matches nothing" in caplog.text and "--exclude=/elsewhere/a.png matches" in caplog.text
    assert caplog.text.count("matches nothing in the folder") == 2


def test_a_broken_link_to_a_folder_is_named(folder, tmp_path) -> None:
    (folder / "disk").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    assert scan(folder, frames=1).skipped == {"disk": "it is not a regular file, or a broken link"}


class Cut(BaseException):
    """Interrupts a call like a kill."""


@pytest.mark.parametrize("cut", [Cut, KeyboardInterrupt])
def test_an_interrupted_run_is_resumed(folder, tmp_path, colours, monkeypatch, cut) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    limited = replace(colours.encoder, images=lambda clips: raises(cut) if colours.seen == 4 else colours.images(clips))
    with pytest.raises(cut):
        folder_gallery(folder, limited, cache=tmp_path / "cache")
    assert len(folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")) == 5 and colours.seen == 5


def raises(kind: type[BaseException]):
    raise kind


def test_the_cache_is_saved_while_it_grows(folder, tmp_path, colours, monkeypatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0)
    counts: list[int] = []
    monkeypatch.setattr(module, "_save", lambda file, weights, rows: counts.append(len(rows)))
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    assert counts[0] == 1 and counts[-1] == 5


def test_progress_is_shown(folder, tmp_path, colours, capsys) -> None:
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    assert "embedded 5 of 5" in capsys.readouterr().err
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    assert "embedded" not in capsys.readouterr().err


def test_the_cache_does_not_grow_with_changes_and_is_limited(folder, tmp_path, colours) -> None:
    cache = tmp_path / "cache"
    for number in range(5):
        os.utime(folder / "a.png", (number, number))
        folder_gallery(folder, colours.encoder, cache=cache)
    assert len(list(cache.iterdir())) == 1
    (cache / "notes.txt").write_text("of another program")
    for number in range(module.KEPT + 3):
        Image.new("RGB", (20, 12), (number, 0, 200)).save(folder / "a.png")
        folder_gallery(folder, type(colours)(weights=f"step {number}").encoder, cache=cache)
    assert len(list(cache.glob("*.npz"))) == module.KEPT and (cache / "notes.txt").exists()
    last = type(colours)(weights=f"step {number}")
    folder_gallery(folder, last.encoder, cache=cache)
    assert last.seen == 0


def test_pictures_of_another_folder_are_not_taken_for_these(folder, tmp_path, colours) -> None:
    folder_gallery(folder, colours.encoder, cache=tmp_path / "cache")
    other = tmp_path / "other"
    other.mkdir()
    for name, colour in (("a.png", "blue"), ("x.png", "red"), ("y.png", "red")):
        Image.new("RGB", (20, 12), colour).save(other / name)
    stat = (folder / "a.png").stat()
    os.utime(other / "a.png", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    gallery = folder_gallery(other, colours.encoder, cache=tmp_path / "cache")
    np.testing.assert_allclose(gallery.embeddings[0], [0, 0, 1], atol=0.01)


def test_exclude(folder, tmp_path, colours) -> None:
    gallery = folder_gallery(folder, colours.encoder, cache=tmp_path / "cache", exclude=["deep", "*.gif"])
    assert gallery.ids == ("a.png", "c.webp", "e.bmp")


def test_vectors_of_a_disk_that_is_away_are_kept_and_not_found(folder, tmp_path, colours, monkeypatch) -> None:
    cache = tmp_path / "cache"
    folder_gallery(folder, colours.encoder, cache=cache)
    (folder / "deep").rename(tmp_path / "away")
    Image.new("RGB", (20, 12), "blue").save(folder / "f.png")
    assert folder_gallery(folder, colours.encoder, cache=cache).ids == ("a.png", "c.webp", "d.gif", "e.bmp", "f.png")
    (tmp_path / "away").rename(folder / "deep")
    assert len(folder_gallery(folder, colours.encoder, cache=cache)) == 6 and colours.seen == 6

    monkeypatch.setattr(module, "KEPT_ABSENT", 0)  # and not without limit
    for name in ("a.png", "c.webp", "d.gif", "e.bmp"):
        (folder / name).rename(tmp_path / name)
    folder_gallery(folder, colours.encoder, cache=cache)
    for name in ("a.png", "c.webp", "d.gif", "e.bmp"):
        (tmp_path / name).rename(folder / name)
    folder_gallery(folder, colours.encoder, cache=cache)
    assert colours.seen == 10


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


def test_a_user_without_a_home_names_a_folder(folder, monkeypatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="no home folder .*; set XDG_CACHE_HOME"):
        load_with_gallery("org/name", folder)
