"""Layers of one kind are stacked; every layer is computed once, in order; a pattern is one scan."""

import numpy as np
import pytest

from mft_jax.models.schedule import LayerKind, schedule

KINDS = {"l": LayerKind(True, False), "G": LayerKind(False, False), "S": LayerKind(False, True)}
PICTURES = {
    "lllll": [(1, {"layers": (0, 1, 2, 3, 4)})],
    "GSS": [(1, {"first_layers": (0,)}), (1, {"layers": (1, 2)})],
    "GGlll": [(1, {"global_layers": (0, 1)}), (1, {"layers": (2, 3, 4)})],
    "lGlGlG": [(3, {"local_layers": (0, 2, 4), "layers": (1, 3, 5)})],
    "llGllGl": [
        (2, {"local_layers": (0, 1, 3, 4), "global_layers": (2, 5)}),
        (1, {"layers": (6,)}),
    ],
    "llGlG": [
        (1, {"local_layers": (0, 1)}),
        (1, {"global_layers": (2,)}),
        (1, {"local_2_layers": (3,)}),
        (1, {"layers": (4,)}),
    ],
}


@pytest.mark.parametrize("kinds", PICTURES)
def test_the_stacks_are_those_of_the_picture(kinds):
    parts = schedule(tuple(KINDS[kind] for kind in kinds))
    made = [(part.periods, {s.name: s.layers for s in part.stacks}) for part in parts]
    assert made == PICTURES[kinds]


@pytest.mark.parametrize("seed", range(50))
def test_every_layer_is_computed_once_in_order_as_what_it_is(seed):
    rng = np.random.default_rng(seed)
    kinds = tuple(KINDS[kind] for kind in rng.choice(["l", "G"], rng.integers(1, 12)))
    kinds *= int(rng.integers(1, 4))
    order, names = [], []
    for part in schedule(kinds):
        names += [stack.name for stack in part.stacks]
        for period in range(part.periods):
            for stack in part.stacks:
                layers = stack.layers[period * stack.run : (period + 1) * stack.run]
                assert {kinds[layer] for layer in layers} == {stack.kind}
                order += layers
        assert all(len(stack.layers) == part.periods * stack.run for stack in part.stacks)
    assert order == list(range(len(kinds)))
    assert len(set(names)) == len(names) and all(name.endswith("layers") for name in names)


def test_the_last_layer_is_the_last_of_layers():
    for kinds in PICTURES:
        *_, last = schedule(tuple(KINDS[kind] for kind in kinds))
        assert last.stacks[-1].name == "layers" and last.stacks[-1].layers[-1] == len(kinds) - 1


def test_more_of_a_pattern_is_no_more_to_compile():
    pattern = (KINDS["l"],) * 5 + (KINDS["G"],)
    sizes = {len(stacks.stacks) for n in (2, 4, 10) for stacks in schedule(pattern * n)}
    assert sizes == {2} and len(schedule(pattern * 10)) == 1
