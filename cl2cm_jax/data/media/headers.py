"""What the header of a picture's file states, read before Pillow reads the file.

A file of a few kilobytes can claim any size, hold megabytes of packed text, or consist of a million tiny parts. Each
reader here takes time in proportion to the bytes, reads the size and the memory that decoding needs, and passes on only
the parts that make the pixels and the orientation: texts, colour profiles and thumbnails are not read at all.
"""

from __future__ import annotations

import re
import struct
import zlib
from bisect import bisect, bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

from cl2cm_jax.data.media.avif import avif_size, is_animated, is_avif

MAX_SCANS = 100  # limit for a JPEG; each is decoded over the whole picture, however few bytes it has
MAX_SCANNED = 2_500_000_000  # limit for the pixels of all scans of a JPEG; one to two seconds of decoding
MAX_SEGMENTS = 20_000  # limit for a JPEG; programs write segments of up to 64 kB
MAX_CHUNKS = 100_000  # limit for a PNG, and one more for each 512 bytes
MAX_BLOCKS = 200_000  # limit for a GIF, and one more for each 64 bytes; programs write blocks of 255 bytes
MAX_TEXT = 1_000_000  # bytes, limit for an unpacked text with the orientation, as in Pillow
MAX_TAG_BYTES = 4_000_000  # bytes, limit for the tags of a TIFF; each strip or tile needs 8 bytes or more
MAX_TIFF_PARTS = 300_000  # limit for the strips or tiles of a TIFF, each of which costs Pillow some microseconds
MAX_TIFF_WORK = 1_000_000_000  # bytes, limit for all strips or tiles of a TIFF, unpacked
MAX_RLE_BYTES, MAX_RLE_PIXELS = 4_000_000, 10_000_000  # limits for a compressed BMP, which Pillow decodes in Python
AVIF_EXTRA = 8  # bytes per pixel: planes of up to 16 bits, and a copy
WEBP_EXTRA = 16  # bytes per pixel: two canvases and a picture in libwebp, and a copy in Pillow

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd8]")  # start of a JPEG's segment, before its length
_SCAN, _END = 0xDA, 0xD9
_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_TABLES = frozenset({*_SIZES, 0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE})  # segments of a JPEG that make pixels
_APP1 = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")  # the first segment of each kind is read

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel of a PNG by its type of colour
_PNG_PARTS = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})  # read besides all that begin in upper case
_ORIENTED = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # keywords of texts that can hold the orientation

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = (
    256, 257, 258, 259, 277, 278, 322, 323)  # fmt: skip
_STRIP_PLACES, _STRIP_SIZES, _TILE_PLACES, _TILE_SIZES = 273, 279, 324, 325
_JPEG_PARTS, _SCAN_MARKER = 7, b"\xff\xda"  # compression of strips or tiles that are a JPEG each
_BLOCKS = (0x8769, 0x8825)  # the tags that point to the tags of EXIF and GPS, among them dates
_TIFF_TAGS = frozenset(
    {254, 255, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, 262, 266, 273, 274, _SAMPLES, _ROWS, 279, 280, 281, 284, 292, 293}
    | {317, 318, 319, 320, _TILE_WIDTH, _TILE_HEIGHT, 324, 325, 332, 334, 336, 338, 339, 340, 341, 347}
    | {*range(512, 522), 529, 530, 531, 532, 306, *_BLOCKS}
)


class HeaderError(ValueError):
    """A file that would cost too much; the message follows the file's name and ends with the fix."""


class Header(NamedTuple):
    """What a file states.

    Attributes:
      format: as Pillow names it.
      content: what Pillow is to read.
      width, height: of the picture in pixels.
      extra: bytes that decoding needs beside the pixels of the picture.
      canvas: width and height of all frames of a GIF together; else (0, 0).
      frames: of a GIF; 2 of a TIFF of several pages; else 1.
    """

    format: str
    content: bytes
    width: int
    height: int
    extra: int = 0
    frames: int = 1
    canvas: tuple[int, int] = (0, 0)


def read_header(content: bytes) -> Header | None:
    """The header of a picture's file; None if it is of no format that is read.

    Raises:
      HeaderError: decoding would cost too much.
      ValueError, struct.error, IndexError: the file is truncated or damaged.
    """
    if is_animated(content) or is_avif(content):
        return _avif(content)
    for magic, read in _READERS.items():
        if content.startswith(magic):
            return read(content)
    return None


def _jpeg(content: bytes) -> Header:
    parts, place, scans, start = [content[:2]], 2, 0, 0
    size, seen, end = b"", set[bytes](), len(content)
    for number, (marker, begin, after) in enumerate(_segments(content, place)):
        if number >= MAX_SEGMENTS:
            raise HeaderError(f"has over {MAX_SEGMENTS:,} segments; save it anew")
        if marker == _END:
            end = after
            break
        scans += marker == _SCAN
        start = start or begin * (marker == _SCAN)
        if start:
            continue
        segment = content[begin:after]
        if marker in _SIZES:
            size = segment
        kind = next((kind for kind in _APP1 if segment[4:].startswith(kind)), b"") if marker == 0xE1 else b""
        if marker in _TABLES or (kind and kind not in seen):
            parts.append(segment)
            seen.add(kind)
    if not start or not size:
        raise ValueError("it has no picture")
    height, width = struct.unpack_from(">HH", size, 5)
    if scans > MAX_SCANS:
        raise HeaderError(f"has {scans:,} scans, over the limit of {MAX_SCANS}; save it anew")
    if scans * width * height > MAX_SCANNED:
        raise HeaderError(f"has {scans} scans of {width} x {height} pixels; save it anew as a baseline JPEG")
    is_whole = size[1] in _PROGRESSIVE or scans > 1  # the coefficients of all scans are kept, two bytes each
    content = b"".join([*parts, memoryview(content)[start:end]])
    return Header("JPEG", content, width, height, 2 * _samples(size, width * height) * is_whole)


def _segments(jpeg: bytes, place: int) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of the segments of a JPEG; compressed data between them is passed over."""
    while found := _MARKER.search(jpeg, place):
        length = 0 if found[0][1] in (_END, 0x01) else int.from_bytes(jpeg[found.end() : found.end() + 2])
        place = found.end() + length
        yield found[0][1], found.start(), place


def _samples(size: bytes, pixels: int) -> int:
    """The samples of all components of a JPEG, some of which may have fewer than one a pixel."""
    factors = [(factor >> 4, factor & 15) for factor in size[11 : 10 + 3 * size[9] : 3]]
    most = max(across for across, _ in factors) * max(down for _, down in factors)
    return pixels * sum(across * down for across, down in factors) // max(1, most)


def _png(content: bytes) -> Header:
    if content[12:16] != b"IHDR":
        raise ValueError("it does not begin with its size")
    width, height, bits, colours = struct.unpack_from(">IIBB", content, 16)
    deep = max(0, bits * _CHANNELS.get(colours, 1) // 8 - 4) * width * height  # unpacked before it is converted
    parts: list[bytes | memoryview] = [content[:8]]
    place, seen = 8, set[bytes]()
    for _ in range(MAX_CHUNKS + len(content) // 512):
        if place + 8 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, place)
        makes_pixels = kind[:1].isupper() or kind in _PNG_PARTS
        keyword = b"" if makes_pixels else _oriented(kind, content, place + 8, length)
        if keyword is not None and keyword not in seen:
            at = 2 if keyword else len(parts)  # before the pixels, so that they need not be decoded for it
            parts.insert(at, memoryview(content)[place : place + 12 + length])
            seen |= {keyword} - {b""}
        place += 12 + length
        if kind == b"IEND":
            break
    else:
        raise HeaderError(f"has over {MAX_CHUNKS:,} chunks; save it anew")
    return Header("PNG", b"".join(parts), width, height, deep)


def _oriented(kind: bytes, content: bytes, start: int, length: int) -> bytes | None:
    """The name of a part of a PNG that may state the orientation, or of a small text that may; else None."""
    if kind == b"eXIf":
        return kind
    keyword = next((word for word in _ORIENTED if content.startswith(word + b"\0", start)), None)
    if keyword is None or kind not in (b"tEXt", b"zTXt", b"iTXt") or length > MAX_TEXT:
        return None
    text = content[start + len(keyword) + 1 : start + length]
    if kind == b"iTXt":
        return keyword if text[:1] == b"\0" else None
    if kind == b"zTXt":
        unpacking = zlib.decompressobj()
        try:
            is_small = len(unpacking.decompress(text[1:], MAX_TEXT)) < MAX_TEXT
        except zlib.error:
            return None
        return keyword if is_small else None
    return keyword


def _gif(content: bytes) -> Header:
    """Counts the frames: in Pillow, which reads block by block, that takes far longer."""
    width, height = struct.unpack_from("<HH", content, 6)
    place, frames, left = 13 + _colours(content[10]), 0, MAX_BLOCKS + len(content) // 64
    canvas, first, end = (width, height), None, len(content)
    while place < end and content[place] != 0x3B:
        kind, left = content[place], left - 1
        if kind == 0x2C and place + 9 < end:
            frames += 1
            x, y, columns, rows = struct.unpack_from("<HHHH", content, place + 1)
            canvas = max(canvas[0], x + columns), max(canvas[1], y + rows)  # a frame may lie outside what was stated
            first = first or canvas
            place += 11 + _colours(content[place + 9])
        elif kind == 0x21:
            place += 2
        else:  # padding
            place += 1
        while kind in (0x2C, 0x21) and place < end and left > 0 and content[place]:
            place += 1 + content[place]
            left -= 1
        place += kind in (0x2C, 0x21)
        if left <= 0:
            raise HeaderError("has too many blocks of a few bytes; save it anew")
    if first is None:
        raise ValueError("it has no frame")
    return Header("GIF", content, *first, frames=frames, canvas=canvas)


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _bmp(content: bytes) -> Header:
    (size,) = struct.unpack_from("<I", content, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", content, 18)
    width, height = abs(width), abs(height)
    if packing in (1, 2) and (len(content) > MAX_RLE_BYTES or width * height > MAX_RLE_PIXELS):
        raise HeaderError(f"is a compressed BMP of {width} x {height} pixels; save it as PNG")
    if packing not in (1, 2) and width * height * bits > 8 * len(content):
        raise ValueError(f"{len(content):,} bytes for {width} x {height} pixels of {bits} bits")
    return Header("BMP", content, width, height)


def _webp(content: bytes) -> Header | None:
    kind = content[12:16]
    if content[8:12] != b"WEBP":
        return None
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (sizes,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (sizes & 0x3FFF), 1 + (sizes >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return Header("WEBP", content, width, height, WEBP_EXTRA * width * height)


class _Tag(NamedTuple):
    """A tag of a TIFF: its entry in the file, the struct format of whole numbers, and where its bytes are."""

    entry: bytes
    type: int
    count: int
    place: int


def _tiff(content: bytes) -> Header:
    """Of the first page, with the tags that make its pixels, in a directory of its own at the end of the file."""
    order, is_big = "<" if content[:2] == b"II" else ">", content[2] == 43
    pointer = struct.Struct(order + ("Q" if is_big else "L"))
    (start,) = pointer.unpack_from(content, 8 if is_big else 4)
    tags, follows = _directory(content, start, order, is_big=is_big)
    kept = {tag: found for tag, found in tags.items() if tag in _TIFF_TAGS and _bytes({tag: found}) <= len(content)}
    for block in _BLOCKS:
        if block in kept and not _is_small(content, _number(content, tags, block, order), order, is_big=is_big):
            del kept[block]
    if _bytes(kept) > MAX_TAG_BYTES:
        raise HeaderError(f"has {_bytes(kept):,} bytes of tags, over the limit of {MAX_TAG_BYTES:,}; save it anew")
    parts = max(kept[tag].count if tag in kept else 0 for tag in (_STRIP_PLACES, _TILE_PLACES))
    if parts > MAX_TIFF_PARTS:
        raise HeaderError(f"has {parts:,} strips or tiles, over the limit of {MAX_TIFF_PARTS:,}; save it anew")
    end = -(-len(content) // 8) * 8
    count = struct.pack(order + ("Q" if is_big else "H"), len(kept))
    directory = b"".join([count, *(kept[tag].entry for tag in sorted(kept)), pointer.pack(0)])
    head = content[:8] + pointer.pack(end) if is_big else content[:4] + pointer.pack(end)
    rest = memoryview(content)[len(head) :]
    width, height, extra = _tiff_size(content, kept, order)
    small = b"".join([head, rest, bytes(end - len(content)), directory])
    return Header("TIFF", small, width, height, extra, 1 + bool(follows))


def _directory(content: bytes, start: int, order: str, *, is_big: bool) -> tuple[dict[int, _Tag], int]:
    """The tags of a directory, the first of each number, and the place of the next directory."""
    first, entry = (
        struct.Struct(order + ("Q" if is_big else "H")),
        struct.Struct(order + ("HHQ8s" if is_big else "HHL4s")),
    )
    (count,) = first.unpack_from(content, start)
    if count > 65_535:
        raise ValueError(f"{count:,} tags")
    tags: dict[int, _Tag] = {}
    for place in range(start + first.size, start + first.size + count * entry.size, entry.size):
        tag, kind, values, data = entry.unpack_from(content, place)
        inside = place + entry.size - len(data)
        outside = int.from_bytes(data, "little" if order == "<" else "big")
        is_inside = values * _TIFF_SIZES.get(kind, 1) <= len(data)
        raw = content[place : place + entry.size]
        tags.setdefault(tag, _Tag(raw, kind, values, inside if is_inside else outside))
    after = content[start + first.size + count * entry.size :][: 8 if is_big else 4]
    return tags, int.from_bytes(after, "little" if order == "<" else "big")


def _is_small(content: bytes, start: int, order: str, *, is_big: bool) -> bool:
    try:
        return _bytes(_directory(content, start, order, is_big=is_big)[0]) <= MAX_TEXT
    except (ValueError, struct.error):  # it cannot be read
        return False


def _bytes(tags: Mapping[int, _Tag]) -> int:
    return sum(tag.count * _TIFF_SIZES.get(tag.type, 0) for tag in tags.values())


def _numbers(
    content: bytes, tags: Mapping[int, _Tag], tag: int, order: str, *, default: int, limit: int = 8
) -> tuple[int, ...]:
    """The first values of a tag, at most `limit`."""
    if tag not in tags or tags[tag].type not in _WHOLE or not tags[tag].count:
        return (default,)
    return struct.unpack_from(f"{order}{min(limit, tags[tag].count)}{_WHOLE[tags[tag].type]}", content, tags[tag].place)


def _number(content: bytes, tags: Mapping[int, _Tag], tag: int, order: str, *, default: int = 0) -> int:
    return _numbers(content, tags, tag, order, default=default)[0]


def _tiff_size(content: bytes, tags: Mapping[int, _Tag], order: str) -> tuple[int, int, int]:
    """Width, height, and the bytes of an unpacked strip or tile.

    Raises:
      HeaderError: the strips or tiles unpack to far more than the picture.
    """

    def number(tag: int, default: int = 0) -> int:
        return _number(content, tags, tag, order, default=default)

    width, height = number(_WIDTH), number(_HEIGHT)
    bits = _numbers(content, tags, _BITS, order, default=1)
    samples = number(_SAMPLES, 3 if number(_COMPRESSION) in (6, 7) else 1)
    bits = max(sum(bits), max(bits) * min(8, samples))
    across, down = number(_TILE_WIDTH, width), number(_TILE_HEIGHT, min(height, number(_ROWS) or height))
    if not (width and height and across and down):
        return width, height, 0
    part = across * down * bits // 8
    parts = -(-width // across) * -(-height // down)
    if parts * part > MAX_TIFF_WORK:
        raise HeaderError(
            f"has strips or tiles of {parts * part:,} bytes, over the limit of {MAX_TIFF_WORK:,}; save it anew"
        )
    if number(_COMPRESSION, 1) == _JPEG_PARTS and _has_scans(content, tags, order, pixels=across * down):
        part += 2 * part  # the coefficients of all scans are kept, as in a JPEG
    return width, height, part if number(_COMPRESSION, 1) > 1 else 0


def _has_scans(content: bytes, tags: Mapping[int, _Tag], order: str, *, pixels: int) -> bool:
    """Whether there are strips or tiles of several scans, each of which is decoded over all `pixels` of its part.

    Raises:
      HeaderError: there are too many.
    """
    places, sizes = (_TILE_PLACES, _TILE_SIZES) if _TILE_PLACES in tags else (_STRIP_PLACES, _STRIP_SIZES)
    if content.count(_SCAN_MARKER) > MAX_SEGMENTS + len(content) // 64:
        raise HeaderError("has too many scans of a few bytes; save it anew")
    marks = [found.start() for found in re.finditer(_SCAN_MARKER, content)]
    starts, lengths = (_numbers(content, tags, tag, order, default=0, limit=MAX_TAG_BYTES) for tag in (places, sizes))
    ends = (start + length for start, length in zip_longest(starts, lengths[: len(starts)], fillvalue=len(content)))
    scans = sum(bisect(marks, end) - bisect_left(marks, start) for start, end in zip(starts, ends, strict=True))
    if scans * pixels > MAX_SCANNED:
        raise HeaderError(f"has {scans:,} scans of {pixels:,} pixels; save it anew")
    return scans > len(starts)


def _avif(content: bytes) -> Header:
    """Of an AVIF picture, with AVIF as its first brand, so that Pillow reads the picture and no film beside it."""
    if is_animated(content):
        raise HeaderError("is an animated AVIF; save it as an animated WebP, or one of its frames as a picture")
    width, height = avif_size(content)
    still = content[:8] + b"avif" + content[12:]
    return Header("AVIF", still, width, height, extra=AVIF_EXTRA * width * height)


_READERS: dict[bytes, Callable[[bytes], Header | None]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"RIFF": _webp,
    **dict.fromkeys((b"II*\0", b"II\0*", b"II+\0", b"MM*\0", b"MM\0*", b"MM\0+"), _tiff),
    b"BM": _bmp,
}
