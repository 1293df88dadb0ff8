"""The estimate of a training step, as text and as data for JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from cl2cm_jax.studies.tpu_estimate.chips import Chip, human
from cl2cm_jax.studies.tpu_estimate.cost import Event, collectives, total, unknown_loops
from cl2cm_jax.studies.tpu_estimate.program import Topology
from cl2cm_jax.studies.tpu_estimate.roofline import Seconds, seconds


class Memory(NamedTuple):
    """HBM of one chip in bytes, as the compiler lays the program out."""

    arguments: int  # state, batch and frozen parameters; the new state is written in place
    outputs: int  # results that are not written in place
    temporaries: int  # peak of activations, gradients and other intermediate values
    program: int  # the code

    @property
    def total(self) -> int:
        return sum(self)

    @classmethod
    def of(cls, stats: Any) -> Memory:
        """From `memory_analysis()` of a compiled program."""
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        code = stats.generated_code_size_in_bytes
        return cls(stats.argument_size_in_bytes, outputs, stats.temp_size_in_bytes, code)


class Estimate(NamedTuple):
    """One configuration on one topology."""

    topology: Topology
    chip: Chip
    mesh: dict[str, int]  # devices by axis
    batch: int  # images per step, over all chips
    stage: str  # "student", "teacher" or "joint"
    tokens: int  # caption length
    memory: Memory  # of one chip
    schedule: tuple[Event, ...]  # of one chip and step
    notes: tuple[str, ...]  # where the model sizes come from
    largest: int | None = None  # the largest batch that fits, in images per chip; None if it was not searched

    @property
    def chips(self) -> int:
        return len(self.topology.devices)

    @property
    def time(self) -> Seconds:
        """Of one step."""
        return seconds(self.schedule, self.chip, self.topology.sides)


def numbers(estimate: Estimate) -> dict[str, Any]:
    """The estimate as data; bytes, FLOPs and seconds are of one chip and step."""
    work, time, memory, chip = total(estimate.schedule), estimate.time, estimate.memory, estimate.chip
    return {
        "topology": estimate.topology.name,
        "chips": estimate.chips,
        "mesh": estimate.mesh,
        "batch": estimate.batch,
        "batch_per_chip": estimate.batch / estimate.chips,
        "stage": estimate.stage,
        "tokens": estimate.tokens,
        "models": list(estimate.notes),
        "chip": chip._asdict(),
        "hbm": memory._asdict() | {"total": memory.total, "capacity": chip.hbm, "share": memory.total / chip.hbm},
        "flops": work.flops,
        "flops_in_passes": work.passes,
        "bytes": work.size,
        "loops_of_unknown_length": unknown_loops(estimate.schedule),
        # "compiler": its own estimate of the cycles, which excludes collectives
        "seconds": time._asdict() | {"step": time.step, "compiler": work.cycles / chip.clock if chip.clock else None},
        "bound_by": time.bound,
        "share_of_peak": work.flops / (chip.peak * time.step) if time.step else 0.0,
        "images_per_second": estimate.batch / time.step if time.step else 0.0,
        "collectives": _collectives(estimate),
        "overlapped_share": 1 - time.exposed / time.exchange if time.exchange else None,
        "largest_batch_per_chip": estimate.largest,
    }


def _collectives(estimate: Estimate) -> list[dict[str, Any]]:
    """Number, bytes and seconds of one chip's collectives, by kind and whether they overlap with computation."""
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    for times, one in collectives(estimate.schedule):
        row = rows.setdefault((one.kind, one.overlaps), {"count": 0, "bytes": 0, "seconds": 0.0})
        row["count"] += times
        row["bytes"] += times * one.size
        row["seconds"] += times * estimate.chip.exchange(one, estimate.topology.sides)
    return [{"kind": kind, "overlaps": overlaps} | row for (kind, overlaps), row in sorted(rows.items())]


def text(estimate: Estimate) -> str:
    """The estimate for a reader."""
    data, time, memory, chips = numbers(estimate), estimate.time, estimate.memory, estimate.chips
    mesh = " x ".join(f"{axis} {size}" for axis, size in estimate.mesh.items())
    lines = [
        f"{estimate.topology.name}: {chips} chips, mesh {mesh}, compiled ahead of time; nothing was run",
        f"batch     {estimate.batch:,} images, {data['batch_per_chip']:g} per chip, captions of {estimate.tokens} "
        f"tokens, not packed; {estimate.stage} stage",
        *(f"          {note}" for note in estimate.notes),
        "",
        "per chip and step:",
        f"HBM       {human(memory.total)} of {human(estimate.chip.hbm)} ({data['hbm']['share']:.1%}): arguments "
        f"{human(memory.arguments)}, temporaries {human(memory.temporaries)}, outputs {human(memory.outputs)}, "
        f"program {human(memory.program)}",
        f"products  {data['flops'] / 1e12:.3f} TFLOP, {data['flops_in_passes'] / 1e12:.3f} with float32 passes",
        f"bytes     {data['bytes'] / 1e9:.2f} GB of HBM traffic",
        f"time      {_ms(time.step)} by the roofline, bound by {time.bound}: {_ms(time.products)} products, "
        f"{_ms(time.memory)} HBM, {_ms(time.exposed)} waiting for links",
        f"          {data['share_of_peak']:.1%} of peak, {data['images_per_second']:,.0f} images per second in total",
    ]
    if data["seconds"]["compiler"]:
        lines.append(f"          {_ms(data['seconds']['compiler'])} by the compiler's cycles, without collectives")
    for row in data["collectives"]:
        how = "overlapping" if row["overlaps"] else "blocking"
        size = f"{row['bytes'] / 1e6:.2f} MB"
        lines.append(f"links     {row['count']:>5} {row['kind']:<18} {size:>12} {_ms(row['seconds']):>10} {how}")
    if data["overlapped_share"] is not None:
        lines.append(
            f"          {data['overlapped_share']:.0%} of their {_ms(time.exchange)} overlaps with computation"
        )
    if unknown := data["loops_of_unknown_length"]:
        lines.append(f"          {unknown} loops of unknown trip count were counted once")
    if estimate.largest is not None:
        lines.append(f"largest   {estimate.largest} images per chip, {estimate.largest * chips:,} in total")
    return "\n".join([*lines, f"figures   {estimate.chip.name}: {estimate.chip.source}"])


def _ms(value: float) -> str:
    return f"{1e3 * value:.2f} ms"
