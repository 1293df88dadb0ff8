from __future__ import annotations

import io

import pytest
from PIL import Image, features

from cl2cm_jax.data.media.avif import avif_size
from cl2cm_jax.data.media.headers import read_header
from cl2cm_jax.data.media.images import ImageError, decode

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")


def avif(size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, "blue" if mode == "RGB" else None).save(out, "AVIF", speed=10, **options)
    return out.getvalue()


def stating(content: bytes, width: int, height: int) -> bytes:
    """With another size in the container."""
    place = content.index(b"ispe") + 8
    return content[:place] + width.to_bytes(4) + height.to_bytes(4) + content[place + 8 :]


@pytest.mark.parametrize(
    ("size", "mode", "options"),
    [
        ((64, 48), "RGB", {}),
        ((101, 33), "RGBA", {}),
        ((1, 1), "L", {}),
        ((640, 481), "RGB", {"subsampling": "4:4:4", "quality": 100}),
        ((300, 200), "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
    ],
)
def test_sizes(size, mode, options) -> None:
    content = avif(size, mode, **options)
    header = read_header(content)
    assert (
        header is not None and header.format == "AVIF" and (header.width, header.height) == avif_size(content) == size
    )
    assert decode(content).shape == (size[1], size[0], 3)


def test_the_size_of_the_container_is_limited() -> None:
    with pytest.raises(ImageError, match="3,600,000,000 pixels"):
        decode(stating(avif((64, 48)), 60_000, 60_000))


def test_the_size_of_the_data_counts_where_the_container_states_less() -> None:
    content = stating(avif((6400, 6400)), 64, 48)
    assert len(content) < 2000 and avif_size(content) == (6400, 6400)
    with pytest.raises(ImageError, match="6400 x 6400 pixels|two sizes"):
        decode(content)


def test_truncated_and_damaged_files() -> None:
    content = avif((64, 48))
    for end in range(0, len(content), 5):
        with pytest.raises(ImageError):
            decode(content[:end])
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            assert decode(bytes(damaged)).shape[2] == 3
        except ImageError:
            pass
