"""Roofline time of a schedule on a chip, and the collective time that no computation hides.

Source: Williams, Waterman and Patterson 2009 (doi 10.1145/1498765.1498785).
"""

from __future__ import annotations

from typing import NamedTuple

from cl2cm_jax.studies.tpu_estimate.chips import Chip
from cl2cm_jax.studies.tpu_estimate.cost import Event


class Seconds(NamedTuple):
    """Time of one step."""

    work: float = 0.0  # sum over instructions of the longer of FLOPs at peak and bytes at the HBM bandwidth
    products: float = 0.0  # the part of `work` that is bound by FLOPs
    memory: float = 0.0  # the part of `work` that is bound by HBM bandwidth
    exchange: float = 0.0  # of all collectives, run alone
    exposed: float = 0.0  # the part of `exchange` that does not overlap with work

    @property
    def step(self) -> float:
        return self.work + self.exposed

    @property
    def bound(self) -> str:
        """What takes the largest part of the step."""
        parts = {"products": self.products, "HBM": self.memory, "links": self.exposed}
        return max(parts, key=lambda name: parts[name])

    def after(self, exchange: float, began: float) -> Seconds:
        """With a collective of `exchange` seconds, hidden by the work done since `work` was `began`."""
        exposed = max(0.0, exchange - (self.work - began))
        return self._replace(exchange=self.exchange + exchange, exposed=self.exposed + exposed)


def seconds(schedule: tuple[Event, ...], chip: Chip, sides: tuple[int, ...]) -> Seconds:
    """Times a schedule on a chip of a slice with these sides."""
    done = Seconds()
    in_flight: dict[str, tuple[float, float]] = {}  # channel -> (seconds of the collective, `done.work` at its start)
    for event in schedule:
        for channel in event.ends:
            done = done.after(*in_flight.pop(channel)) if channel in in_flight else done
        for one in event.begins:
            taken = chip.exchange(one, sides), done.work
            if one.overlaps:
                in_flight[one.channel] = taken
            else:
                done = done.after(*taken)
        products, memory = event.work.passes / chip.peak, event.work.size / chip.bandwidth
        own = Seconds(products, products, 0.0) if products >= memory else Seconds(memory, 0.0, memory)
        inner = seconds(event.body, chip, sides) if event.body and event.times else Seconds()
        done = Seconds(*(a + b + event.times * c for a, b, c in zip(done, own, inner, strict=True)))
    for taken in in_flight.values():
        done = done.after(*taken)
    return done
