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

from cl2cm_jax.studies.tpu_estimate.hlo import Array, Computation, Instruction, Module, trip_count

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
    return _Reader(module).schedule(module.entry, set())


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


class _Reader:
    """Walks the computations of a module and caches what is derived from each."""

    def __init__(self, module: Module):
        self.module = module
        self._flops: dict[str, tuple[int, int]] = {}
        self._users: dict[str, dict[str, list[Instruction]]] = {}

    def schedule(self, name: str, running: set[str]) -> tuple[Event, ...]:
        """The events of a computation; `running` has the channels of collectives in flight, and is updated."""
        return tuple(self._event(name, one, running) for one in self.module.computations[name].values())

    def _event(self, name: str, one: Instruction, running: set[str]) -> Event:
        if one.opcode == "while":
            count = trip_count(self.module, name, one)
            body = self.schedule(one.calls("body")[0], running)
            return Event(times=1 if count is None else count, body=body, unknown=count is None)
        if one.opcode == "call":
            return Event(body=self.schedule(one.calls("to_apply", "calls")[0], running))
        if one.opcode == "conditional":
            names = one.calls("branch_computations", "true_computation", "false_computation")
            branches = [self.schedule(branch, set(running)) for branch in names]
            return Event(body=max(branches, key=lambda branch: total(branch)[1:3], default=()))
        computation = self.module.computations[name]
        begins, ends = self._collectives(computation, one, running)
        return Event(self._work(computation, one), begins=tuple(begins), ends=tuple(ends))

    def _collectives(
        self, computation: Computation, one: Instruction, running: set[str]
    ) -> tuple[list[Collective], list[str]]:
        """(collectives that start, channels of those that end) at an instruction of the schedule."""
        base, _, phase = one.opcode.rpartition("-")
        if one.opcode in KINDS:
            return [self._collective(computation, one, one, overlaps=False)], []
        if one.opcode == "async-done" or (base in KINDS and phase == "done"):
            return [], list(one.operands[:1])
        if base in KINDS and phase == "start":
            return [self._collective(computation, one, one, overlaps=True)._replace(channel=one.name)], []
        if one.opcode not in ("fusion", "async-start"):
            return [], []
        begins, ends = [], []
        inside = self.module.computations[one.calls("calls")[0]]
        marks = {i.attribute("custom_call_target").strip('"') for i in inside.values() if i.opcode == "custom-call"}
        starts = one.opcode == "async-start" or "AsyncCollectiveStart" in marks
        for found in (i for i in inside.values() if i.opcode in KINDS):
            channel = one.name if one.opcode == "async-start" else found.attribute("channel_id") or found.name
            if "AsyncCollectiveDone" in marks:
                ends.append(channel)
                running.discard(channel)
            elif channel not in running:  # otherwise it is in flight and overlaps with this fusion
                begins.append(self._collective(inside, found, one, overlaps=starts)._replace(channel=channel))
                running |= {channel} if starts else set()
        return begins, ends

    def _collective(
        self, computation: Computation, one: Instruction, outer: Instruction, *, overlaps: bool
    ) -> Collective:
        kind = next(kind for kind in KINDS if one.opcode.startswith(kind))
        size = sum(array.size for name in one.operands for array in computation[name].arrays)
        group = _group(one, self.module.partitions)
        if kind == "all-gather":
            size *= group
        if kind == "all-reduce" and "all-reduce-scatter" in outer.attribute("calls"):
            kind = "reduce-scatter"  # as a TPU's compiler writes it
        return Collective(kind, size, group, one.attribute("channel_id") or one.name, overlaps)

    def _work(self, computation: Computation, one: Instruction) -> Work:
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
        flops, passes = self._products(computation, one)
        return Work(flops, passes, self._traffic(computation, one), int(cycles[1]) if cycles else 0)

    def _products(self, computation: Computation, one: Instruction) -> tuple[int, int]:
        """(FLOPs, FLOPs times passes)."""
        if one.opcode in ("fusion", "async-start"):
            called = one.calls("calls")[0]
            if called not in self._flops:
                inside = self.module.computations[called]
                both = [self._products(inside, each) for each in inside.values()]
                self._flops[called] = sum(flops for flops, _ in both), sum(passes for _, passes in both)
            return self._flops[called]
        if one.opcode not in ("dot", "convolution"):
            return 0, 0
        left, right = (computation[name].arrays[0] for name in one.operands[:2])
        flops = _dot(one, left) if one.opcode == "dot" else _convolution(one, left, right)
        precision = re.search(r"\w+", one.attribute("operand_precision"))
        passes = _PASSES.get(precision[0], 1) if precision and left.dtype == "f32" else 1
        return flops, flops * passes

    def _traffic(self, computation: Computation, one: Instruction) -> int:
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
            called = one.calls("calls")[0]
            return self._read(computation, one, called) + self._written(one, called)
        sources = [array for name in one.operands for array in computation[name].arrays]
        if one.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(sources[1:2])
        out = _in_hbm(one.arrays)
        read = min(out, _in_hbm(sources[:1])) if one.opcode in _SLICES else _in_hbm(sources[:1])
        return out + read + _in_hbm(sources[1:])

    def _read(self, computation: Computation, one: Instruction, called: str) -> int:
        """Bytes that a fusion reads from HBM."""
        read = 0
        for place, name in enumerate(one.operands):
            full = _in_hbm(computation[name].arrays)
            read += min(full, self._used(called, self.module.parameter(called, place), full)) if full else 0
        return read

    def _written(self, one: Instruction, called: str) -> int:
        """Bytes that a fusion writes to HBM."""
        root = self.module.root(called)
        inside = self.module.computations[called]
        results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(one.arrays):
            return _in_hbm(one.arrays)
        pairs = zip(results, one.arrays, strict=True)
        return sum(self._new(inside, result, array) for result, array in pairs if array.space == 0)

    def _new(self, inside: Computation, result: Instruction, array: Array) -> int:
        """Bytes that the computation of a result writes: for an update in place, those of the update."""
        while result.opcode in _VIEWS:
            result = inside[result.operands[0]]
        # a collective in flight beside several fusions is a result of each; it is counted at its start
        if result.opcode in ("parameter", *KINDS) or "AsyncCollectiveDone" in result.attributes:
            return 0
        if result.opcode == "dynamic-update-slice":
            return inside[result.operands[1]].arrays[0].size
        if result.opcode == "fusion":
            called = result.calls("calls")[0]
            root = self.module.root(called)
            return self._new(self.module.computations[called], root, array) if root.opcode != "tuple" else array.size
        return array.size

    def _used(self, name: str, value: Instruction | None, unknown: int) -> int:
        """Bytes of a value that its users within a fused computation read; `unknown` if there is no such value."""
        if value is None:
            return unknown
        full, used = sum(array.size for array in value.arrays), 0
        for user in self._users_of(name).get(value.name, []):
            places = [place for place, operand in enumerate(user.operands) if operand == value.name]
            is_overwritten = user.opcode == "dynamic-update-slice" and places == [0]
            if is_overwritten or user.opcode in _COUNTED_ELSEWHERE:
                continue
            if user.opcode in _VIEWS:
                used += self._used(name, user, full)
            elif user.opcode in _SLICES and places == [0]:
                used += user.arrays[0].size
            elif user.opcode == "fusion":
                called = user.calls("calls")[0]
                used += sum(self._used(called, self.module.parameter(called, place), full) for place in places)
            else:
                return full
        return min(full, used)

    def _users_of(self, name: str) -> dict[str, list[Instruction]]:
        if name not in self._users:
            users = self._users[name] = {}
            for one in self.module.computations[name].values():
                for operand in set(one.operands):
                    users.setdefault(operand, []).append(one)
        return self._users[name]


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
