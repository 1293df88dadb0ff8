"""The size of an AVIF picture: as its container states it, and as the AV1 data state it, which may be more.

The container is of boxes, each with its size and kind (ISO/IEC 14496-12 and 23008-12); the data are of units, OBU, of
which sequence headers state the largest frame (AV1 specification, 5.5).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator

MAX_BOXES = 10_000  # and items, extents and units
_SEQUENCE_HEADER = 1
_BRANDS = 256  # bytes, of which the brands of a file are read


def is_avif(content: bytes) -> bool:
    """Whether a file names AVIF among its brands; the first may be that of all HEIF pictures, mif1."""
    length = min(int.from_bytes(content[:4]), _BRANDS)
    return content[4:8] == b"ftyp" and b"avif" in (content[at : at + 4] for at in (8, *range(16, length, 4)))


def is_animated(content: bytes) -> bool:
    """Whether the first brand of a file is that of sequences of AVIF pictures."""
    return content[4:12] == b"ftypavis"


def avif_size(content: bytes) -> tuple[int, int]:
    """The largest width and height that are stated.

    Raises:
      ValueError, struct.error, IndexError: the file is damaged, has no size, or keeps pictures in an unusual way.
    """
    sizes = [_two(content, begin + 4) for begin, _ in _boxes(content, (b"meta", b"iprp", b"ipco", b"ispe"))]
    units = [size for begin, length in _coded(content) for size in _sequence_sizes(content[begin : begin + length])]
    if not sizes or not units:
        raise ValueError("it states no size")
    widths, heights = zip(*sizes, *units, strict=True)
    return max(widths), max(heights)


def _two(content: bytes, place: int) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", content, place)
    return width, height


def _boxes(
    content: bytes, path: tuple[bytes, ...], place: int = 0, end: int | None = None
) -> Iterator[tuple[int, int]]:
    """Where the contents of the boxes with that path of kinds begin and end."""
    is_file, end = end is None, len(content) if end is None else end
    for _ in range(MAX_BOXES):
        if place + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", content, place)
        begin = place + 8
        if size == 1:
            size, begin = struct.unpack_from(">Q", content, begin)[0], place + 16
        after = end if size == 0 else place + size
        if not begin <= after <= end:
            if is_file:  # bytes after the picture
                return
            raise ValueError("a box does not fit into the file")
        if kind == path[0] and len(path) == 1:
            yield begin, after
        elif kind == path[0]:
            yield from _boxes(content, path[1:], begin + 4 * (kind == b"meta"), after)
        place = after
    raise ValueError("it has too many boxes")


def _coded(content: bytes) -> list[tuple[int, int]]:
    """Begin and length of the AV1 data of all pictures of the file: the whole one, alpha, tiles."""
    pictures = set()
    for begin, end in _boxes(content, (b"meta", b"iinf")):
        start = begin + 4 + (2 if content[begin] == 0 else 4)
        for entry, _ in _boxes(content, (b"infe",), start, end):
            number, place = (">H", entry + 6) if content[entry] == 2 else (">I", entry + 8)
            if content[place + 2 : place + 6] == b"av01":
                pictures.add(struct.unpack_from(number, content, entry + 4)[0])
    return [
        extent
        for begin, _ in _boxes(content, (b"meta", b"iloc"))
        for extent in _extents(_Reader(content, begin), pictures)
    ]


class _Reader:
    """Reads numbers of bytes, one after the other."""

    def __init__(self, content: bytes, place: int):
        self._content, self._place = content, place

    def __call__(self, size: int) -> int:
        part = self._content[self._place : self._place + size]
        if len(part) < size:
            raise ValueError("it ends within a box")
        self._place += size
        return int.from_bytes(part)


def _extents(read: _Reader, items: Container[int]) -> Iterator[tuple[int, int]]:
    """Begin and length of the data of some items of an iloc box."""
    version = read(1)
    read(3)
    sizes = read(1), read(1)
    offset_size, length_size, base_size = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4
    index_size = sizes[1] & 15 if version in (1, 2) else 0
    count = read(2 if version < 2 else 4)
    for _ in range(min(count, MAX_BOXES)):
        item = read(2 if version < 2 else 4)
        method = read(2) & 15 if version in (1, 2) else 0
        read(2)
        base, extents = read(base_size), read(2)
        if item not in items:  # the layout of tiles, for one, which may lie elsewhere
            read(extents * (index_size + offset_size + length_size))
            continue
        if method or extents != 1:
            raise ValueError("its data are in several parts, or not in the file as usual")
        read(index_size)
        yield base + read(offset_size), read(length_size)


def _sequence_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """The sizes that the sequence headers of AV1 data state."""
    place = 0
    for _ in range(MAX_BOXES):
        if place >= len(data):
            return
        header, place = data[place], place + 1 + (data[place] >> 2 & 1)
        size = len(data) - place
        if header & 2:  # its size follows, 7 bits a byte
            size = shift = 0
            while True:
                byte, place = data[place], place + 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift > 56:
                    break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield _sequence_size(data[place : place + size])
        place += size
    raise ValueError("it has too many units")


def _sequence_size(unit: bytes) -> tuple[int, int]:
    bits, left = int.from_bytes(unit[:64]), 8 * len(unit[:64])

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("its sequence header is cut short")
        return bits >> left & (1 << count) - 1

    take(4)  # profile, still picture
    if take(1):  # the short form
        take(5)
    else:
        if take(1):
            raise ValueError("it has the timing of a film")
        has_delay = take(1)
        for _ in range(take(5) + 1):
            take(12)
            take(take(5) > 7)
            take(4 * take(1) if has_delay else 0)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
