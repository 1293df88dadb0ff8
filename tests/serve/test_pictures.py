"""A thumbnail is made once, and kept within a limit of bytes."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from support.colour_encoder import paint
from support.flipped_bits import flipped_bits

from cl2cm_jax.data.media.images import ImageError
from cl2cm_jax.serve import pictures as module
from cl2cm_jax.serve.pictures import DiskCache, MemoryCache, Pictures
from cl2cm_jax.serve.workers import Workers


class Slow(Workers):
    """Counts what it encodes, once it is let."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[tuple[str, int]] = []
        self.go = threading.Event()
        self.go.set()

    def webp(self, file: Path, *, size: int) -> bytes:
        self.asked.append((file.name, size))
        self.go.wait(60)
        if file.read_bytes() == b"broken":
            raise ImageError("it is broken")
        return f"{file.name} {size} {len(self.asked)}".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paint(tmp_path / "photos" / "red.png", "red")
    (tmp_path / "photos" / "broken.png").write_bytes(b"broken")
    return tmp_path / "photos"


def test_equal_requests_wait_for_the_first(folder: Path) -> None:
    slow = Slow()
    slow.go.clear()
    pictures, found = Pictures(str(folder), slow), []
    threads = [threading.Thread(target=lambda: found.append(pictures.webp("red.png", size=480))) for _ in range(60)]
    for thread in threads:
        thread.start()
    while not slow.asked:
        threading.Event().wait(0.01)
    slow.go.set()
    for thread in threads:
        thread.join()
    assert slow.asked == [("red.png", 480)] and found == [b"red.png 480 1"] * 60
    assert pictures.webp("red.png", size=1600) == b"red.png 1600 2"


def test_a_broken_picture_is_tried_once(folder: Path) -> None:
    slow = Slow()
    pictures = Pictures(str(folder), slow)
    assert [pictures.webp("broken.png", size=480) for _ in range(3)] == [None] * 3
    assert len(slow.asked) == 1
    paint(folder / "broken.png", "red")
    assert pictures.webp("broken.png", size=480) == b"broken.png 480 2"


def test_a_picture_without_access_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    pictures = Pictures(str(folder), slow)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert pictures.webp("red.png", size=480) is None
    assert pictures.webp("red.png", size=480) == b"red.png 480 1"


def test_the_folder_of_thumbnails_can_be_deleted_at_any_time(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "thumbnails"
    pictures = Pictures(str(folder), Slow(), kept=kept)
    shutil.rmtree(kept)
    assert pictures.webp("red.png", size=480) and len(list(kept.iterdir())) == 1
    assert kept.stat().st_mode & 0o777 == 0o700


def test_they_are_kept_on_disk_until_the_picture_changes(folder: Path, tmp_path: Path) -> None:
    slow, kept = Slow(), tmp_path / "cache" / "thumbnails"
    for _ in range(2):
        assert Pictures(str(folder), slow, kept=kept).webp("red.png", size=480) == b"red.png 480 1"
    assert len(slow.asked) == 1 and kept.stat().st_mode & 0o777 == 0o700
    os.utime(folder / "red.png", ns=(1, 1))
    assert Pictures(str(folder), slow, kept=kept).webp("red.png", size=480) == b"red.png 480 2"


def test_a_damaged_thumbnail_is_made_again(folder: Path, tmp_path: Path) -> None:
    slow, kept = Slow(), tmp_path / "kept"

    def asked(size: int = 480) -> bytes | None:
        return Pictures(str(folder), slow, kept=kept).webp("red.png", size=size)

    asked()
    (file,) = kept.iterdir()
    for number, _ in enumerate(flipped_bits(file, count=5), start=2):
        assert asked() == f"red.png 480 {number}".encode()
    file.write_bytes(b"")
    assert asked() == b"red.png 480 7"
    asked(1600)
    (other,) = set(kept.iterdir()) - {file}
    file.write_bytes(other.read_bytes())
    assert asked() == b"red.png 480 9" and asked() == b"red.png 480 9"


def test_a_folder_that_cannot_be_written_costs_no_answer(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    pictures = Pictures(str(folder), Slow(), kept=tmp_path / "file" / "thumbnails")
    assert pictures.webp("red.png", size=480) == b"red.png 480 1" == pictures.webp("red.png", size=480)
    assert pictures.webp("red.png", size=1600) == b"red.png 1600 2"
    assert [record.getMessage().partition(" in ")[0] for record in caplog.records] == ["thumbnails are not kept"]


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module.cache_folder() == tmp_path / "cl2cm_jax" / "thumbnails"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module.cache_folder() == tmp_path / ".cache" / "cl2cm_jax" / "thumbnails"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert module.cache_folder() is None


def test_memory_holds_bytes_not_items(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = MemoryCache(10_000)
    for number in range(100):
        cache.put(str(number), bytes(1500))
        assert cache.get("0") is not None  # it is used again and again
    assert [key for key in map(str, range(100)) if cache.get(key) is not None] == ["0", "96", "97", "98", "99"]
    cache.put("0", bytes(9_400))
    assert cache.get("0") == bytes(9_400) and cache.get("99") is None
    cache.put("huge", bytes(20_000))
    assert cache.get("huge") is None
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    slow = Slow()
    pictures = Pictures(str(folder), slow)
    assert [pictures.webp("red.png", size=480) for _ in range(2)] == [b"red.png 480 1", b"red.png 480 2"]


def test_the_oldest_files_are_removed(tmp_path: Path) -> None:
    for start in (0, 50):  # a second service begins with the files of the first
        cache = DiskCache(tmp_path, 10_000)
        for number in range(start, start + 50):
            cache.put(str(number), bytes(900))
            os.utime(tmp_path / f"{number}.webp", ns=(number, number))
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000
    assert cache.get("99") == bytes(900) and cache.get("0") is None
