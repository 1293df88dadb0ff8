"""The device mesh ("data", "fsdp", "tensor") and the checks of the numbers that must fit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from cl2cm_jax.errors import UserError

AXES: tuple[str, ...] = ("data", "fsdp", "tensor")
BATCH_AXES: tuple[str, ...] = ("data", "fsdp")  # a batch is split over both; "tensor" devices see the same rows


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Arranges the devices as a mesh with axes "data", "fsdp" and "tensor".

    Args:
        data: devices that split the batch and hold copies of the parameters.
        fsdp: devices that split the batch and the parameters.
        tensor: devices that split matrix products.
        devices: the `jax.Device`s to arrange; all devices of all processes if None.

    At most one of the three sizes may be -1, the rest.

    Returns:
        A mesh with Auto axis types (the compiler propagates shardings from the inputs).

    Raises:
        UserError: the product of the sizes is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    for axis, size in sizes.items():
        if size != -1 and size < 1:
            raise UserError(f"config.mesh.{axis}={size} is not a number of devices; use 1 or more, or -1 for the rest")
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(
            f"config.mesh.{free[0]}=-1 and config.mesh.{free[1]}=-1: only one axis can take the rest", id="mesh"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if math.prod(sizes.values()) != len(devices):
        given, count = " x ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items()), len(devices)
        if free:
            raise UserError(
                f"{given}: {fixed} does not divide the {count} devices; use sizes whose product divides {count}",
                id="mesh",
            )
        raise UserError(
            f"{given} needs {fixed} devices but there are {count}; set config.mesh.data=-1 to use all", id="mesh"
        )
    return jax.make_mesh(tuple(sizes.values()), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def batch_shards(mesh: Mesh) -> int:
    """Number of pieces that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch_size(batch_size: int, mesh: Mesh, *, accumulation: int = 1) -> None:
    """Raises UserError if `batch_size` is not a positive multiple of `accumulation` x the devices of the batch axes."""
    shards = batch_shards(mesh)
    unit = shards * accumulation
    if batch_size > 0 and batch_size % unit == 0:
        return
    below = batch_size // unit * unit
    nearest = f"{below} or {below + unit}" if below > 0 else f"{unit}"
    axes = " x ".join(f'"{axis}"' for axis in BATCH_AXES)
    parts = f" x config.train.accumulation={accumulation}" if accumulation > 1 else ""
    raise UserError(
        f"config.train.batch_size={batch_size} is not divisible by the {shards} devices of mesh axes {axes}{parts}; "
        f"use {nearest}",
        id="batch-not-divisible",
    )
