"""Clips: which frames are taken, what an animation or a folder yields, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.data.media import pixels
from cl2cm_jax.data.media.clips import decode_clip, frame_files, is_clip, picture_of, taken_files
from cl2cm_jax.data.media.images import ImageError, decode, decode_frames, frame_places

FORMATS = ("GIF", "PNG", "WEBP")


def grey(value: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def animation(values: list[int], file_format: str, **options: object) -> bytes:
    first, *others = (grey(value) for value in values)
    file = io.BytesIO()
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    first.save(file, file_format, save_all=True, append_images=others, **lossless, **options)  # type: ignore[arg-type]
    return file.getvalue()


def noise(frames: int, file_format: str) -> bytes:
    random = np.random.default_rng(0)
    first, *others = (Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(frames))
    file = io.BytesIO()
    first.save(file, file_format, save_all=True, append_images=others)
    return file.getvalue()


def levels(frames: list[np.ndarray]) -> list[int]:
    return [int(frame.mean()) for frame in frames]


def folder_of(path: Path, values: list[int], pattern: str = "frame{}.png") -> Path:
    path.mkdir()
    for number, value in enumerate(values, start=1):
        grey(value).save(path / pattern.format(number))
    return path


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (1, 8, [0]),
        (3, 8, [0, 1, 2]),
        (8, 8, list(range(8))),
        (9, 3, [1, 4, 7]),
        (10, 4, [1, 3, 6, 8]),
        (72, 8, [4, 13, 22, 31, 40, 49, 58, 67]),
        (7, 1, [3]),
    ],
)
def test_rule_for_frames(count: int, limit: int, expected: list[int]) -> None:
    assert frame_places(count, limit) == expected


def test_taken_frames_are_distinct_evenly_spaced_and_the_same_both_ways() -> None:
    for count in range(1, 130):
        for limit in (2, 3, 7, 64):
            places = frame_places(count, limit)
            assert len(places) == min(count, limit) and 0 <= places[0] and places[-1] < count
            steps = np.diff(places)
            assert len(steps) == 0 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
            mirrored = [count - 1 - place for place in reversed(places)]
            assert max(abs(place - other) for place, other in zip(places, mirrored, strict=True)) <= 1


@pytest.mark.parametrize("file_format", FORMATS)
def test_animations_yield_the_frames_of_the_rule(file_format: str) -> None:
    values = [10 * step for step in range(1, 11)]
    found = list(decode_frames(animation(values, file_format), limit=4))
    assert all(frame.shape == (6, 8, 3) and frame.dtype == np.uint8 for frame in found)
    assert levels(found) == [20, 40, 70, 90]
    assert levels(list(decode_frames(animation(values, file_format), limit=64))) == values


def test_a_still_picture_is_one_frame() -> None:
    file = io.BytesIO()
    grey(70).save(file, "PNG")
    assert levels(list(decode_frames(file.getvalue(), limit=8))) == [70]


def test_pages_of_a_tiff_are_no_frames() -> None:
    assert levels(list(decode_frames(animation([10, 20, 30], "TIFF"), limit=8))) == [10]


def test_the_stand_in_of_an_animated_png_is_no_frame() -> None:
    content = animation([200, 10, 20, 30], "PNG", default_image=True)
    assert levels(list(decode_frames(content, limit=8))) == [10, 20, 30]


def test_transparency_lies_on_white() -> None:
    frames = [Image.new("RGBA", (8, 6), (0, 0, 0, alpha)) for alpha in (255, 0)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert levels(list(decode_frames(file.getvalue(), limit=8))) == [0, 255]


def test_one_frame_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    to_rgb = pixels._to_rgb
    monkeypatch.setattr(pixels, "_to_rgb", lambda image: converted.append(image.tell()) or to_rgb(image))
    frames = decode_frames(animation([step % 250 for step in range(3000)], "GIF"), limit=4)
    assert converted == []
    assert next(frames).mean() == 375 % 250
    assert len(converted) == 1
    assert levels(list(frames)) == [1125 % 250, 1875 % 250, 2625 % 250]
    assert len(converted) == 4


@pytest.mark.parametrize("file_format", FORMATS)
def test_too_many_frames_or_pixels_are_refused_before_decoding(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_to_rgb", lambda image: pytest.fail("a frame was decoded"))
    content = animation([10, 20, 30, 40], file_format)
    with pytest.raises(ImageError, match="has 4 frames, over the limit of 3; shorten it"):
        next(decode_frames(content, limit=2, max_frames=3))
    with pytest.raises(ImageError, match="4 frames of 8 x 6, 192 pixels, over the limit of 191 for a "):
        next(decode_frames(content, limit=2, max_animation_pixels=191))
    with pytest.raises(ImageError, match="8 x 6 pixels, over the limit of 47"):
        next(decode_frames(content, limit=2, max_pixels=47))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_truncated_animations_are_refused_whichever_frames_are_taken(file_format: str, share: float) -> None:
    content = noise(10, file_format)
    with pytest.raises(ImageError, match="truncated or damaged"):
        list(decode_frames(content[: int(share * len(content))], limit=2))


def test_claimed_frames_that_are_not_there_are_refused() -> None:
    content = animation([10, 20, 30, 40], "PNG")
    start = content.index(b"acTL")
    chunk = b"acTL" + struct.pack(">I", 9000) + content[start + 8 : start + 12]
    changed = content[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[start + 16 :]
    with pytest.raises(ImageError, match="truncated or damaged"):
        list(decode_frames(changed, limit=2))


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"GIF89a but no", "truncated|not an image")])
def test_what_is_no_animation_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        list(decode_frames(content, limit=2))


def test_frames_of_a_folder_come_in_natural_order(tmp_path: Path) -> None:
    clip = folder_of(tmp_path / "clip", [10 * number for number in range(1, 13)])
    (clip / "notes.txt").write_text("no frame")
    (clip / ".frame0.png").write_bytes(b"hidden")
    assert [file.name for file in frame_files(clip)] == [f"frame{number}.png" for number in range(1, 13)]
    taken = taken_files(clip, limit=4)
    assert [file.name for file in taken] == ["frame2.png", "frame5.png", "frame8.png", "frame11.png"]
    assert levels(list(decode_clip(taken, limit=4))) == [20, 50, 80, 110]
    assert levels(list(decode_clip([file.read_bytes() for file in taken], limit=4))) == [20, 50, 80, 110]
    assert picture_of(str(clip)) == clip / "frame1.png"


def test_natural_order_mixes_names_and_numbers(tmp_path: Path) -> None:
    for name in ("b1.png", "A10.png", "a2.png", "10.png", "9.jpg", "a2b.png"):
        (tmp_path / name).touch()
    names = [file.name for file in frame_files(tmp_path)]
    assert names == ["9.jpg", "10.png", "a2.png", "a2b.png", "A10.png", "b1.png"]


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="has no frame; it needs files ending in"):
        taken_files(tmp_path, limit=4)


def test_frames_of_several_sizes_are_refused(tmp_path: Path) -> None:
    clip = folder_of(tmp_path / "clip", [10, 20])
    grey(30, (16, 12)).save(clip / "frame3.png")
    with pytest.raises(ImageError, match=r"frame3\.png is 16 x 12 pixels where .*frame1\.png is 8 x 6; save all"):
        list(decode_clip(taken_files(clip, limit=4), limit=4))


def test_a_broken_frame_is_named(tmp_path: Path) -> None:
    clip = folder_of(tmp_path / "clip", [10, 20])
    (clip / "frame2.png").write_bytes((clip / "frame1.png").read_bytes()[:50])
    with pytest.raises(ImageError, match=r"frame2\.png is truncated"):
        list(decode_clip(taken_files(clip, limit=4), limit=4))


def test_frames_that_no_record_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cl2cm_jax.data.media.clips.MAX_BYTES", 100)
    with pytest.raises(ImageError, match=r"2 frames have \d+ bytes, over the limit of 100"):
        taken_files(folder_of(tmp_path / "clip", [10, 20]), limit=4)


def test_a_folder_is_a_clip_if_its_first_picture_is_still(tmp_path: Path) -> None:
    assert is_clip(folder_of(tmp_path / "clip", [10, 20]))
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "a.webp").write_bytes(animation([10, 20], "WEBP"))
    assert not is_clip(tmp_path / "album")


def test_pictures_still_take_the_first_frame() -> None:
    assert decode(animation([10, 20, 30], "GIF")).mean() == 10
