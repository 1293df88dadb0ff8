"""Published figures of TPU chips, and the time that work and collectives take at those rates."""

from __future__ import annotations

import math
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.studies.tpu_estimate.cost import Collective

GIB = 1024**3
HOP = 1e-6  # seconds from a chip to its neighbour; about one microsecond (jax-ml.github.io/scaling-book)


class Chip(NamedTuple):
    """One TPU chip."""

    name: str  # e.g. "v5e"
    peak: float  # bfloat16 FLOPs per second
    hbm: int  # bytes that a program may use, as the compiler reports when it runs out; less than the nominal size
    bandwidth: float  # HBM bytes per second
    links: int  # number of links to neighbours: 4 in a 2D torus, 6 in a 3D torus
    link: float  # bytes per second and direction of one link
    clock: float  # cycles per second of the matrix units, from the peak and their number; 0 if unknown
    wraps: int  # number of chips along a side from which it closes to a ring
    source: str  # of the figures

    def exchange(self, one: Collective, sides: tuple[int, ...]) -> float:
        """Seconds of a collective at link speed, in a slice with these sides.

        Each chip receives its data over two links: those of one ring, or those at the corner of a mesh. Latency is that
        of the hops along the sides. An all-to-all loads the links by the average distance.
        """
        n, two = one.group, 2 * self.link
        if n < 2:
            return 0.0
        if one.kind == "collective-permute":
            return one.size / self.link + HOP
        latency = HOP * min(n - 1, sum(side // 2 if self._is_ring(side) else side - 1 for side in sides))
        if one.kind == "all-to-all":
            distance = sum(side / (4 if self._is_ring(side) else 3) for side in sides if side > 1)
            return one.size * max(1.0, min(distance, n / 4)) / (self.links * self.link) + latency
        rounds = 2 if one.kind == "all-reduce" else 1
        return rounds * ((n - 1) / n * one.size / two + latency)

    def _is_ring(self, side: int) -> bool:
        return side >= self.wraps and side % self.wraps == 0


def _source(page: str) -> str:
    return f"https://docs.cloud.google.com/tpu/docs/{page}, read 2026-11-25"


# Links: bidirectional bandwidth of a chip / its ports / 2 directions. A v5e or v6e slice is a torus along sides of 16;
# a v5p slice along every multiple of 4.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, int(15.75 * GIB), 819e9, 4, 400e9 / 4 / 2, 1.5e9, 16, _source("v5e")),
        Chip("v5p", 459e12, int(95.73 * GIB), 2765e9, 6, 1200e9 / 6 / 2, 1.75e9, 4, _source("v5p")),
        Chip("v6e", 918e12, int(31.24 * GIB), 1638e9, 4, 800e9 / 4 / 2, 0.0, 16, _source("v6e")),
    )
}


def chip(generation: str) -> Chip:
    """The chip of a topology's name.

    Raises:
      UserError: it is not in the table.
    """
    if generation not in CHIPS:
        raise UserError(f"--topology={generation}:...: no figures for this chip; use one of {', '.join(CHIPS)}")
    return CHIPS[generation]


def human(size: float) -> str:
    """Bytes in GiB, or in MiB below 0.1 GiB."""
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{math.ceil(size / 1024**2)} MiB"
