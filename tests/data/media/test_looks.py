"""Which pictures that were decoded at different sizes are worth decoding whole."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.data.captions import Caption, CaptionTable
from cl2cm_jax.data.media.images import decode, decode_file
from cl2cm_jax.data.media.looks import Look, look_of, maybe_equal
from cl2cm_jax.data.readers.usable_images import from_folder


def blocks(seed: int, width: int, height: int, *, side: int = 13) -> Image.Image:
    """Squares of random colours, with hard edges."""
    shape = (height // side + 1, width // side + 1, 3)
    colours = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.fromarray(colours.repeat(side, 0).repeat(side, 1)[:height, :width])


def jpeg(image: Image.Image, *, quality: int = 75, orientation: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "JPEG", quality=quality, exif=exif)
    return file.getvalue()


def png_of(content: bytes) -> bytes:
    """The pixels of a picture as a PNG."""
    file = io.BytesIO()
    Image.fromarray(decode(content)).save(file, "PNG")
    return file.getvalue()


def look(content: bytes) -> Look:
    return look_of(decode_file(content, enough=1), str(len(content)))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [(64, 64), (65, 71), (100, 64), (127, 200), (501, 333), (64, 900)])
def test_a_jpeg_and_its_png_look_alike(size: tuple[int, int], orientation: int) -> None:
    for quality in (5, 75, 95):
        photograph = jpeg(blocks(orientation, *size), quality=quality, orientation=orientation)
        looks = {"jpeg": look(photograph), "png": look(png_of(photograph))}
        assert [one.scale for one in looks.values()] == [8, 1]
        assert maybe_equal(looks) == {"jpeg", "png"}


def test_other_pictures_and_other_sizes_do_not_look_alike() -> None:
    contents = [jpeg(blocks(seed, 640, 480, side=60)) for seed in range(20)]
    looks = {f"{seed}.jpg": look(content) for seed, content in enumerate(contents)}
    looks |= {f"{seed}.png": look(png_of(jpeg(blocks(seed, 640, 480, side=60)))) for seed in range(15, 30)}
    looks |= {"other size": look(png_of(jpeg(blocks(3, 641, 480, side=60)))), "clip": Look("1"), "film": Look("2")}
    assert maybe_equal(looks) == {f"{seed}.{ending}" for seed in range(15, 20) for ending in ("jpg", "png")}


def test_of_one_scale_the_hashes_say_whether_pictures_are_equal() -> None:
    content = jpeg(blocks(0, 640, 480))
    assert maybe_equal({"one": look(content), "other": look(content)}) == set()


def test_only_pictures_that_look_alike_and_were_made_smaller_are_decoded_twice(tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(blocks(seed, 640, 480, side=60)))
    (tmp_path / "twin.png").write_bytes(png_of((tmp_path / "2.jpg").read_bytes()))
    decoded: list[Any] = []

    def mapper(function: Callable[[Any], Any], items: Iterable[Any], earlier: object = None) -> Iterator[Any]:
        decoded.append(items := list(items))
        return map(function, items)

    names = sorted(path.name for path in tmp_path.iterdir())
    table = CaptionTable([Caption(name, "en", name, line=line) for line, name in enumerate(names, 2)])
    found = from_folder(table, "c.csv", str(tmp_path), frames=1, mapper=mapper)
    assert decoded == [names, ["2.jpg"]]
    assert {row.image for row in found.rows} == {f"{seed}.jpg" for seed in range(4)}
