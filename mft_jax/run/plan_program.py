"""What a compiled program does, read from its text: how often parts run, collectives, products.

The compiler's own totals count the body of a loop once; here it counts as often as it runs. A loop
that does not say how often is counted once, and both branches of a condition are counted.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADER = re.compile(r"^(ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^ +(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
OPERATION = re.compile(r" (?P<op>[a-z][a-z0-9\-]*)\(")
ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[(?P<dims>[\d,]*)\]")
CALLED = re.compile(
    r"\b(?P<how>calls|body|condition|to_apply|true_computation|false_computation)="
    r"%?(?P<one>[\w.\-]+)|\b(?:branch_computations|called_computations)=\{(?P<several>[^}]*)\}"
)
TRIPS = re.compile(r'known_trip_count"?:\{"?n"?:"?(\d+)')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
ESTIMATED = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')
KERNEL = 'custom_call_target="tpu_custom_call"'  # of which the compiler states no cycles
UNKNOWN_CYCLES = 10**15  # the compiler writes the largest number where it does not know
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Instruction(NamedTuple):
    name: str
    op: str
    type: str
    operands: tuple[str, ...]
    rest: str  # all after the operands
    root: bool
    literal: str  # the operands as text


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and dtype in a step: how many, and bytes of their results on a
    device, of all and of the largest."""

    kind: str
    dtype: str
    count: int
    bytes: float
    largest: float


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name, and how often each runs."""

    computations: dict[str, list[Instruction]]
    times: dict[str, int]

    def __iter__(self) -> Iterator[tuple[Instruction, int]]:
        for name, instructions in self.computations.items():
            if self.times[name]:
                yield from ((instruction, self.times[name]) for instruction in instructions)


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows: what is called stands above its caller."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", []
    for line in text.splitlines():
        if line.endswith("{") and (header := HEADER.match(line)):
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header[1] else entry
        elif found := INSTRUCTION.match(line):
            current.append(_instruction(found))
    times = collections.Counter({entry: 1})
    for name in reversed(list(computations)):
        for instruction in computations[name]:
            for how, called in _called(instruction):
                loop = how in ("body", "condition") and instruction.op == "while"
                runs = _trips(instruction, computations) if loop else 1
                times[called] += times[name] * runs
    return Program(computations, dict.fromkeys(computations, 0) | dict(times))


def _instruction(found: re.Match[str]) -> Instruction:
    rest = " " + found["rest"]
    operation = OPERATION.search(rest)
    if operation is None:
        return Instruction(found["name"], "", rest, (), "", False, "")
    end, depth = operation.end(), 1
    while depth and end < len(rest):
        depth += {"(": 1, ")": -1}.get(rest[end], 0)
        end += 1
    inside = rest[operation.end() : end - 1]
    operands = tuple(part.rpartition("%")[2].strip() for part in re.findall(r"%[\w.\-]+", inside))
    kind, root = rest[: operation.start()].strip(), bool(found["root"])
    return Instruction(found["name"], operation["op"], kind, operands, rest[end:], root, inside)


def _called(instruction: Instruction) -> Iterator[tuple[str, str]]:
    for found in CALLED.finditer(instruction.rest):
        if found["one"]:
            yield found["how"], found["one"]
        else:
            for name in found["several"].split(","):
                yield "branch", name.strip().lstrip("%")


def _trips(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop's body runs: as it says, or up to the constant that its condition compares
    with, from 0 in steps of 1, as `lax.scan` counts."""
    if known := TRIPS.search(loop.rest):
        return int(known[1])
    condition = dict(_called(loop)).get("condition", "")
    found = computations.get(condition, [])
    limits = [int(i.literal) for i in found if i.op == "constant" and i.literal.isdigit()]
    return max(limits, default=1)


def arrays(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """The arrays of a type.

    >>> arrays("(bf16[2,3]{1,0}, u32[])")
    [('bf16', (2, 3)), ('u32', ())]
    """
    return [
        (m["dtype"], tuple(int(d) for d in m["dims"].split(",") if d)) for m in ARRAY.finditer(kind)
    ]


def size_of(dtype: str, dims: tuple[int, ...]) -> float:
    """Bytes.

    >>> size_of("u4", (8, 2)), size_of("f8e4m3fn", (3,))
    (8.0, 3.0)
    """
    digits = re.search(r"\d+", dtype)
    return math.prod(dims) * (int(digits[0]) if digits else 8) / 8


def collectives(program: Program) -> list[Collective]:
    """The collectives by kind and dtype, the largest first.

    A collective that overlaps others is spread over several instructions with one channel.
    """
    seen: dict[tuple[str, ...], tuple[str, str, float, int]] = {}
    for place, (instruction, times) in enumerate(program):
        kind = instruction.op.removesuffix("-start")
        if kind not in KINDS:
            continue
        found = [(dtype, size_of(dtype, dims)) for dtype, dims in arrays(instruction.type)]
        # The type of a -start, except of a sum, is its operand, its result, and flags.
        whole = instruction.op.endswith("-start") and kind != "all-reduce"
        dtype, largest = max(found, key=lambda one: one[1])
        size = largest if whole else sum(nbytes for _, nbytes in found)
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        source = re.search(r'op_name="([^"]*)"', instruction.rest)
        shape = re.sub(r"\{[^}]*\}", "", instruction.type)
        which = channel[1] if channel else str(place)
        key = (kind, which, source[1] if source else "", shape)
        before = seen.get(key, ("", "", 0.0, 0))
        seen[key] = (kind, dtype, size, max(times, before[3]))
    of_kind: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for kind, dtype, size, times in seen.values():
        of_kind.setdefault((kind, dtype), []).append((size, times))
    found = [
        Collective(
            *key,
            count=sum(times for _, times in sizes),
            bytes=sum(size * times for size, times in sizes),
            largest=max(size for size, _ in sizes),
        )
        for key, sizes in of_kind.items()
    ]
    return sorted(found, key=lambda one: -one.bytes)


def product_flops(program: Program) -> float:
    """Floating-point operations of all products, two for a multiplication and its addition; those
    of kernels as they state them."""
    total = 0.0
    for name, instructions in program.computations.items():
        if times := program.times[name]:
            types = {instruction.name: instruction.type for instruction in instructions}
            total += times * sum(_flops(instruction, types) for instruction in instructions)
    return total


def _flops(instruction: Instruction, types: dict[str, str]) -> float:
    if instruction.op == "custom-call":
        stated = ESTIMATED.search(instruction.rest)
        return float(stated[1]) if stated else 0.0
    if instruction.op not in ("dot", "convolution"):
        return 0.0
    shapes = [arrays(types.get(operand, "")) for operand in instruction.operands[:2]]
    if not all(shapes):
        shapes = [[array] for array in arrays(instruction.literal)]
    (left, right), out = (shape[0][1] for shape in shapes[:2]), arrays(instruction.type)[0][1]
    if instruction.op == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in axes)
    return _convolution(left, right, out, instruction.rest)


def _convolution(
    left: tuple[int, ...], right: tuple[int, ...], out: tuple[int, ...], rest: str
) -> float:
    """A product of matrices, as a TPU writes them: axes of a window carry batches or blocks, and
    only places inside the left operand are multiplied."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    if labels is None:
        return 0.0
    of_left, of_right, of_out = labels[1], labels[2], labels[3]
    stated = re.search(r"window=\{([^}]*)\}", rest)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", stated[1] if stated else ""))
    total = 2.0 * math.prod(n for n, c in zip(out, of_out, strict=True) if not c.isdigit())
    total *= right[of_right.index("i")]
    for place, axis in enumerate(sorted(c for c in of_out if c.isdigit())):
        sizes = left[of_left.index(axis)], right[of_right.index(axis)], out[of_out.index(axis)]
        total *= _places(*sizes, {key: value.split("x")[place] for key, value in window.items()})
    return total


def _places(left: int, right: int, out: int, window: dict[str, str]) -> int:
    """Pairs of a window's place and its element that meet an element of the left operand.

    >>> _places(8, 8, 1, {}), _places(4, 4, 4, {"pad": "3_0"})
    (8, 10)
    """
    stride, wide = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    step, low = int(window.get("rhs_dilate", 1)), int(window.get("pad", "0_0").split("_")[0])
    at = np.arange(out)[:, None] * stride + np.arange(right) * step - low
    return int(((at >= 0) & (at <= (left - 1) * wide) & (at % wide == 0)).sum())


def cycles(program: Program) -> tuple[float, int]:
    """Cycles of a step by the compiler's cost model, and the number of instructions that it knows
    nothing about, kernels among them. 0 where a compiler states none."""
    total, unknown = 0.0, 0
    for instruction, times in program:
        unknown += KERNEL in instruction.rest
        found = CYCLES.search(instruction.rest)
        if found is None or instruction.op in ("while", "conditional", "call"):
            continue
        known = int(found[1]) < UNKNOWN_CYCLES
        total += times * int(found[1]) * known
        unknown += not known
    return total, unknown
