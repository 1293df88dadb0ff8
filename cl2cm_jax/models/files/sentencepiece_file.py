"""A SentencePiece model of unigrams (spiece.model) as the content of a tokenizer.json.

Source: sentencepiece_model.proto of SentencePiece, of which the few fields that encoding needs are read.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LARGEST, _MOST_PIECES = 50_000_000, 600_000  # bytes; the largest published one has 5,000,000 and 250,000 pieces
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6  # types of pieces
_UNIGRAM = 1


def sentencepiece_content(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json that gives the same pieces, with the last mark of the vocabulary, </s>, behind.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged, or a model of another kind.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    pieces: list[list[Any]] = []
    kinds: list[int] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == 1:
            piece = dict(_fields(_bytes(value)))
            score = struct.unpack("<f", _bytes(piece.get(2, b"\0\0\0\0")))[0]
            pieces.append([_bytes(piece.get(1, b"")).decode("utf-8"), score])
            kinds.append(piece.get(3, _NORMAL))
            if len(pieces) > _MOST_PIECES:
                raise ValueError(f"it has more than {_MOST_PIECES:,} pieces")
        elif field in (2, 3):
            (trainer if field == 2 else normalizer).update(_fields(_bytes(value)))
    if trainer.get(3, _UNIGRAM) != _UNIGRAM or _UNKNOWN not in kinds:
        raise ValueError("it is no SentencePiece model of unigrams")
    texts = [text for text, _ in pieces]
    if "</s>" not in texts:
        raise ValueError("it has no piece </s>, the end of a text")
    return {
        "model": {
            "type": "Unigram",
            "vocab": pieces,
            "unk_id": kinds.index(_UNKNOWN),
            "byte_fallback": _BYTE in kinds and bool(trainer.get(35, 0)),
        },
        "normalizer": _normalizer(normalizer),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [texts.index("</s>")], "tokens": ["</s>"]}},
        },
    }


def _normalizer(fields: dict[int, Any]) -> dict[str, Any] | None:
    parts: list[dict[str, Any]] = []
    if charsmap := _bytes(fields.get(2, b"")):
        parts.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode("ascii")})
    if fields.get(4, 1):  # remove extra spaces
        parts.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        parts.append({"type": "Strip", "strip_left": False, "strip_right": True})
    return {"type": "Sequence", "normalizers": parts} if parts else None


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("it is damaged: a number stands where a text is expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: numbers, and bytes of everything else."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 5, 2):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, place = _varint(data, place)
            if place + size > len(data):
                raise ValueError("it ends too early")
            value, place = data[place : place + size], place + size
        else:
            raise ValueError("it is no protocol buffer")
        yield tag >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("it ends within a number")
