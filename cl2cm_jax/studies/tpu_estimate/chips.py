"""What the chips can do, as their maker publishes it, and the time that work and exchanges take at that rate."""

from __future__ import annotations

import math
from typing import NamedTuple

from cl2cm_jax.errors import UserError
from cl2cm_jax.studies.tpu_estimate.cost import Collective, Work

GIB = 1024**3
HOP = 1e-6  # seconds from a chip to its neighbour; rule of thumb, about one microsecond (jax-ml.github.io/scaling-book)


class Chip(NamedTuple):
    """One TPU chip.

    Attributes:
      name: e.g. "v5e".
      peak: bfloat16 FLOPs a second.
      hbm: bytes that a program may use, as the compiler says when it runs out of them; less than what is sold.
      bandwidth: bytes a second between the chip and its HBM.
      links: to neighbours; 4 in a 2D torus, 6 in a 3D one.
      link: bytes a second and direction of one of them.
      clock: cycles a second of the matrix units, from the peak and their number; 0: not known.
      wraps: chips along a side that close to a ring, in the slices that are offered.
      source: of the figures.
    """

    name: str
    peak: float
    hbm: int
    bandwidth: float
    links: int
    link: float
    clock: float
    wraps: int
    source: str

    def products(self, work: Work) -> float:
        """Seconds of the matrix units at their peak."""
        return work.passes / self.peak

    def memory(self, work: Work) -> float:
        """Seconds of the HBM at its bandwidth."""
        return work.size / self.bandwidth

    def exchange(self, one: Collective, sides: tuple[int, ...]) -> float:
        """Seconds of a collective at the links' speed, in a slice of these sides.

        What every chip must get comes over two links: those of one ring, or those of a mesh's corner. The first byte
        takes its way along the sides. An all-to-all loads the links by the average distance.
        """
        n, two = one.group, 2 * self.link
        if n < 2:
            return 0.0
        rounds = {"all-reduce": 2}.get(one.kind, 1)
        if one.kind == "collective-permute":
            return one.size / self.link + HOP
        way = min(n - 1, sum(self._farthest(side) for side in sides))
        if one.kind == "all-to-all":
            distance = sum(side / (4 if self._is_ring(side) else 3) for side in sides if side > 1)
            return one.size * max(1.0, min(distance, n / 4)) / (self.links * self.link) + way * HOP
        return rounds * ((n - 1) / n * one.size / two + way * HOP)

    def _is_ring(self, side: int) -> bool:
        return side >= self.wraps and side % self.wraps == 0

    def _farthest(self, side: int) -> int:
        return side // 2 if self._is_ring(side) else side - 1


def _of(page: str) -> str:
    return f"https://docs.cloud.google.com/tpu/docs/{page}, read 2026-11-25"


# Links: bidirectional bandwidth of a chip / its ports / 2 directions. A v5e or v6e slice is a torus along sides of 16;
# of v5p along every multiple of 4.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, int(15.75 * GIB), 819e9, 4, 400e9 / 4 / 2, 1.5e9, 16, _of("v5e")),
        Chip("v5p", 459e12, int(95.73 * GIB), 2765e9, 6, 1200e9 / 6 / 2, 1.75e9, 4, _of("v5p")),
        Chip("v6e", 918e12, int(31.24 * GIB), 1638e9, 4, 800e9 / 4 / 2, 0.0, 16, _of("v6e")),
    )
}


def chip(generation: str) -> Chip:
    """The chip of a topology's name.

    Raises:
      UserError: its figures are not in the table.
    """
    if generation not in CHIPS:
        raise UserError(f"--topology={generation}:...: no figures of this chip; one of {', '.join(CHIPS)}")
    return CHIPS[generation]


def human(size: float) -> str:
    """Bytes as GiB, or MiB where they are few."""
    return f"{size / GIB:.2f} GiB" if size >= 0.1 * GIB else f"{math.ceil(size / 1024**2)} MiB"
