"""What a compiled program does: products, bytes of the large memory, collectives, each times its trip count.

Products are those of dots and convolutions (a multiplication and its addition are two); a TPU's compiler writes both as
convolutions. Bytes are what each scheduled instruction reads and writes of the large memory (HBM): a fusion reads its
arguments once, and of those that it slices or updates in place, what it touches. Pure functions of the parsed text.

Source: ours; the count of a convolution's products follows XLA's definition of the operation.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from cl2cm_jax.studies.tpu_estimate.hlo import Array, Computation, Instruction, Module, trip_count

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# A float32 product of this precision is so many bfloat16 passes of the matrix unit. Source: jax.lax.Precision.
_PASSES = {"default": 1, "high": 3, "highest": 6}
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id opt-barrier add-dependency "
    "domain while conditional call copy-done slice-done async-done async-update custom-call-done".split()
)
_VIEWS = ("bitcast", "reshape")


class Work(NamedTuple):
    """What one instruction does.

    Attributes:
      flops: of its products.
      passes: the same, times the passes that the matrix unit makes for a product of high precision.
      size: bytes read and written of the large memory.
      cycles: the compiler's own estimate, 0 where it gives none.
    """

    flops: int = 0
    passes: int = 0
    size: int = 0
    cycles: int = 0

    def __add__(self, other: object) -> Work:  # type: ignore[override]
        """Adds up, attribute by attribute."""
        assert isinstance(other, Work)
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> Work:
        """So many times as much."""
        return Work(*(count * x for x in self))


class Collective(NamedTuple):
    """One exchange among devices.

    Attributes:
      kind: one of `KINDS`.
      size: bytes of a device: the result of an all-gather, of all others what goes in.
      group: devices that take part together.
      channel: names it between its start and its end.
      overlaps: whether the schedule starts it, does something else, and ends it.
    """

    kind: str
    size: int
    group: int
    channel: str
    overlaps: bool


class Event(NamedTuple):
    """One instruction of the schedule.

    Attributes:
      work: its own.
      times: how often `body` runs.
      body: what a loop, call or branch runs.
      begins: collectives that start here; one that does not overlap is over when the event is.
      ends: channels of those that are over.
      unknown: whether it is a loop whose trip count the text does not tell; it is counted once.
    """

    work: Work = Work()
    times: int = 1
    body: tuple[Event, ...] = ()
    begins: tuple[Collective, ...] = ()
    ends: tuple[str, ...] = ()
    unknown: bool = False


def events(module: Module) -> tuple[Event, ...]:
    """The schedule of a program."""
    return _Reader(module).schedule(module.entry)


def total(schedule: tuple[Event, ...]) -> Work:
    """All work, loop bodies times their trip counts."""
    done = Work()
    for event in schedule:
        done = done + event.work + total(event.body).times(event.times)
    return done


def collectives(schedule: tuple[Event, ...], times: int = 1) -> list[tuple[int, Collective]]:
    """(times, collective) of every one."""
    found = []
    for event in schedule:
        found += [(times, one) for one in event.begins]
        found += collectives(event.body, times * event.times)
    return found


def unknown_loops(schedule: tuple[Event, ...]) -> int:
    """Loops that were counted once for want of a trip count."""
    return sum(event.unknown + unknown_loops(event.body) for event in schedule)


class _Reader:
    """Walks the computations of a module; what it has found of one is kept."""

    def __init__(self, module: Module):
        self.module = module
        self._flops: dict[str, tuple[int, int]] = {}
        self._users: dict[str, dict[str, list[Instruction]]] = {}

    def schedule(self, name: str, running: set[str] | None = None) -> tuple[Event, ...]:
        """The events of a computation; `running` are the channels of what began before it and goes on beside it."""
        channels = set() if running is None else running
        computation = self.module.computations[name]
        return tuple(self._event(name, computation, one, channels) for one in computation.values())

    def _event(self, name: str, computation: Computation, one: Instruction, running: set[str]) -> Event:
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
        begins, ends = self._exchanges(computation, one, running)
        return Event(self._work(computation, one), begins=tuple(begins), ends=tuple(ends))

    def _exchanges(
        self, computation: Computation, one: Instruction, running: set[str]
    ) -> tuple[list[Collective], list[str]]:
        """(collectives that begin, channels that end) with an instruction of the schedule."""
        base, _, phase = one.opcode.rpartition("-")
        if one.opcode in KINDS:
            return [self._collective(computation, one, one, overlaps=False)], []
        if base in KINDS and phase in ("start", "done"):
            if phase == "done":
                return [], list(one.operands[:1])
            return [self._collective(computation, one, one, overlaps=True)._replace(channel=one.name)], []
        if one.opcode == "async-done":
            return [], list(one.operands[:1])
        if one.opcode not in ("fusion", "async-start"):
            return [], []
        begins, ends = [], []
        called = one.calls("calls")[0]
        inside = self.module.computations[called]
        marks = {i.attribute("custom_call_target").strip('"') for i in inside.values() if i.opcode == "custom-call"}
        for found in inside.values():
            if found.opcode not in KINDS:
                continue
            channel = one.name if one.opcode == "async-start" else found.attribute("channel_id") or found.name
            starts = one.opcode == "async-start" or "AsyncCollectiveStart" in marks
            if "AsyncCollectiveDone" in marks:
                ends.append(channel)
                running.discard(channel)
            elif channel not in running:  # else it goes on beside what this fusion computes
                made = self._collective(inside, found, one, overlaps=starts)
                begins.append(made._replace(channel=channel))
                running |= {channel} if starts else set()
        return begins, ends

    def _collective(
        self, computation: Computation, one: Instruction, outer: Instruction, *, overlaps: bool
    ) -> Collective:
        kind = next(kind for kind in KINDS if one.opcode.startswith(kind))
        into = sum(a.size for name in one.operands for a in computation[name].arrays) if one.operands else 0
        group = _group(one, self.module.partitions)
        size = into * group if kind == "all-gather" else into
        if kind == "all-reduce" and "all-reduce-scatter" in outer.attribute("calls"):
            kind = "reduce-scatter"  # a TPU's form of it
        return Collective(kind, size, group, one.attribute("channel_id") or one.name, overlaps)

    def _work(self, computation: Computation, one: Instruction) -> Work:
        flops, passes = self._products(computation, one)
        cycles = re.search(r'"estimated_cycles":"(\d+)"', one.attributes)
        return Work(flops, passes, self._size(computation, one), int(cycles[1]) if cycles else 0)

    def _products(self, computation: Computation, one: Instruction) -> tuple[int, int]:
        """(FLOPs, FLOPs times passes)."""
        if one.opcode in ("fusion", "async-start"):
            called = one.calls("calls")[0]
            if called not in self._flops:
                inside = self.module.computations[called]
                both = [self._products(inside, each) for each in inside.values()]
                self._flops[called] = sum(a for a, _ in both), sum(b for _, b in both)
            return self._flops[called]
        if one.opcode not in ("dot", "convolution"):
            return 0, 0
        left, right = (computation[name].arrays[0] for name in one.operands[:2])
        flops = _dot(one, left) if one.opcode == "dot" else _convolution(one, left, right)
        precision = (re.findall(r"\w+", one.attribute("operand_precision")) or ["default"])[0]
        passes = _PASSES.get(precision, 1) if left.dtype == "f32" else 1
        return flops, flops * passes

    def _size(self, computation: Computation, one: Instruction) -> int:
        """Bytes of the large memory that an instruction of the schedule reads and writes."""
        base, _, phase = one.opcode.rpartition("-")
        if one.opcode in _FREE or one.opcode in KINDS or base in KINDS or one.opcode == "async-start":
            return 0
        if one.opcode == "custom-call" and "AllocateBuffer" in one.attributes:
            return 0
        sources = [array for name in one.operands for array in computation[name].arrays]
        if phase == "start":  # a copy or slice between memories: (from, to, context)
            moved = min((a for a in one.arrays[:2]), key=lambda a: a.size, default=None)
            return sum(moved.size for a in one.arrays[:2] if a.space == 0) if moved else 0
        if one.opcode == "fusion":
            called = one.calls("calls")[0]
            return self._read(computation, one, called) + self._written(one, called)
        out = sum(a.size for a in one.arrays if a.space == 0)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return out + min(out, _in_hbm(sources[:1])) + _in_hbm(sources[1:])
        if one.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(sources[1:2])
        return out + _in_hbm(sources)

    def _read(self, computation: Computation, one: Instruction, called: str) -> int:
        read = 0
        for place, name in enumerate(one.operands):
            full = _in_hbm(computation[name].arrays)
            parameter = self.module.parameter(called, place)
            read += min(full, self._touched(called, parameter)) if full and parameter else full
        return read

    def _written(self, one: Instruction, called: str) -> int:
        root = self.module.root(called)
        inside = self.module.computations[called]
        results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(one.arrays):
            return _in_hbm(one.arrays)
        pairs = zip(results, one.arrays, strict=True)
        return sum(self._made(inside, result, array) for result, array in pairs if array.space == 0)

    def _made(self, inside: Computation, result: Instruction, array: Array) -> int:
        """Bytes of a result that are new: of an update in place, the update."""
        while result.opcode in _VIEWS:
            result = inside[result.operands[0]]
        # an exchange that goes on beside several fusions is a result of each; its start counts it
        if result.opcode in ("parameter", *KINDS) or "AsyncCollectiveDone" in result.attributes:
            return 0
        if result.opcode == "dynamic-update-slice":
            return inside[result.operands[1]].arrays[0].size
        if result.opcode == "fusion":
            called = result.calls("calls")[0]
            root = self.module.root(called)
            return self._made(self.module.computations[called], root, array) if root.opcode != "tuple" else array.size
        return array.size

    def _touched(self, name: str, value: Instruction) -> int:
        """Bytes of a value that its users within a fused computation read."""
        full, touched = sum(a.size for a in value.arrays), 0
        for user in self._users_of(name).get(value.name, []):
            places = [place for place, operand in enumerate(user.operands) if operand == value.name]
            if user.opcode in _VIEWS:
                touched += self._touched(name, user)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and places == [0]:
                touched += user.arrays[0].size
            elif user.opcode == "dynamic-update-slice" and places == [0]:
                continue
            elif user.opcode == "fusion":
                called = user.calls("calls")[0]
                inner = [self.module.parameter(called, place) for place in places]
                touched += sum(self._touched(called, parameter) if parameter else full for parameter in inner)
            elif user.opcode in ("tuple", "custom-call", *KINDS):
                continue  # passed on, or a mark of the compiler's; an exchange is counted apart
            else:
                return full
        return min(full, touched)

    def _users_of(self, name: str) -> dict[str, list[Instruction]]:
        if name not in self._users:
            users: dict[str, list[Instruction]] = {}
            for one in self.module.computations[name].values():
                for operand in set(one.operands):
                    users.setdefault(operand, []).append(one)
            self._users[name] = users
        return self._users[name]


def _in_hbm(arrays: tuple[Array, ...] | list[Array]) -> int:
    return sum(array.size for array in arrays if array.space == 0)


def _dot(one: Instruction, left: Array) -> int:
    contracted = [int(place) for place in re.findall(r"\d+", one.attribute("lhs_contracting_dims"))]
    return 2 * one.arrays[0].elements * math.prod(left.dims[place] for place in contracted)


def _convolution(one: Instruction, left: Array, kernel: Array) -> int:
    """Products whose input lies within the picture: the padding or holes of a batched dot cost nothing."""
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
    """Devices that exchange together, in any of the forms that the text names them."""
    if one.opcode.startswith("collective-permute"):
        return 2
    at = one.attributes.find("replica_groups=")
    text = one.attributes[at + len("replica_groups=") :] if at >= 0 else ""
    if match := re.match(r"\[\d+,(\d+)\]", text):
        return int(match[1])
    if match := re.match(r"\{\{([\d,]+)\}", text):
        return match[1].count(",") + 1
    if match := re.match(r"mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    return partitions
