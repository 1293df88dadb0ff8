"""What a plan says, as numbers and as text."""

from __future__ import annotations

from typing import Any, NamedTuple

from cl2cm_jax.studies.tpu_estimate.chips import Chip, human
from cl2cm_jax.studies.tpu_estimate.cost import Event, collectives, total, unknown_loops
from cl2cm_jax.studies.tpu_estimate.program import Topology
from cl2cm_jax.studies.tpu_estimate.timeline import Seconds, seconds


class Memory(NamedTuple):
    """Bytes of a chip's HBM, as the compiler lays the step out.

    Attributes:
      arguments: state, batch and what is frozen; the new state lies in the place of the old one.
      outputs: what has no such place.
      temporaries: activations, gradients and the like, at the worst moment.
      program: the code.
    """

    arguments: int
    outputs: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)

    @classmethod
    def of(cls, stats: Any) -> Memory:
        """Reads what `memory_analysis()` of a compiled program says."""
        outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
        code = stats.generated_code_size_in_bytes
        return cls(stats.argument_size_in_bytes, outputs, stats.temp_size_in_bytes, code)


class Plan(NamedTuple):
    """One configuration on one topology.

    Attributes:
      topology, chip: what it was compiled for.
      mesh: devices by axis.
      batch: images of a step, over all chips.
      stage: "student", "teacher" or "joint".
      tokens: places of a caption.
      memory: of a chip.
      schedule: what a chip does in a step.
      notes: where sizes come from.
      largest: most images a chip that fit; None: not asked for.
    """

    topology: Topology
    chip: Chip
    mesh: dict[str, int]
    batch: int
    stage: str
    tokens: int
    memory: Memory
    schedule: tuple[Event, ...]
    notes: tuple[str, ...]
    largest: int | None = None

    @property
    def chips(self) -> int:
        return len(self.topology.devices)

    @property
    def time(self) -> Seconds:
        """Of one step."""
        return seconds(self.schedule, self.chip, self.topology.sides)


def numbers(plan: Plan) -> dict[str, Any]:
    """The plan as what JSON can hold; bytes, FLOPs and seconds, of a chip and a step where nothing else is said."""
    work, time, memory = total(plan.schedule), plan.time, plan.memory
    whole = plan.chip.peak * time.step
    return {
        "topology": plan.topology.name,
        "chips": plan.chips,
        "mesh": plan.mesh,
        "batch": plan.batch,
        "batch_per_chip": plan.batch / plan.chips,
        "stage": plan.stage,
        "tokens": plan.tokens,
        "models": list(plan.notes),
        "chip": plan.chip._asdict(),
        "hbm": memory._asdict() | {"total": memory.total, "capacity": plan.chip.hbm, "share": _share(plan)},
        "flops": work.flops,
        "flops_in_passes": work.passes,
        "bytes": work.size,
        "loops_of_unknown_length": unknown_loops(plan.schedule),
        "seconds": time._asdict() | {"step": time.step, "compiler": _compiler(plan)},
        "bound_by": time.bound,
        "share_of_peak": work.flops / whole if whole else 0.0,
        "images_per_second": plan.batch / time.step if time.step else 0.0,
        "collectives": _exchanges(plan),
        "overlapped_share": 1 - time.exposed / time.exchange if time.exchange else None,
        "largest_batch_per_chip": plan.largest,
    }


def _share(plan: Plan) -> float:
    return plan.memory.total / plan.chip.hbm


def _compiler(plan: Plan) -> float | None:
    """Seconds by the compiler's own estimate of the cycles of its instructions; it gives none for exchanges."""
    return total(plan.schedule).cycles / plan.chip.clock if plan.chip.clock else None


def _exchanges(plan: Plan) -> list[dict[str, Any]]:
    """By kind and whether they may overlap: number, bytes of a chip, seconds at the links' speed."""
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    for times, one in collectives(plan.schedule):
        row = rows.setdefault((one.kind, one.overlaps), {"count": 0, "bytes": 0, "seconds": 0.0})
        row["count"] += times
        row["bytes"] += times * one.size
        row["seconds"] += times * plan.chip.exchange(one, plan.topology.sides)
    return [{"kind": kind, "overlaps": overlaps} | row for (kind, overlaps), row in sorted(rows.items())]


def text(plan: Plan) -> str:
    """The plan for a reader."""
    found = numbers(plan)
    time, memory = plan.time, plan.memory
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"{plan.topology.name}: {plan.chips} chips, mesh {mesh}, compiled ahead of time; nothing was run",
        f"batch     {plan.batch:,} images, {found['batch_per_chip']:g} a chip, captions of {plan.tokens} tokens, "
        f"none sharing a row; {plan.stage} stage",
        *(f"          {note}" for note in plan.notes),
        "",
        "of one chip and one step:",
        f"HBM       {human(memory.total)} of {human(plan.chip.hbm)} ({found['hbm']['share']:.1%}): arguments "
        f"{human(memory.arguments)}, temporaries {human(memory.temporaries)}, outputs {human(memory.outputs)}, "
        f"program {human(memory.program)}",
        f"products  {found['flops'] / 1e12:.3f} TFLOP, {found['flops_in_passes'] / 1e12:.3f} with float32's passes",
        f"bytes     {found['bytes'] / 1e9:.2f} GB of HBM",
        f"time      {_ms(time.step)} by the roofline, bound by {time.bound}: {_ms(time.products)} products, "
        f"{_ms(time.memory)} HBM, {_ms(time.exposed)} waiting for links",
        f"          {found['share_of_peak']:.1%} of peak, {found['images_per_second']:,.0f} images a second in all",
    ]
    if found["seconds"]["compiler"]:
        lines.append(f"          {_ms(found['seconds']['compiler'])} by the compiler's own cycles, exchanges left out")
    for row in found["collectives"]:
        how = "overlapping" if row["overlaps"] else "waited for"
        size = f"{row['bytes'] / 1e6:.2f} MB"
        lines.append(f"links     {row['count']:>5} {row['kind']:<18} {size:>12} {_ms(row['seconds']):>10} {how}")
    if found["overlapped_share"] is not None:
        lines.append(f"          {found['overlapped_share']:.0%} of their {_ms(time.exchange)} behind other work")
    if found["loops_of_unknown_length"]:
        lines.append(f"          {found['loops_of_unknown_length']} loops of unknown length were counted once")
    if plan.largest is not None:
        lines.append(f"largest   {plan.largest} images a chip, {plan.largest * plan.chips:,} in all")
    lines.append(f"figures   {plan.chip.name}: {plan.chip.source}")
    return "\n".join(lines)


def _ms(value: float) -> str:
    return f"{1e3 * value:.2f} ms"
