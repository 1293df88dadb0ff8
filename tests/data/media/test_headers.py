"""What a picture costs is known from its header, and only the parts that make its pixels are read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from cl2cm_jax.data.media import headers, images, pixels
from cl2cm_jax.data.media.headers import HeaderError, read_header
from cl2cm_jax.data.media.images import ImageError, decode, decode_frames, open_picture


def noisy(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(size, 80).convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ihdr(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


PIXEL = (b"IDAT", zlib.compress(b"\0\x50")), (b"IEND", b"")


def zeros(count: int) -> bytes:
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(1_000_000)) for _ in range(count // 1_000_000)) + packing.flush()


def tiff(*tags: tuple[int, int, int, int], pages: int = 1, rest: bytes = b"") -> bytes:
    """A TIFF of one grey pixel; `tags` (number, type, count, value) replace or extend its own."""
    own = {256: (3, 1, 1), 257: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 4)}
    own |= {278: (3, 1, 1), 279: (4, 1, 1)} | {tag: about for tag, *about in tags}
    entries = b"".join(struct.pack("<HHLL", tag, *own[tag]) for tag in sorted(own))
    size = 2 + len(entries) + 4
    ends = [8 + size * page for page in range(1, pages)] + [0]
    return (
        b"II*\0\x08\0\0\0"
        + b"".join(struct.pack("<H", len(own)) + entries + struct.pack("<L", end) for end in ends)
        + rest
    )


def content_of(data: bytes) -> bytes:
    header = read_header(data)
    assert header is not None
    return header.content


# --- JPEG ---


def with_segments(*segments: tuple[int, bytes], junk: bytes = b"") -> bytes:
    plain = encoded(noisy(), "JPEG")
    made = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return plain[:2] + junk + made + plain[2:]


@pytest.mark.parametrize("data", [
    with_segments(*[(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000))] * 200),
    with_segments(*[(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + bytes(60_000))] * 200),
    with_segments(*[(0xFE, b"a comment")] * 10_000),
    with_segments(junk=b"\xff" * 5_000_000),
], ids=["profiles", "exif", "comments", "fill bytes"])  # fmt: skip
def test_what_makes_no_pixels_of_a_jpeg_is_not_read(data: bytes) -> None:
    assert len(content_of(data)) < 70_000 < len(data)
    np.testing.assert_array_equal(decode(data), decode(content_of(data)))


def test_a_jpeg_of_endless_segments_is_refused() -> None:
    with pytest.raises(ImageError, match="has over 20,000 segments; save it anew"):
        decode(with_segments(*[(0xE5, b"")] * 20_001))


def test_the_pixels_of_a_jpeg_are_those_of_the_whole_file() -> None:
    for image, options in ((noisy(mode="CMYK"), {}), (noisy(), {"progressive": True}), (noisy(mode="L"), {})):
        data = encoded(image, "JPEG", comment=b"c" * 100, icc_profile=bytes(500), **options)
        assert len(content_of(data)) < len(data)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode(data), expected)


def test_scans_over_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noisy(), "JPEG", progressive=True)
    monkeypatch.setattr(headers, "MAX_SCANNED", 64 * 48 * 5)
    with pytest.raises(ImageError, match=r"has \d+ scans of 64 x 48 pixels; save it anew as a baseline JPEG"):
        decode(data)
    assert decode(encoded(noisy(), "JPEG")).shape == (48, 64, 3)


def test_the_coefficients_of_a_progressive_jpeg_are_counted() -> None:
    for options, samples in (({"subsampling": 0}, 3), ({"subsampling": 2}, 1.5)):
        header = read_header(encoded(noisy(), "JPEG", progressive=True, **options))
        assert header is not None and header.extra == 2 * 64 * 48 * samples
        baseline = read_header(encoded(noisy(), "JPEG", **options))
        assert baseline is not None and baseline.extra == 0


# --- PNG ---


def test_long_texts_of_a_png_are_not_unpacked() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    text.add_text("workflow", "y" * 2_000_000, zip=True)
    image = noisy()
    data = encoded(image, "PNG", pnginfo=text, icc_profile=zeros(3_000_000))
    np.testing.assert_array_equal(decode(data), np.asarray(image))
    assert b"zTXt" not in content_of(data) and b"iTXt" not in content_of(data) and b"iCCP" not in content_of(data)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_small_text_that_unpacks_to_much_is_not_read(kind: bytes) -> None:
    for keyword in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        start = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
        assert kind not in content_of(png(ihdr(1, 1), (kind, keyword + start + zeros(50_000_000)), *PIXEL))


def test_the_orientation_in_a_text_of_a_png_is_kept() -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    profile, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)  # as ImageMagick writes
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    for text in (profile, xmp):
        assert decode(encoded(image, "PNG", pnginfo=text)).shape == (4, 2, 3)


def test_the_tags_of_a_png_are_found_without_its_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    exif_chunk = b"eXIf", exif.tobytes()[6:]
    data = png(ihdr(1, 1), (b"IDAT", b"no pixels"), exif_chunk, exif_chunk, (b"IEND", b""))
    with open_picture(data) as image:
        assert image.getexif()[0x0112] == 3
    assert content_of(data).count(b"eXIf") == 1


def test_a_png_of_endless_chunks_is_refused() -> None:
    with pytest.raises(ImageError, match="has over 100,000 chunks; save it anew"):
        decode(png(ihdr(1, 1), *[(b"IDAT", b"")] * 105_000, *PIXEL))


@pytest.mark.parametrize("size", [(1, 50_000_000), (50_000_000, 1), (65_536, 2)])
def test_a_picture_of_endless_rows_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="over the limit of 65,535 a side; scale it down"):
        decode(png(ihdr(*size), *PIXEL))


def test_the_bytes_of_a_deep_png_are_counted() -> None:
    for bits, colours, extra in ((8, 6, 0), (16, 2, 2), (16, 6, 4), (16, 0, 0), (1, 3, 0)):
        start = b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, bits, colours, 0, 0, 0)
        header = read_header(png(start, *PIXEL))
        assert header is not None and header.extra == extra * 9000 * 9000
    with pytest.raises(ImageError, match="needs 648,000,000 bytes as PNG, over the limit of 500,000,000"):
        decode(png((b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 16, 6, 0, 0, 0)), *PIXEL))


def test_a_second_size_is_refused() -> None:
    with pytest.raises(ImageError, match="states two sizes; save it anew"):
        decode(png(ihdr(1, 1), ihdr(9000, 9000), *PIXEL))


# --- GIF, BMP, WebP ---

GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
FRAME = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"


def test_frames_of_a_gif_are_counted() -> None:
    header = read_header(GIF + b"!\xfe\x03abc\0" + FRAME * 7 + b";" + FRAME)
    assert header is not None and (header.frames, header.width) == (7, 1)


@pytest.mark.parametrize(
    "body", [FRAME * 200_000, b"!\xfe" + b"\x01a" * 500_000 + b"\0" + FRAME, bytes(500_000) + FRAME]
)
def test_a_gif_of_endless_blocks_is_refused(body: bytes) -> None:
    for read in (decode, lambda data: list(decode_frames(data, limit=2))):
        with pytest.raises(ImageError, match="has too many blocks of a few bytes; save it anew"):
            read(GIF + body + b";")


def test_a_frame_outside_the_canvas_of_a_gif_is_refused() -> None:
    outside = b"," + struct.pack("<HHHHB", 13_000, 13_000, 100, 100, 0) + b"\x02\x02\x44\x01\x00"
    assert decode(GIF + FRAME + outside + b";").shape == (1, 1, 3)
    with pytest.raises(ImageError, match="13100 x 13100 pixels, over the limit of 100,000,000"):
        list(decode_frames(GIF + FRAME + outside + b";", limit=2))


def test_animations_are_bounded_by_their_bytes_and_their_canvas(monkeypatch) -> None:
    def frames(count: int, side: int) -> bytes:
        return GIF[:6] + struct.pack("<HH", side, side) + GIF[10:] + FRAME * count + b";"

    with pytest.raises(
        ImageError, match=r"has 51 frames of 2000 x 2000, 204,000,000 pixels, over the limit of 200,000,000 for a GIF"
    ):
        list(decode_frames(frames(51, 2000), limit=2))
    with monkeypatch.context() as patch:  # in proportion to the bytes of a larger file
        patch.setattr(images, "SMALL_FILE", len(frames(51, 2000)) / 1.02)
        assert len(list(decode_frames(frames(51, 2000), limit=1))) == 1
    with pytest.raises(
        ImageError, match=r"its frames of 6000 x 6000 pixels need 576,000,000 bytes, over the limit of 500,"
    ):
        list(decode_frames(frames(3, 6000), limit=2))
    assert len(list(decode_frames(frames(600, 10), limit=2))) == 2


def test_a_first_frame_larger_than_the_canvas_of_a_gif() -> None:
    data = encoded(noisy(mode="L"), "GIF")
    assert decode(data[:6] + struct.pack("<HH", 10, 10) + data[10:]).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="has 4,294,836,225 pixels, over the limit of 100,000,000"):
        place = data.index(b",\0\0\0\0") + 5
        decode(data[:place] + struct.pack("<HH", 65_535, 65_535) + data[place + 4 :])


def bmp(width: int, height: int, body: bytes, *, packing: int = 0) -> bytes:
    about = struct.pack("<LiiHHLLLLLL", 40, width, height, 1, 8, packing, len(body), 0, 0, 256, 0)
    start = 14 + len(about) + 1024
    return b"BM" + struct.pack("<LHHL", start + len(body), 0, 0, start) + about + bytes(1024) + body


def test_a_bmp_has_the_bytes_that_it_claims() -> None:
    assert decode(bmp(4, -2, bytes(8))).shape == (2, 4, 3)
    with pytest.raises(ImageError, match=r"truncated or damaged .* for 9000 x 9000 pixels of 8 bits"):
        decode(bmp(9000, 9000, bytes(8)))


def test_a_large_compressed_bmp_is_refused() -> None:
    assert decode(bmp(4, 1, b"\x04\x01\0\1", packing=1)).shape == (1, 4, 3)
    for size, body in (((9000, 9000), b"\0\1"), ((10, 10), b"\1\1" * 2_000_001)):
        with pytest.raises(ImageError, match="is a compressed BMP of .* pixels; save it as PNG"):
            decode(bmp(*size, body, packing=1))


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}, {"save_all": True, "append_images": [noisy()]}]
)
def test_the_size_of_a_webp(options: dict[str, object]) -> None:
    header = read_header(encoded(noisy(mode="RGBA"), "WEBP", **options))
    assert header is not None and (header.width, header.height) == (64, 48) and header.extra == 16 * 64 * 48


def test_a_webp_that_needs_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_MEMORY", 20 * 64 * 48 - 1)
    with pytest.raises(ImageError, match="64 x 48 pixels and needs 61,440 bytes as WEBP, over the limit of 61,439"):
        decode(encoded(noisy(), "WEBP"))
    assert decode(encoded(noisy(), "PNG")).shape == (48, 64, 3)


# --- TIFF ---


def test_only_the_first_page_of_a_tiff_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda _: pytest.fail("pages are counted")))
    data = tiff(pages=50_000)
    header = read_header(data)
    assert header is not None and header.frames == 2 and header.content.endswith(bytes(4))
    with Image.open(io.BytesIO(header.content)) as image:
        assert not getattr(image, "is_animated", True)
    assert decode(data).shape == (1, 1, 3)
    with pytest.raises(ImageError, match="has several pages"):
        decode(data, on_animated="refuse")


def test_a_tile_far_larger_than_its_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="has strips or tiles of 2,147,024,896 bytes, over the limit of 1,000,000,000"):
        decode(tiff((259, 3, 1, 8), (322, 4, 1, 46_336), (323, 4, 1, 46_336), (324, 4, 1, 8), (325, 4, 1, 8)))
    with (
        pytest.raises(ImageError, match="needs 400,000,004 bytes as TIFF, over the limit of 5,000"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(images, "MAX_MEMORY", 5_000)
        decode(tiff((259, 3, 1, 8), (322, 4, 1, 20_000), (323, 4, 1, 20_000), (324, 4, 1, 8), (325, 4, 1, 8)))


def test_long_tags_of_a_tiff_are_not_read() -> None:
    size = 1_000_000
    shared = [(tag, 1, size, 8) for tag in range(40_000, 40_500)]
    data = tiff(*shared, rest=bytes(size))
    assert len(content_of(data)) < len(data) + 200
    with Image.open(io.BytesIO(content_of(data))) as image:
        assert set(image.tag_v2) == {256, 257, 258, 259, 262, 273, 278, 279}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ImageError, match="has 4,400,0[0-9]+ bytes of tags, over the limit of 4,000,000"):
        decode(tiff((273, 4, 1_100_000, 8), rest=bytes(4_400_000)))
    with pytest.raises(ImageError, match=r"has 300,001 strips or tiles, over the limit of 300,000; save it anew"):
        decode(tiff((324, 3, 300_001, 8), rest=bytes(600_002)))
    assert decode(tiff((282, 5, 1_100_000, 8), (317, 3, 2**31, 8))).shape == (1, 1, 3)  # beyond the file: not read


@pytest.mark.parametrize("options", [
    {}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"},
    {"compression": "packbits", "tiffinfo": {274: 6}}, {"big_tiff": True}, {"tile": (16, 16)},
])  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1"])
def test_the_pixels_of_a_tiff_are_those_of_the_whole_file(mode: str, options: dict[str, object]) -> None:
    if options.get("compression") == "jpeg" and mode in ("P", "1", "RGBA"):
        pytest.skip("no JPEG")
    data = encoded(noisy(mode=mode), "TIFF", description="d" * 500, **options)
    assert b"d" * 500 in data
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = pixels._to_rgb(image)
    np.testing.assert_array_equal(decode(data), expected)


def test_a_tiff_of_the_other_byte_order() -> None:
    assert decode(b"MM\0*\0\0\0\x08" + struct.pack(">H", 8) + b"".join(
        struct.pack(">HHLHH", tag, 3, 1, value, 0)
        for tag, value in ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 4), (278, 1), (279, 1))
    ) + bytes(4)).shape == (1, 1, 3)  # fmt: skip


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_the_date_can_be_read_of_a_picture_that_is_opened(file_format: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:05:31 12:00:00"
    exif[0x8769] = exif.get_ifd(0x8769)
    with open_picture(encoded(noisy(), file_format, exif=exif)) as image:
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2024:05:31 12:00:00"


def test_a_picture_of_another_format_is_not_opened() -> None:
    with pytest.raises(ImageError, match="not an image of a known format"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert read_header(b"II but no TIFF") is None and read_header(b"RIFF\0\0\0\0AVI ") is None


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_header_cut_anywhere_is_refused_in_one_way(file_format: str) -> None:
    data = encoded(noisy((8, 6)), file_format)
    for length in range(0, min(len(data), 700), 3):
        try:
            read_header(data[:length])
        except (ValueError, IndexError, struct.error) as error:
            assert not isinstance(error, HeaderError)


def test_the_first_view_of_a_stereo_photograph_is_a_still_picture() -> None:
    image, other = noisy(), Image.new("RGB", (64, 48), "red")
    data = encoded(image, "MPO", save_all=True, append_images=[other], quality=95)
    np.testing.assert_array_equal(decode(data, on_animated="refuse"), decode(encoded(image, "JPEG", quality=95)))


@pytest.mark.parametrize("file_format", ["ICO", "TGA", "PPM", "EPS", "PCX", "ICNS"])
def test_other_formats_are_refused(file_format: str) -> None:
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(encoded(noisy((16, 16)), file_format))


def test_scans_of_the_parts_of_a_tiff_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip or tile may be a JPEG, and all of them the same one."""
    image = noisy(mode="L")
    part = encoded(image, "JPEG", progressive=True)
    count = part.count(b"\xff\xda")

    def tiff(strips: int) -> bytes:
        tags = [(256, image.width), (257, image.height * strips), (258, 8), (259, 7), (262, 1), (277, 1)]
        places = 8 + 2 + 12 * 9 + 4
        entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags[:5]]
        entries += [struct.pack("<HHLL", 273, 4, strips, places + 8 * strips if strips == 1 else places)]
        entries += [struct.pack("<HHLL", 277, 4, 1, 1), struct.pack("<HHLL", 278, 4, 1, image.height)]
        entries += [struct.pack("<HHLL", 279, 4, strips, len(part) if strips == 1 else places + 4 * strips)]
        lists = struct.pack(f"<{2 * strips}L", *[places + 8 * strips] * strips, *[len(part)] * strips)
        return b"II*\0" + struct.pack("<LH", 8, 9) + b"".join(entries) + bytes(4) + lists + part

    assert count > 3 and decode(tiff(1)).shape == (48, 64, 3) and decode(tiff(3)).shape == (144, 64, 3)
    header = read_header(tiff(3))
    assert header is not None and header.extra == 3 * 48 * 64
    monkeypatch.setattr(headers, "MAX_SCANNED", 3 * count * 48 * 64)
    decode(tiff(3))
    with pytest.raises(ImageError, match=rf"has {4 * count} scans of 3,072 pixels; save it anew"):
        decode(tiff(4))
    with pytest.raises(ImageError, match="has too many scans of a few bytes"):
        decode(tiff(1) + b"\xff\xda" * 30_000)
