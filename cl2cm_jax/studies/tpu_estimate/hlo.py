"""A compiled program's text (HLO) as computations of instructions, and how often its loops run. Pure functions of text.

The compiler's own cost analysis counts the body of a loop once, whatever its trip count; so the text is read.

Source: the format is XLA's (openxla.org/xla/operation_semantics); this reader is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# bits of an element; what is not listed (tokens) takes no space
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64} | {
    "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_OPENING, _CLOSING = "([{", ")]}"


class Array(NamedTuple):
    """One array of an instruction's result.

    Attributes:
      dtype: XLA's name.
      dims: its shape.
      space: 0 is the device's large memory (HBM); others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def elements(self) -> int:
        count = 1
        for size in self.dims:
            count *= size
        return count

    @property
    def size(self) -> int:
        """Bytes, without the padding of a tiled layout."""
        return (self.elements * _BITS.get(self.dtype, 0) + 7) // 8


class Instruction(NamedTuple):
    """One line.

    Attributes:
      name: unique within its computation.
      arrays: of the result; a tuple's are flattened.
      opcode: e.g. "fusion".
      operands: names of instructions of the same computation.
      inside: what the brackets hold as text; a constant's value.
      attributes: what follows the brackets as text.
      is_root: whether it is its computation's result.
    """

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    is_root: bool

    def attribute(self, name: str) -> str:
        """The text of `name=...` up to the next comma, a bracketed value whole; "" where there is none."""
        at = re.search(rf"(?:^|[ ,]){re.escape(name)}=", self.attributes)
        if not at:
            return ""
        rest, depth = self.attributes[at.end() :], 0
        for place, letter in enumerate(rest):
            depth += (letter in _OPENING) - (letter in _CLOSING)
            if depth < 0 or (depth == 0 and letter in ", "):
                return rest[:place]
        return rest

    def calls(self, *names: str) -> tuple[str, ...]:
        """The computations that attributes such as "calls" or "body" name."""
        return tuple(called for name in names for called in _NAME.findall(self.attribute(name)))


Computation = dict[str, Instruction]


class Module(NamedTuple):
    """A program.

    Attributes:
      computations: by name, their instructions in the order of the schedule.
      entry: the name of the one that is run.
      partitions: devices that run it together.
    """

    computations: dict[str, Computation]
    entry: str
    partitions: int

    def root(self, computation: str) -> Instruction:
        """The result of a computation."""
        instructions = list(self.computations[computation].values())
        return next((one for one in instructions if one.is_root), instructions[-1])

    def parameter(self, computation: str, number: int) -> Instruction | None:
        """The parameter of this number."""
        found = (i for i in self.computations[computation].values() if i.opcode == "parameter")
        return next((one for one in found if one.inside == str(number)), None)


def parse(text: str) -> Module:
    """Reads a program's text.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            match = _COMPUTATION.match(line) if not line.startswith(("HloModule", " ")) else None
            if match:
                current = computations.setdefault(match[2], {})
                entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            one = _instruction(line)
            if one is not None:
                current[one.name] = one
    if entry not in computations:
        raise ValueError("the text has no ENTRY computation")
    partitions = re.search(r"num_partitions=(\d+)", text.partition("\n")[0])
    return Module(computations, entry, int(partitions[1]) if partitions else 1)


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    rest = line[match.end() :]
    shape, rest = _until(rest, " ")
    opcode, _, rest = rest.lstrip().partition("(")
    inside, rest = _until(rest, ")")
    return Instruction(
        name=match[2],
        arrays=tuple(_arrays(shape)),
        opcode=opcode,
        operands=tuple(_NAME.findall(inside)),
        inside=inside,
        attributes=rest.removeprefix(")").lstrip(", "),
        is_root=bool(match[1]),
    )


def _until(text: str, end: str) -> tuple[str, str]:
    """Splits at the first `end` that no bracket encloses."""
    depth = 0
    for place, letter in enumerate(text):
        if depth == 0 and letter == end:
            return text[:place], text[place:]
        depth += (letter in _OPENING) - (letter in _CLOSING)
    return text, ""


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        sizes = tuple(int(size) for size in dims.split(",") if size)
        yield Array(dtype, sizes, int(space[1]) if space else 0)


def trip_count(module: Module, computation: str, loop: Instruction) -> int | None:
    """How often a `while` of a computation runs; None where the text does not tell.

    It is what the compiler says it knows, or follows from a counter that starts at a constant, is compared with one
    and grows by one.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    (condition,), (body,) = loop.calls("condition"), loop.calls("body")
    compared = _Value.of(module, condition, module.root(condition).name)
    if compared.comparison is None:
        return None
    direction, left, right = compared.comparison
    if left.element is None or direction not in ("LT", "LE"):
        return None
    start = _initial(module, computation, loop, left.element)
    limit = right.constant if right.element is None else _initial(module, computation, loop, right.element)
    root = module.root(body)
    if root.opcode != "tuple" or left.element >= len(root.operands):
        return None
    step = _Value.of(module, body, root.operands[left.element])
    grows = step.added is not None and step.added[0] == left.element
    if start is None or limit is None or not grows or step.added is None or step.added[1] < 1:
        return None
    return max(0, -(-(limit - start + (direction == "LE")) // step.added[1]))


def _initial(module: Module, computation: str, loop: Instruction, element: int) -> int | None:
    """The constant that an element of the loop's state starts as."""
    state = module.computations[computation][loop.operands[0]]
    if state.opcode != "tuple":
        return None
    return _Value.of(module, computation, state.operands[element]).constant


class _Value(NamedTuple):
    """What is known of a scalar: a constant, an element of the loop's state, a sum with one, or a comparison."""

    constant: int | None = None
    element: int | None = None
    added: tuple[int, int] | None = None
    comparison: tuple[str, _Value, _Value] | None = None

    @classmethod
    def of(cls, module: Module, computation: str, name: str, arguments: tuple[_Value, ...] = ()) -> _Value:
        """Follows `name` back through copies and fusions; `arguments` are those of a fused computation."""
        one = module.computations[computation].get(name)
        if one is None:
            return cls()

        def operand(place: int) -> _Value:
            return cls.of(module, computation, one.operands[place], arguments)

        if one.opcode == "constant":
            return cls(constant=int(one.inside)) if re.fullmatch(r"-?\d+", one.inside) else cls()
        if one.opcode in ("copy", "bitcast", "convert", "reshape", "copy-done") and one.operands:
            return operand(0)
        if one.opcode == "copy-start":
            return operand(0)
        if one.opcode == "get-tuple-element":
            return cls(element=int(one.attribute("index") or -1))
        if one.opcode == "parameter":
            place = int(one.inside)
            return arguments[place] if place < len(arguments) else cls()
        if one.opcode in ("fusion", "call"):
            called = one.calls("calls", "to_apply")[0]
            return cls.of(module, called, module.root(called).name, tuple(map(operand, range(len(one.operands)))))
        if one.opcode == "add":
            left, right = operand(0), operand(1)
            if left.element is None:
                left, right = right, left
            is_sum = left.element is not None and right.constant is not None
            return cls(added=(left.element, right.constant)) if is_sum else cls()  # type: ignore[arg-type]
        if one.opcode == "compare":
            return cls(comparison=(one.attribute("direction"), operand(0), operand(1)))
        return cls()
