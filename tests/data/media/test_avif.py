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


def test_bytes_after_the_picture_do_not_matter() -> None:
    content = avif((64, 48))
    for after in (b"\0", bytes(100), b"\xff" * 100, b"Text after the picture"):
        assert (decode(content + after) == decode(content)).all()


def test_the_first_brand_may_be_that_of_all_heif_pictures() -> None:
    content = avif((64, 48))
    assert (decode(content[:8] + b"mif1" + content[12:]) == decode(content)).all()
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode((content[:8] + b"heic" + content[12:]).replace(b"avif", b"heix"))


def test_the_first_brand_of_a_picture_with_a_film_is_that_of_the_picture() -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "green")]
    out = io.BytesIO()
    frames[0].save(out, "AVIF", save_all=True, append_images=frames[1:], speed=10)
    film = out.getvalue()
    with pytest.raises(ImageError, match="is an animated AVIF; save it as an animated WebP"):
        decode(film)
    header = read_header(film[:8] + b"mif1" + film[12:])
    assert header is not None and header.content[8:12] == b"avif"
    assert decode(header.content, on_animated="refuse").shape == (48, 64, 3)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


def test_the_layout_of_tiles_may_lie_in_the_description() -> None:
    content = avif((64, 48))
    start = content.index(b"mdat") + 4
    tile = content[start:]
    items = box(b"infe", b"\2\0\0\0\0\1\0\0grid\0") + box(b"infe", b"\2\0\0\0\0\2\0\0av01\0")
    size = box(b"ispe", b"\0\0\0\0" + (64).to_bytes(4) + (48).to_bytes(4))

    def file(place: int) -> bytes:
        grid = b"\0\1\0\1\0\0\0\1" + b"\0\0\0\0\0\0\0\x08"  # in idat, method 1
        data = b"\0\2\0\0\0\0\0\1" + place.to_bytes(4) + len(tile).to_bytes(4)
        parts = box(b"iinf", b"\0\0\0\0\0\2" + items) + box(b"iprp", box(b"ipco", size))
        parts += box(b"iloc", b"\1\0\0\0\x44\0\0\2" + grid + data) + box(b"idat", bytes(8))
        return box(b"ftyp", b"avif\0\0\0\0avif") + box(b"meta", b"\0\0\0\0" + parts) + box(b"mdat", tile)

    whole = file(len(file(0)) - len(tile))
    assert avif_size(whole) == (64, 48)


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
