"""Odd pictures are shown as a viewer shows them, or refused with the reason."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cl2cm_jax.data.media import images, pixels
from cl2cm_jax.data.media.images import ImageError, decode, decode_frames, scaled


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def noisy(size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))


def png_of_claimed_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    pixels = struct.pack(">I", 8) + b"IDAT" + b"nonsense"
    return b"\x89PNG\r\n\x1a\n" + chunk + pixels


def test_rgb_from_bytes_and_path(tmp_path: Path) -> None:
    image = noisy((5, 4))
    (tmp_path / "x.png").write_bytes(encoded(image))
    for source in (encoded(image), tmp_path / "x.png", str(tmp_path / "x.png")):
        np.testing.assert_array_equal(decode(source), np.asarray(image))


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    np.testing.assert_array_equal(decode(encoded(image)), [[[255, 0, 0], [255, 255, 255]]])


def test_palette_with_transparency() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    assert decode(encoded(image)).tolist() == [[[10, 20, 30]]]
    assert decode(encoded(image, transparency=0)).tolist() == [[[255, 255, 255]]]


def test_cmyk() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixel = decode(encoded(image, "JPEG", quality=100))[8, 8].astype(int)
    assert pixel[0] > 250 and pixel[1] < 5 and pixel[2] < 5


@pytest.mark.parametrize("values", [[0, 128 * 257, 65535], [0, 100, 200]])
def test_16_bit_grey_is_scaled_not_clipped(values: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.uint16))
    expected = np.round(np.array(values) / 257).astype(int)
    np.testing.assert_array_equal(decode(encoded(image))[0, :, 0], expected)


def test_grey_and_one_bit() -> None:
    assert decode(encoded(Image.new("L", (1, 1), 77))).tolist() == [[[77] * 3]]
    assert decode(encoded(Image.new("1", (1, 1), 1))).tolist() == [[[255] * 3]]


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 2), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright = decode(encoded(image, exif=exif))
    assert upright.shape == (4, 2, 3)
    assert upright[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("block", [b"Exif\0\0II*\0\x08", b"Exif\0\0garbage", b"Exif\0\0"])
@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_exif_block_that_cannot_be_read_says_nothing(file_format: str, block: bytes) -> None:
    image = noisy()
    decoded = decode(encoded(image, file_format, exif=block, **({"lossless": True} if file_format == "WEBP" else {})))
    np.testing.assert_array_equal(decoded, np.asarray(image))


def test_animated_first_frame_or_refused() -> None:
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue", "lime")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animated)[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ImageError, match="animated \\(3 frames\\)"):
        decode(animated, on_animated="refuse")


@pytest.mark.parametrize(("file_format", "keep"), [("JPEG", 0.5), ("PNG", 0.5), ("PNG", 0.1), ("JPEG", 0.02)])
def test_truncated(file_format: str, keep: float) -> None:
    content = encoded(noisy(), file_format)
    with pytest.raises(ImageError, match="truncated or damaged|not an image"):
        decode(content[: int(len(content) * keep)])


def test_empty_unknown_and_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is empty \(0 bytes\)"):
        decode(b"")
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(b"hello, this is text")
    with pytest.raises(ImageError, match=r"nothing\.png does not exist"):
        decode(tmp_path / "nothing.png")


def test_zero_sized() -> None:
    with pytest.raises(ImageError):
        decode(png_of_claimed_size(0, 5))


@pytest.mark.parametrize("size", [(20_000, 6_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="pixels"):
        decode(png_of_claimed_size(*size))  # its pixels are nonsense: decoding them would say "damaged"


def test_a_bombs_pixels_are_named() -> None:
    with pytest.raises(ImageError, match=r"has 3,600,000,000 pixels, over the limit of 100,000,000"):
        decode(png_of_claimed_size(60_000, 60_000))


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot be read \(Is a directory\)"):
        decode(tmp_path)


def test_a_pipe_is_not_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.gif")
    for read in (decode, lambda path: list(decode_frames(path, limit=4))):
        with pytest.raises(ImageError, match="p.gif is not a regular file but a pipe or device; replace it"):
            read(tmp_path / "p.gif")


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "null.png").symlink_to("/dev/null")
    with pytest.raises(ImageError, match="null.png is not a regular file but a pipe or device"):
        decode(tmp_path / "null.png")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded(noisy()))
    size = path.stat().st_size
    monkeypatch.setattr("cl2cm_jax.data.media.images.MAX_FILE", size)
    assert decode(path).shape == (64, 64, 3)
    monkeypatch.setattr("cl2cm_jax.data.media.images.MAX_FILE", size - 1)
    with pytest.raises(ImageError, match=rf"large.png has {size:,} bytes, over the limit of {size - 1:,}"):
        decode(path)


def test_limit_can_be_lowered() -> None:
    with pytest.raises(ImageError, match="64 x 64 pixels, over the limit of 4,095"):
        decode(encoded(noisy()), max_pixels=4095)


def test_scaling_takes_the_centre() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (scaled(image, 8, shorter_side=8, filter="bicubic")[:, 2:6] == 200).all()
    assert scaled(np.zeros((7, 5, 3), np.uint8), 224, shorter_side=224, filter="bicubic").shape == (224, 224, 3)
    squashed = scaled(image, 9, shorter_side=None, filter="bilinear")
    assert (squashed[:, 4] == 200).all() and (squashed[:, [0, 8]] == 0).all()


def test_scaling_keeps_a_picture_of_the_right_size() -> None:
    image = np.asarray(noisy((16, 16)))
    np.testing.assert_array_equal(scaled(image, 16, shorter_side=16, filter="bicubic"), image)
    np.testing.assert_array_equal(scaled(image, 8, shorter_side=16, filter="bicubic"), image[4:12, 4:12])


def test_a_very_long_picture_is_cut_without_a_larger_one_between(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.asarray(Image.fromarray(np.asarray(noisy((8, 8)))).resize((90, 30), Image.Resampling.BICUBIC))
    whole = scaled(image, 24, shorter_side=24, filter="bicubic")
    monkeypatch.setattr("cl2cm_jax.data.media.images.MAX_PIXELS", 10)
    cut = scaled(image, 24, shorter_side=24, filter="bicubic")
    assert np.abs(whole.astype(int) - cut.astype(int)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("strip", [2**20, 50])
def test_every_orientation(orientation: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_STRIP", strip)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noisy((9, 14)), exif=exif)
    found = decode(data)
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert found.flags.c_contiguous


def test_a_picture_is_turned_without_a_second_copy() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (2000, 3000), "red"), exif=exif)
    tracemalloc.start()
    found = decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (2000, 3000, 3) and peak < 1.8 * found.nbytes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I", "CMYK", "F"])
def test_a_picture_in_strips_has_the_pixels_of_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (
        Image.fromarray(np.random.default_rng(0).integers(0, 60_000, (37, 23), np.uint16))
        if mode in "I;16"
        else noisy()
    )
    image = image if image.mode == mode else image.convert(mode)
    data = encoded(image, "TIFF") if mode in ("CMYK", "I", "F") else encoded(image)
    whole = decode(data)
    monkeypatch.setattr(pixels, "_STRIP", 100)
    np.testing.assert_array_equal(decode(data), whole)


def photograph(size: tuple[int, int] = (1600, 1200)) -> Image.Image:
    """Edges and a little noise, as a camera makes them."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (size[1] // 10, size[0] // 10, 3), np.uint8))
    pixels = np.asarray(small.resize(size)) + rng.normal(0, 5, (size[1], size[0], 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("shorter_side", [128, None])
def test_a_jpeg_that_is_decoded_smaller_is_close(options: dict[str, object], shorter_side: int | None) -> None:
    data = encoded(photograph(), "JPEG", quality=90, **options)
    smaller = decode(data, enough=2 * 128)
    assert smaller.shape == (300, 400, 3) and decode(data).shape == (1200, 1600, 3)
    found, whole = (
        scaled(pixels, 128, shorter_side=shorter_side, filter="bicubic").astype(int)
        for pixels in (smaller, decode(data))
    )
    assert np.abs(found - whole).mean() < 1.5 and np.abs(found - whole).max() <= 8  # grey levels


def test_a_jpeg_of_less_than_twice_the_needed_size_is_not_changed() -> None:
    data = encoded(noisy((640, 480)), "JPEG")
    np.testing.assert_array_equal(decode(data, enough=241), decode(data))
    assert decode(data, enough=240).shape == (240, 320, 3)
    np.testing.assert_array_equal(decode(encoded(noisy((640, 480))), enough=10), np.asarray(noisy((640, 480))))


def test_another_large_picture_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_LARGE", 640 * 480 - 1)
    monkeypatch.setattr(pixels, "_STRIP", 10_000)
    image = photograph((640, 480))
    found = decode(encoded(image), enough=100)
    np.testing.assert_array_equal(found, np.asarray(image.reduce(4)))
    # no more than a strip is converted at a time, however little is enough
    np.testing.assert_array_equal(decode(encoded(image), enough=1), np.asarray(image.reduce(15)))
    monkeypatch.setattr(pixels, "_HALVED", 640 * 480 - 1)
    np.testing.assert_array_equal(decode(encoded(image)), np.asarray(image.reduce(2)))


def test_a_jpeg_over_the_limit_is_decoded_smaller() -> None:
    data = encoded(noisy((400, 300)), "JPEG")
    assert decode(data, max_pixels=120_000).shape == (300, 400, 3)
    assert decode(data, max_pixels=119_999).shape == decode(data, max_pixels=30_000).shape == (150, 200, 3)
    for content, limit in ((data, 29_999), (encoded(noisy((400, 300))), 119_999)):
        with pytest.raises(ImageError, match=f"400 x 300 pixels, over the limit of {limit:,}; scale it down"):
            decode(content, max_pixels=limit)


def test_a_higher_limit_of_pixels_allows_more_memory() -> None:
    data = encoded(Image.new("L", (12_000, 9_000), 90))  # 108 million pixels
    with pytest.raises(ImageError, match="12000 x 9000 pixels, over the limit of 100,000,000; scale it down"):
        decode(data, enough=1000)
    assert decode(data, enough=1000, max_pixels=130_000_000).shape == (1000, 1334, 3)
    assert images._memory_limit(10) == images.MAX_MEMORY and images._memory_limit(200_000_000) == 2 * images.MAX_MEMORY


def test_a_photograph_of_200_megapixels_is_read() -> None:
    data = encoded(Image.new("L", (16_320, 12_240), 90), "JPEG", quality=40)
    found = decode(data, enough=448)
    assert found.shape == (1530, 2040, 3) and np.abs(found.astype(int) - 90).max() <= 1


def test_a_system_without_the_flag_for_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK")  # as on Windows
    noisy().save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), np.asarray(noisy()))
