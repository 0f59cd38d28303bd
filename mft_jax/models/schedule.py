"""The stacks of a decoder's layers and the order in which they are computed.

Layers of one kind are stacked, so that the properties of the kind (the window, the rotation,
whether there are experts) are static while `lax.scan` runs over a stack. Kinds that alternate are
scanned together, period by period, so that compile time does not grow with depth:

    layers      l l l l l G l l l l l G l l     l: local (with the window), G: global
    parts       [ l l l l l G ] x 2     [ l l ] x 1
    stacks      local_layers [10], global_layers [2]; layers [2]
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple


class LayerKind(NamedTuple):
    """Properties in which layers of a model may differ.

    local   whether the layer uses the window, and `local_rope` where there is one
    sparse  whether it has experts in place of the feed-forward
    """

    local: bool
    sparse: bool


class Stack(NamedTuple):
    """Layers of one kind whose parameters share a leading axis, by their numbers in the model.
    In a period, `run` of them follow each other."""

    name: str
    kind: LayerKind
    layers: tuple[int, ...]
    run: int


class Part(NamedTuple):
    """Stacks that alternate: the next `run` layers of each, `periods` times. A stack without a
    pattern is a part of one period."""

    stacks: tuple[Stack, ...]
    periods: int


@functools.lru_cache(maxsize=64)
def schedule(kinds: tuple[LayerKind, ...]) -> tuple[Part, ...]:
    """The parts of layers of these kinds, in order of computation.

    The stack that holds the last layer is called `layers`. The others are called by their kind:
    `local_layers`, `global_layers`, `first_layers` (without experts, before layers with them); a
    further one of the same kind is numbered, `local_2_layers`.
    """
    runs = [(kind, len([*group])) for kind, group in itertools.groupby(kinds)]
    patterns: list[tuple[list[tuple[LayerKind, int]], int]] = []
    while runs:
        length, periods = _longest_pattern(runs)
        patterns.append((runs[:length], periods))
        runs = runs[length * periods :]
    names = iter(_names([kind for pattern, _ in patterns for kind, _ in pattern]))
    parts, first = [], 0
    for pattern, periods in patterns:
        period = sum(run for _, run in pattern)
        stacks, start = [], first
        for kind, run in pattern:
            layers = (start + n * period + i for n in range(periods) for i in range(run))
            stacks.append(Stack(next(names), kind, tuple(layers), run))
            start += run
        parts.append(Part(tuple(stacks), periods))
        first += period * periods
    return tuple(parts)


def _longest_pattern(runs: Sequence[tuple[LayerKind, int]]) -> tuple[int, int]:
    """(length, repetitions) of the pattern at the start of `runs` that covers most of them; one
    run where nothing is repeated."""
    best = (1, 1)
    for length in range(2, len(runs) // 2 + 1):
        periods = 1
        while runs[periods * length : (periods + 1) * length] == runs[:length]:
            periods += 1
        if periods > 1 and length * periods > best[0] * best[1]:
            best = (length, periods)
    return best


def _names(kinds: list[LayerKind]) -> list[str]:
    """One name per stack, in order of computation."""
    windows, experts = len({kind.local for kind in kinds}) > 1, any(kind.sparse for kind in kinds)
    names: list[str] = []
    for index, kind in enumerate(kinds[:-1]):
        words = ["first"] if experts and not kind.sparse else []
        words += ["local" if kind.local else "global"] if windows else []
        number = 1 + kinds[:index].count(kind)
        words += [str(number)] if number > 1 else []
        names.append("_".join([*words, "layers"]))
    return [*names, "layers"]
