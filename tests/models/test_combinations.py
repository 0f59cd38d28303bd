"""A combination that no family has is refused with the reason; each allowed one is in use."""

import dataclasses

import pytest

from mft_jax.models.combinations import SUPPORTED, differences
from mft_jax.models.config import DEFAULTS, Experts, ModelConfig
from mft_jax.models.families import FAMILIES
from mft_jax.models.rope import Rope
from mft_jax.types import MftError

PLAIN = ModelConfig(98, 64, 128, 2, 4, 2, 16, 64)
CONFIGS = [
    family.read_config(family.tiny_config(variant))
    for family in FAMILIES.values()
    for variant in family.tiny
]


@pytest.mark.parametrize("combination", SUPPORTED)
def test_every_allowed_value_is_used_by_a_family(combination):
    of_families = [model_config.capabilities for model_config in CONFIGS]
    members = [found for found in of_families if not differences(found, combination, DEFAULTS)]
    for name, values in SUPPORTED[combination].items():
        used = {member[name] for member in members}
        assert used == set(values), f"{name}: no family has {set(values) - used}"


def test_every_capability_is_listed():
    listed = set(DEFAULTS) | {name for values in SUPPORTED.values() for name in values}
    sizes = {
        *("vocab_size", "width", "mlp_width", "num_layers", "num_heads", "num_kv_heads"),
        *("head_width", "max_positions", "norm_epsilon", "rope", "window_layers", "bounded"),
    }
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert fields - sizes <= listed
    assert listed - fields == {"fraction", "interleaved", "scaling"}  # of the rotation


EXPERTS = Experts(num=4, per_token=2, width=64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "layer"}, "norm='layer'"),
        ({"positions": "alibi", "qk_norm": True}, "positions='alibi'"),
        ({"experts": EXPERTS, "mlp": "plain"}, "mlp='plain'"),
        ({"experts": EXPERTS, "block": "parallel"}, "block='parallel'"),
        ({"attention_softcap": 5.0}, "attention_softcap=True"),
        ({"head_bias": True}, "head_bias=True"),
        ({"normalized_head": True, "tied_head": True}, "normalized_head=True"),
        (
            {"rope": Rope(scaling="longrope", short_factors=(1.0,) * 8, long_factors=(1.0,) * 8)},
            "scaling='longrope'",
        ),
        ({"rope": Rope(interleaved=True)}, "interleaved=True"),
        ({"post_norms": True}, "post_norms=True"),
        ({"positions": "learned", "window": 8}, "positions='learned'"),
    ],
)
def test_what_no_family_combines_is_refused_with_the_reason(changes, said):
    with pytest.raises(MftError, match="no supported family combines") as caught:
        dataclasses.replace(PLAIN, **changes)
    assert "the nearest combination is '" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_kv_heads": 3}, "multiple of num_kv_heads=3"),
        ({"head_width": 15}, "expected an even number"),
        ({"window": 8, "window_layers": (True,)}, "window_layers names 1 layers, expected 2"),
        ({"window_layers": (True, False)}, "but window=0; expected its width"),
        (
            {"experts": dataclasses.replace(EXPERTS, dense_layers=2)},
            "dense_layers=2 must be below num_layers=2",
        ),
        ({"experts": dataclasses.replace(EXPERTS, per_token=5)}, "per_token=5 must be between"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changes, said):
    with pytest.raises(MftError, match=said):
        dataclasses.replace(PLAIN, **changes)
