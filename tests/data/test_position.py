"""Step to epoch and offset."""

from __future__ import annotations

import pytest

from cl2cm_jax.data.position import position, steps_per_epoch


def test_position() -> None:
    assert steps_per_epoch(10, 3) == 3
    found = [position(step, images=10, batch_size=3) for step in (0, 2, 3, 7)]
    assert found == [(0, 0), (0, 2), (1, 0), (2, 1)]


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="step=-1"):
        position(-1, images=10, batch_size=3)
    with pytest.raises(ValueError, match="fill batch_size=11"):
        position(0, images=10, batch_size=11)
