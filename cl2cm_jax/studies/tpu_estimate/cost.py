"""Cost of a compiled program: FLOPs, HBM traffic and collectives, each multiplied by the trip counts of its loops.

FLOPs are those of dots and convolutions, a multiply-add being two; a TPU's compiler writes both as convolutions, which
are counted by XLA's definition. HBM traffic is what each scheduled instruction reads from and writes to HBM: a fusion
reads its arguments once, and only the part that it uses of those that it slices or updates in place.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from cl2cm_jax.studies.tpu_estimate.hlo import Array, Instruction, Module, trip_count

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# bfloat16 passes of the matrix unit for a float32 product of this precision. Source: jax.lax.Precision.
_PASSES = {"default": 1, "high": 3, "highest": 6}
_NO_TRAFFIC = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id opt-barrier add-dependency "
    "domain while conditional call copy-done slice-done async-start async-done async-update custom-call-done".split()
)
_VIEWS = ("bitcast", "reshape")
_SLICES = ("dynamic-slice", "slice", "gather")
_COUNTED_ELSEWHERE = ("tuple", "custom-call", *KINDS)  # results, marks of the compiler, collectives


class Work(NamedTuple):
    """Work of an instruction or a program."""

    flops: int = 0  # of dots and convolutions
    passes: int = 0  # `flops` times the passes that the matrix unit makes for a product of high precision
    size: int = 0  # bytes read from and written to HBM
    cycles: int = 0  # the compiler's own estimate, 0 if it gives none

    def plus(self, other: Work, times: int = 1) -> Work:
        """The sum with `times` the other's work."""
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


class Collective(NamedTuple):
    """One collective operation."""

    kind: str  # one of `KINDS`
    size: int  # bytes of a device: the result of an all-gather, the operands of the others
    group: int  # number of participating devices
    channel: str  # identifies it between its start and its end
    overlaps: bool  # whether the schedule has other work between its start and its end


class Event(NamedTuple):
    """One instruction of the schedule."""

    work: Work = Work()  # without that of `body`
    times: int = 1  # trip count of `body`
    body: tuple[Event, ...] = ()  # schedule of a loop, call or branch
    begins: tuple[Collective, ...] = ()  # collectives that start here; one that does not overlap ends with the event
    ends: tuple[str, ...] = ()  # channels of the collectives that end here
    unknown: bool = False  # whether it is a loop of unknown trip count, which is counted once


def events(module: Module) -> tuple[Event, ...]:
    """The schedule of a program."""
    return _schedule(module, module.entry, set())


def total(schedule: tuple[Event, ...]) -> Work:
    """All work of a schedule, loop bodies times their trip counts."""
    done = Work()
    for event in schedule:
        done = done.plus(event.work).plus(total(event.body), event.times)
    return done


def collectives(schedule: tuple[Event, ...], times: int = 1) -> list[tuple[int, Collective]]:
    """(number of executions, collective) of all collectives."""
    found = []
    for event in schedule:
        found += [(times, one) for one in event.begins]
        found += collectives(event.body, times * event.times)
    return found


def unknown_loops(schedule: tuple[Event, ...]) -> int:
    """Number of loops that are counted once because their trip count is unknown."""
    return sum(event.unknown + unknown_loops(event.body) for event in schedule)


def _schedule(module: Module, name: str, running: set[str]) -> tuple[Event, ...]:
    """The events of a computation; `running` has the channels of collectives in flight, and is updated."""
    return tuple(_event(module, one, running) for one in module.computations[name].values())


def _event(module: Module, one: Instruction, running: set[str]) -> Event:
    if one.opcode == "while":
        count = trip_count(module, one)
        body = _schedule(module, one.calls("body")[0], running)
        return Event(times=1 if count is None else count, body=body, unknown=count is None)
    if one.opcode == "call":
        return Event(body=_schedule(module, one.calls("to_apply", "calls")[0], running))
    if one.opcode == "conditional":
        names = one.calls("branch_computations", "true_computation", "false_computation")
        branches = [_schedule(module, branch, set(running)) for branch in names]
        return Event(body=max(branches, key=lambda branch: total(branch)[1:3], default=()))
    begins, ends = _collectives(module, one, running)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
    work = Work(*_products(module, one), _traffic(module, one), int(cycles[1]) if cycles else 0)
    return Event(work, begins=tuple(begins), ends=tuple(ends))


def _collectives(module: Module, one: Instruction, running: set[str]) -> tuple[list[Collective], list[str]]:
    """(collectives that start, channels of those that end) at an instruction of the schedule."""
    base, _, phase = one.opcode.rpartition("-")
    if one.opcode in KINDS:
        return [_collective(module, one, one, one.attribute("channel_id") or one.name, overlaps=False)], []
    if one.opcode == "async-done" or (base in KINDS and phase == "done"):
        return [], [operand.name for operand in one.operands[:1]]
    if base in KINDS and phase == "start":
        return [_collective(module, one, one, one.name, overlaps=True)], []
    if one.opcode not in ("fusion", "async-start"):
        return [], []
    begins, ends = [], []
    inside = module.computations[one.calls("calls")[0]].values()
    marks = {other.attribute("custom_call_target").strip('"') for other in inside if other.opcode == "custom-call"}
    starts = one.opcode == "async-start" or "AsyncCollectiveStart" in marks
    for found in (other for other in inside if other.opcode in KINDS):
        channel = one.name if one.opcode == "async-start" else found.attribute("channel_id") or found.name
        if "AsyncCollectiveDone" in marks:
            ends.append(channel)
            running.discard(channel)
        elif channel not in running:  # otherwise it is in flight and overlaps with this fusion
            begins.append(_collective(module, found, one, channel, overlaps=starts))
            running |= {channel} if starts else set()
    return begins, ends


def _collective(module: Module, one: Instruction, outer: Instruction, channel: str, *, overlaps: bool) -> Collective:
    kind = next(kind for kind in KINDS if one.opcode.startswith(kind))
    size = sum(array.size for operand in one.operands for array in operand.arrays)
    group = _group(one, module.partitions)
    if kind == "all-gather":
        size *= group
    if kind == "all-reduce" and "all-reduce-scatter" in outer.attribute("calls"):
        kind = "reduce-scatter"  # as a TPU's compiler writes it
    return Collective(kind, size, group, channel, overlaps)


def _products(module: Module, one: Instruction) -> tuple[int, int]:
    """(FLOPs, FLOPs times passes)."""
    if one.opcode in ("fusion", "async-start"):
        both = [_products(module, inner) for inner in module.computations[one.calls("calls")[0]].values()]
        return sum(flops for flops, _ in both), sum(passes for _, passes in both)
    if one.opcode not in ("dot", "convolution"):
        return 0, 0
    left, right = (operand.arrays[0] for operand in one.operands[:2])
    flops = _dot(one, left) if one.opcode == "dot" else _convolution(one, left, right)
    precision = re.search(r"\w+", one.attribute("operand_precision"))
    return flops, flops * (_PASSES.get(precision[0], 1) if precision and left.dtype == "f32" else 1)


def _traffic(module: Module, one: Instruction) -> int:
    """Bytes that an instruction of the schedule reads from and writes to HBM."""
    base, _, phase = one.opcode.rpartition("-")
    if one.opcode in _NO_TRAFFIC or one.opcode in KINDS or base in KINDS:
        return 0
    if one.opcode == "custom-call" and "AllocateBuffer" in one.attributes:
        return 0
    if phase == "start":  # a copy or slice between memories: (from, to, context)
        ends = one.arrays[:2]
        return min((array.size for array in ends), default=0) * sum(array.space == 0 for array in ends)
    if one.opcode == "fusion":
        return _fusion_traffic(module, one, one.calls("calls")[0])
    sources = [array for operand in one.operands for array in operand.arrays]
    if one.opcode == "dynamic-update-slice":
        return 2 * _in_hbm(sources[1:2])
    out, first = _in_hbm(one.arrays), _in_hbm(sources[:1])
    return out + (min(out, first) if one.opcode in _SLICES else first) + _in_hbm(sources[1:])


def _fusion_traffic(module: Module, one: Instruction, called: str) -> int:
    traffic = 0
    for place, operand in enumerate(one.operands):
        if full := _in_hbm(operand.arrays):
            traffic += min(full, _read(module, module.parameter(called, place), full))
    root = module.root(called)
    results = root.operands if root.opcode == "tuple" else (root,)
    if len(results) != len(one.arrays):
        return traffic + _in_hbm(one.arrays)
    pairs = zip(results, one.arrays, strict=True)
    return traffic + sum(_written(module, result, array) for result, array in pairs if array.space == 0)


def _read(module: Module, value: Instruction | None, unknown: int) -> int:
    """Bytes of a value that its users within a fused computation read; `unknown` if there is no such value."""
    if value is None:
        return unknown
    full, read = sum(array.size for array in value.arrays), 0
    for user in value.users:
        places = [place for place, operand in enumerate(user.operands) if operand is value]
        is_overwritten = user.opcode == "dynamic-update-slice" and places == [0]
        if is_overwritten or user.opcode in _COUNTED_ELSEWHERE:
            continue
        if user.opcode in _VIEWS:
            read += _read(module, user, full)
        elif user.opcode in _SLICES and places == [0]:
            read += user.arrays[0].size
        elif user.opcode == "fusion":
            called = user.calls("calls")[0]
            read += sum(_read(module, module.parameter(called, place), full) for place in places)
        else:
            return full
    return min(full, read)


def _written(module: Module, result: Instruction, array: Array) -> int:
    """Bytes that a fused computation writes of a result: for an update in place, those of the update."""
    while result.opcode in _VIEWS:
        result = result.operands[0]
    # a collective in flight beside several fusions is a result of each; it is counted at its start
    if result.opcode in ("parameter", *KINDS) or "AsyncCollectiveDone" in result.attributes:
        return 0
    if result.opcode == "dynamic-update-slice":
        return result.operands[1].arrays[0].size
    if result.opcode == "fusion" and (root := module.root(result.calls("calls")[0])).opcode != "tuple":
        return _written(module, root, array)
    return array.size


def _in_hbm(arrays: tuple[Array, ...] | list[Array]) -> int:
    return sum(array.size for array in arrays if array.space == 0)


def _dot(one: Instruction, left: Array) -> int:
    contracted = [int(place) for place in re.findall(r"\d+", one.attribute("lhs_contracting_dims"))]
    return 2 * one.arrays[0].elements * math.prod(left.dims[place] for place in contracted)


def _convolution(one: Instruction, left: Array, kernel: Array) -> int:
    """FLOPs on inputs within the picture: the padding or holes of a batched dot cost nothing."""
    of_left, of_kernel, of_out = re.split(r"_|->", one.attribute("dim_labels"))
    out = one.arrays[0].dims
    count = 2 * left.dims[of_left.index("b")] // int(one.attribute("batch_group_count") or 1)
    count *= kernel.dims[of_kernel.index("i")] * kernel.dims[of_kernel.index("o")]
    window = dict(re.findall(r"(\w+)=(\S+)", one.attribute("window").strip("{}")))
    for number, label in enumerate(sorted(set(of_left) - {"b", "f"}, key=int)):
        sizes = left.dims[of_left.index(label)], kernel.dims[of_kernel.index(label)], out[of_out.index(label)]
        count *= _positions(*sizes, {name: text.split("x")[number] for name, text in window.items()})
    return count


def _positions(size: int, kernel: int, out: int, window: dict[str, str]) -> int:
    """Pairs of an output and a kernel position along one dimension that meet an input."""
    stride, dilation = int(window.get("stride", 1)), int(window.get("rhs_dilate", 1))
    hole, low = int(window.get("lhs_dilate", 1)), int(window.get("pad", "0_0").split("_")[0])
    at = np.arange(out)[:, None] * stride - low + np.arange(kernel)[None] * dilation
    return int(((at >= 0) & (at < (size - 1) * hole + 1) & (at % hole == 0)).sum())


def _group(one: Instruction, partitions: int) -> int:
    """Number of devices in a collective's group, in any of the notations of `replica_groups`."""
    if one.opcode.startswith("collective-permute"):
        return 2
    text = one.attributes.partition("replica_groups=")[2]
    if match := re.match(r"\[\d+,(\d+)\]", text):
        return int(match[1])
    if match := re.match(r"\{\{([\d,]+)\}", text):
        return match[1].count(",") + 1
    if match := re.match(r"mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    return partitions
