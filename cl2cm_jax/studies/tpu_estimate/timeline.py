"""The time of a schedule on a chip: the roofline of every instruction, and of exchanges what no work hides.

Source: ours; the roofline is Williams, Waterman and Patterson 2009 (doi 10.1145/1498765.1498785).
"""

from __future__ import annotations

from typing import NamedTuple

from cl2cm_jax.studies.tpu_estimate.chips import Chip
from cl2cm_jax.studies.tpu_estimate.cost import Collective, Event


class Seconds(NamedTuple):
    """Of one step.

    Attributes:
      work: every instruction takes the longer of its products and its bytes.
      products, memory: the part of `work` that is bound by the one and by the other.
      exchange: of all collectives, as if nothing else ran.
      exposed: of `exchange`, what no work between start and end hides.
    """

    work: float = 0.0
    products: float = 0.0
    memory: float = 0.0
    exchange: float = 0.0
    exposed: float = 0.0

    @property
    def step(self) -> float:
        return self.work + self.exposed

    @property
    def bound(self) -> str:
        """What takes the largest part of the step."""
        parts = {"products": self.products, "HBM": self.memory, "links": self.exposed}
        return max(parts, key=lambda name: parts[name])


def seconds(schedule: tuple[Event, ...], chip: Chip, sides: tuple[int, ...]) -> Seconds:
    """Times a schedule on a chip of a slice with these sides."""
    done = Seconds()
    running: dict[str, tuple[Collective, float]] = {}  # channel -> (collective, what was worked when it began)
    for event in schedule:
        for channel in event.ends:
            done = _over(done, *running.pop(channel), chip, sides) if channel in running else done
        for one in event.begins:
            if one.overlaps:
                running[one.channel] = one, done.work
            else:
                done = _over(done, one, done.work, chip, sides)
        products, memory = chip.products(event.work), chip.memory(event.work)
        longer = max(products, memory)
        parts = (longer, 0.0) if products >= memory else (0.0, longer)
        inner = seconds(event.body, chip, sides) if event.body and event.times else Seconds()
        own = Seconds(longer, *parts)
        done = Seconds(*(a + b + event.times * c for a, b, c in zip(done, own, inner, strict=True)))
    for one, began in running.values():
        done = _over(done, one, began, chip, sides)
    return done


def _over(done: Seconds, one: Collective, began: float, chip: Chip, sides: tuple[int, ...]) -> Seconds:
    """Ends a collective: work since it began hides it."""
    took = chip.exchange(one, sides)
    hidden = done.work - began
    return done._replace(exchange=done.exchange + took, exposed=done.exposed + max(0.0, took - hidden))
