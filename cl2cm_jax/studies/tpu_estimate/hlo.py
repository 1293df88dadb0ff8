"""Parser of compiled HLO text: computations, instructions and trip counts of loops.

XLA's own cost analysis counts a loop body once, whatever its trip count, and a TPU's program does not carry
`known_trip_count`; both are therefore derived from the text. Format: openxla.org/xla/operation_semantics.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{(?:[^}]*?S\((\d+)\))?[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$")


class Array(NamedTuple):
    """One array of an instruction's result. Memory space 0 is HBM; the others are on the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def size(self) -> int:
        """Bytes, without the padding of a tiled layout; tokens have none."""
        bits = re.search(r"\d+", self.dtype.replace("pred", "u8"))
        return (self.elements * int(bits[0]) + 7) // 8 if bits else 0


@dataclass(eq=False, repr=False)
class Instruction:
    """One instruction; operands and users are instructions of the same computation."""

    name: str
    arrays: tuple[Array, ...]  # of the result; a tuple is flattened
    opcode: str  # e.g. "fusion"
    operands: tuple[Instruction, ...]
    inside: str  # text between the parentheses; the value of a constant
    attributes: str  # text after the parentheses
    is_root: bool  # whether it is the result of its computation
    users: list[Instruction] = field(default_factory=list)

    def attribute(self, name: str) -> str:
        """The value of `name=...` as text; "" if there is none."""
        match = re.search(rf"(?:^|[ ,]){re.escape(name)}=", self.attributes)
        return _split(self.attributes[match.end() :], ", ")[0] if match else ""

    def calls(self, *names: str) -> tuple[str, ...]:
        """The computations that attributes such as "calls" or "body" name."""
        return tuple(called for name in names for called in _NAME.findall(self.attribute(name)))


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """A program."""

    computations: dict[str, Computation]  # by name, each with its instructions in scheduled order
    entry: str  # name of the entry computation
    partitions: int  # number of devices that run the program together

    def root(self, computation: str) -> Instruction:
        """The result of a computation."""
        instructions = list(self.computations[computation].values())
        return next((one for one in instructions if one.is_root), instructions[-1])

    def parameter(self, computation: str, number: int) -> Instruction | None:
        """The parameter of this number."""
        parameters = (i for i in self.computations[computation].values() if i.opcode == "parameter")
        return next((one for one in parameters if one.inside == str(number)), None)


def parse(text: str) -> Module:
    """Parses the text of a compiled program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            match = None if line.startswith(("HloModule", " ")) else _COMPUTATION.match(line)
            if match:
                current = computations.setdefault(match[2], {})
                entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            current[match[2]] = _instruction(match[2], line[match.end() :], current, is_root=bool(match[1]))
    if entry not in computations:
        raise ValueError("the text has no ENTRY computation")
    partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(name: str, text: str, defined: Computation, *, is_root: bool) -> Instruction:
    """Parses what follows "name = "; operands are among the instructions that are `defined` before it."""
    shape, rest = _split(text, " ")
    opcode, _, rest = rest.lstrip().partition("(")
    inside, rest = _split(rest, ")")
    arrays = tuple(
        Array(dtype, tuple(int(size) for size in dims.split(",") if size), int(space or 0))
        for dtype, dims, space in _ARRAY.findall(shape)
    )
    operands = tuple(defined[operand] for operand in _NAME.findall(inside))
    one = Instruction(name, arrays, opcode, operands, inside, rest.removeprefix(")").lstrip(", "), is_root)
    for operand in dict.fromkeys(operands):
        operand.users.append(one)
    return one


def _split(text: str, ends: str) -> tuple[str, str]:
    """Splits before the first of `ends`, or closing bracket, that is not within brackets."""
    depth = 0
    for place, letter in enumerate(text):
        if depth == 0 and (letter in ends or letter in ")]}"):
            return text[:place], text[place:]
        depth += (letter in "([{") - (letter in ")]}")
    return text, ""


def trip_count(module: Module, loop: Instruction) -> int | None:
    """The trip count of a `while` instruction; None if it cannot be derived.

    It is XLA's `known_trip_count`, or follows from a counter that starts at a constant, is compared with a constant and
    is incremented by a constant.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    (condition,), (body,) = loop.calls("condition"), loop.calls("body")
    match _scalar(module, module.root(condition)):
        case ("compare", "LT" | "LE" as direction, ("element", counter), limit):
            pass
        case _:
            return None

    def element(state: Instruction, index: int) -> _Scalar:
        is_known = state.opcode == "tuple" and index < len(state.operands)
        return _scalar(module, state.operands[index]) if is_known else None

    (initial,) = loop.operands
    if limit and limit[0] == "element":
        limit = element(initial, limit[1])
    match element(initial, counter), limit, element(module.root(body), counter):
        case ("constant", start), ("constant", end), ("add", index, step) if index == counter and step > 0:
            return max(0, -(-(end - start + (direction == "LE")) // step))
    return None


# ("constant", value), ("element", index in loop state), ("add", index, value) or ("compare", direction, left, right)
_Scalar = tuple[Any, ...] | None
_COPIES = ("copy", "bitcast", "convert", "reshape", "copy-start", "copy-done")


def _scalar(module: Module, one: Instruction, arguments: tuple[_Scalar, ...] = ()) -> _Scalar:
    """Follows a scalar back through copies and fusions; `arguments` are those of a fused computation."""
    if one.opcode == "constant":
        return ("constant", int(one.inside)) if re.fullmatch(r"-?\d+", one.inside) else None
    if one.opcode == "get-tuple-element":
        return ("element", int(one.attribute("index") or -1))
    if one.opcode == "parameter":
        return arguments[int(one.inside)] if int(one.inside) < len(arguments) else None
    if one.opcode not in (*_COPIES, "fusion", "call", "add", "compare"):
        return None
    operands = tuple(_scalar(module, operand, arguments) for operand in one.operands)
    match one.opcode, operands:
        case "fusion" | "call", _:
            return _scalar(module, module.root(one.calls("calls", "to_apply")[0]), operands)
        case "add", (("element", index), ("constant", value)) | (("constant", value), ("element", index)):
            return "add", index, value
        case "compare", (left, right):
            return "compare", one.attribute("direction"), left, right
    return operands[0] if operands and one.opcode in _COPIES else None
