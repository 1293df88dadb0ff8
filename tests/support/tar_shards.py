"""Tar shards as img2dataset writes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def picture(red: int, *, format: str = "JPEG") -> bytes:
    content = io.BytesIO()
    size = (8, 6 + red // 8) if format == "JPEG" else (8, 6)  # near colours are one in JPEG
    Image.new("RGB", size, (red % 8 * 30, 0, 0)).save(content, format=format)
    return content.getvalue()


def files_of(number: int, **further: Any) -> dict[str, bytes]:
    """The three files of a sample: .jpg, .txt and a .json with what img2dataset says of it, and `further` fields."""
    key, caption = f"{number:09}", f"dog {number}"
    told = {
        "url": f"http://example.org/{number}.jpg",
        "caption": caption,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 8,
        "height": 6,
        "original_width": 8,
        "original_height": 6,
        "exif": "{}",
        "sha256": "0" * 64,
    }
    described = json.dumps(told | further, indent=4).encode()
    return {f"{key}.jpg": picture(number), f"{key}.txt": caption.encode(), f"{key}.json": described}


def write_shard(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """A tar of files by their names; a TarInfo is written as it is, without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def pax_header(content: bytes) -> bytes:
    """An extended header of any content, padded to whole blocks."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def write_shards(folder: Path, count: int = 10, *, each: int = 5, **further: Any) -> Path:
    """`count` samples with captions in English (.txt), German and French (.json), in shards of `each`."""
    for shard, start in enumerate(range(0, count, each)):
        files: dict[str, bytes] = {}
        for number in range(start, min(start + each, count)):
            captions = {"de": f"Hund {number}", "fr": [f"chien {number}", f"un chien {number}"]}
            files |= files_of(number, captions=captions, **further)
        write_shard(folder / f"{shard:05}.tar", files)
    return folder
