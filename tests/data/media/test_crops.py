"""Random crops of training pictures."""

from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.data.media.crops import Crops, box, cropped
from cl2cm_jax.data.media.images import scaled

CROPS = Crops(size=16, shorter_side=16, filter="bicubic", minimum=0.5, flip=False)
CHANCES = np.random.default_rng(0).random((200, 5))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (30, 30), (50, 41)])
@pytest.mark.parametrize("minimum", [0.05, 0.5, 0.9])
def test_a_box_keeps_its_share_and_its_ratio(width: int, height: int, minimum: float) -> None:
    shares = []
    for chance in CHANCES:
        left, top, right, bottom = box(width, height, minimum=minimum, chance=chance)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert 3 / 4 - 1e-6 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-6
        shares.append((right - left) * (bottom - top) / (width * height))
    assert minimum - 1e-6 <= min(shares) < minimum + 0.05 and 0.95 < max(shares) <= 1 + 1e-6


@pytest.mark.parametrize(("width", "height", "size"), [(90, 30, (40, 30)), (30, 90, (30, 40)), (1, 500, (1, 4 / 3))])
def test_of_a_long_picture_the_largest_box_is_kept(width: int, height: int, size: tuple[float, float]) -> None:
    for chance in CHANCES:
        left, top, right, bottom = box(width, height, minimum=0.8, chance=chance)
        assert (right - left, bottom - top) == pytest.approx(size)
        assert left >= 0 and top >= 0 and right <= width and bottom <= height


def test_a_crop_shows_its_box() -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (48, 60, 3))
    for chance in CHANCES[:20]:
        part = box(60, 48, minimum=0.5, chance=chance)
        row = cropped(ramp, CROPS, chance=chance)[8, :, 0].astype(float)
        steps = part.left + (np.arange(16) + 0.5) * (part.right - part.left) / 16
        np.testing.assert_allclose(row[1:-1], 4 * (steps[1:-1] - 0.5), atol=2)


def test_half_of_the_pictures_are_flipped() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    flipped = 0
    for chance in CHANCES:
        plain = cropped(picture, CROPS, chance=chance)
        other = cropped(picture, CROPS._replace(flip=True), chance=chance)
        mirrored = np.array_equal(other, plain[:, ::-1])
        assert mirrored or np.array_equal(other, plain)
        flipped += mirrored
    assert 70 < flipped < 130


def test_without_a_crop_it_is_the_backbones_own_way() -> None:
    picture = np.random.default_rng(1).integers(0, 255, (20, 31, 3), dtype=np.uint8)
    ours = cropped(picture, CROPS._replace(minimum=1.0), chance=CHANCES[0])
    np.testing.assert_array_equal(ours, scaled(picture, 16, shorter_side=16, filter="bicubic"))
