"""The epoch and the batch within it of a training step."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """Completed epochs, and batches of the current one."""

    epoch: int
    offset: int


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches in an epoch; images that do not fill the last one are dropped."""
    return images // batch_size


def position(step: int, *, images: int, batch_size: int) -> Position:
    """The position of batch number `step`, counted from 0.

    Raises:
      ValueError: the step is negative, or an epoch has no batch.
    """
    per_epoch = steps_per_epoch(images, batch_size)
    if step < 0 or per_epoch < 1:
        raise ValueError(f"step={step} must not be negative and images={images} must fill batch_size={batch_size}")
    return Position(*divmod(step, per_epoch))
