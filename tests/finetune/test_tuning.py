"""full | lora | qlora: what is frozen, what is trained, and where training starts from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.arrays import over_stack
from mft_jax.finetune.attach import init_frozen, init_trainable, store_weight
from mft_jax.finetune.combine import combine, count_parameters
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind, init_params
from mft_jax.models.params import param_infos
from mft_jax.types import MftError
from mft_jax.weights.frozen import QuantizedArray
from mft_jax.weights.nf4 import NF4Array

CONFIG = ModelConfig(98, 64, 128, 2, 4, 2, 16, 64, qkv_bias=True)
INFOS = param_infos(CONFIG)
LINEAR = sorted(path for path in INFOS if INFOS[path].quantizable)
UP = "layers/mlp/up/kernel"
OF_EXPERTS = dataclasses.replace(INFOS[UP], kind="expert_matrix", shape=(2, 4, 64, 128))
EXPERTS = {**INFOS, UP: OF_EXPERTS}


@pytest.fixture(scope="module")
def base():
    return jax.jit(init_params, static_argnums=(0, 1))(CONFIG, 0)


def frozen_params(config: FinetuneConfig, base) -> dict:
    def stored(path, weight):
        def one(layer):
            return store_weight(config, INFOS[path], layer, jnp.float32)

        return over_stack(one, len(INFOS[path].stack))(weight)

    return jax.jit(lambda base: {path: stored(path, w) for path, w in base.items()})(base)


def split(config: FinetuneConfig, base) -> tuple[dict, dict]:
    """(trainable, frozen)"""
    params = frozen_params(config, base)
    return init_trainable(config, params, INFOS, 0), init_frozen(config, params)


@jax.jit
def run(params):
    tokens = jnp.arange(12).reshape(2, 6)
    return bind(CONFIG, params)(tokens, tokens % 6, jnp.ones_like(tokens)).states


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_trainable_tree_holds_only_the_adapters(method, base):
    trainable, frozen = split(FinetuneConfig(method=method, rank=4), base)
    assert sorted(trainable) == LINEAR and set(frozen) == set(INFOS)
    for path, adapter in trainable.items():
        n, d_in, d_out = INFOS[path].shape
        assert adapter["a"].shape == (n, d_in, 4) and adapter["b"].shape == (n, 4, d_out)
        assert np.abs(adapter["a"]).max() <= d_in**-0.5 and np.std(adapter["a"]) > 0
        np.testing.assert_array_equal(adapter["b"], 0.0)
    quantized = [path for path, leaf in frozen.items() if isinstance(leaf, QuantizedArray)]
    assert sorted(quantized) == (LINEAR if method == "qlora" else [])


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_training_starts_at_the_frozen_base_exactly(method, base):
    config = FinetuneConfig(method=method, rank=4)
    trainable, frozen = split(config, base)
    started = run(combine(config, INFOS, trainable, frozen, jnp.float32))
    np.testing.assert_array_equal(started, run(frozen))
    moved = jax.tree.map(lambda x: x + 0.1, trainable)
    assert not np.allclose(run(combine(config, INFOS, moved, frozen, jnp.float32)), started)


def test_full_trains_everything_in_float32_and_freezes_nothing(base):
    config = FinetuneConfig(method="full")
    trainable, frozen = split(config, base)
    assert frozen == {} and set(trainable) == set(INFOS)
    assert all(leaf.dtype == jnp.float32 for leaf in trainable.values())
    computed = combine(config, INFOS, trainable, frozen, jnp.bfloat16)
    for path, leaf in computed.items():
        vector = path.endswith(("scale", "bias"))
        assert leaf.dtype == (jnp.float32 if vector else jnp.bfloat16), path


def test_adapters_differ_between_layers_and_matrices_and_follow_the_seed():
    config = FinetuneConfig(rank=4)
    first, again = (init_trainable(config, {}, INFOS, 0) for _ in range(2))
    other = init_trainable(config, {}, INFOS, 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    a = [
        np.asarray(first[path]["a"]) for path in ("layers/mlp/gate/kernel", "layers/mlp/up/kernel")
    ]
    assert not np.array_equal(a[0], a[1]) and not np.array_equal(a[0][0], a[0][1])
    assert not np.array_equal(a[0], other["layers/mlp/gate/kernel"]["a"])


@pytest.mark.parametrize(
    ("targets", "want"),
    [
        (("all_linear",), [path.split("/", 1)[1].removesuffix("/kernel") for path in LINEAR]),
        (("attention/*",), ["attention/k", "attention/o", "attention/q", "attention/v"]),
        (("attention/[qv]", "mlp/down"), ["attention/q", "attention/v", "mlp/down"]),
        (("*/q", "attention/q"), ["attention/q"]),
    ],
)
def test_targets_are_patterns_over_layer_names(targets, want):
    paths = adapted_paths(FinetuneConfig(targets=targets), INFOS)
    assert paths == [f"layers/{name}/kernel" for name in want]


def test_a_target_that_matches_nothing_is_refused_and_the_choices_named():
    with pytest.raises(
        MftError, match=r"'q_proj' matches no linear layer; .*attention/q, .*mlp/up"
    ):
        adapted_paths(FinetuneConfig(targets=("attention/q", "q_proj")), INFOS)


def test_a_rank_below_one_is_refused():
    with pytest.raises(MftError, match="rank=0"):
        FinetuneConfig(rank=0)


def test_counts_are_those_of_the_trees(base):
    config = FinetuneConfig(method="qlora", rank=4)
    trainable, frozen = split(config, base)
    count = count_parameters(config, INFOS, trainable, jnp.bfloat16)
    assert count.total == sum(leaf.size for leaf in base.values())
    assert count.trainable == sum(leaf.size for leaf in jax.tree.leaves(trainable))
    codes = [leaf for leaf in frozen.values() if isinstance(leaf, NF4Array)]
    bits = [leaf.size * jax.dtypes.itemsize_bits(leaf.dtype) for leaf in jax.tree.leaves(codes)]
    dense = sum(leaf.size for path, leaf in base.items() if not INFOS[path].quantizable)
    assert count.stored_bytes == sum(bits) // 8 + 2 * dense + 4 * count.trainable
    assert count.bits_per_weight == sum(bits) / sum(leaf.codes.size for leaf in codes)


@pytest.mark.parametrize(("method", "bits"), [("lora", 16), ("full", 32)])
def test_dense_weights_count_in_the_dtype_they_are_kept_in(method, bits, base):
    config = FinetuneConfig(method=method)
    trainable, _ = split(config, base)
    count = count_parameters(config, INFOS, trainable, jnp.bfloat16)
    assert count.bits_per_weight == bits


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank=0"),
        ({"loftq_iterations": 0}, "loftq_iterations=0"),
        ({"alpha": 0.0}, "alpha=0 must be above 0"),
        ({"alpha": -1.0}, "alpha=-1"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": 1.0}, "dropout=1 must be below 1"),
        ({"quantization": "none"}, "contradicts method='qlora'"),
        ({"method": "lora", "init": "loftq"}, "what quantisation loses"),
        ({"method": "full", "init": "loftq"}, "init='loftq'"),
        ({"method": "full", "quantization": "nf4", "init": "loftq"}, "has no adapter"),
        ({"method": "full", "init": "pissa"}, "has no adapter"),
        ({"method": "full", "dora": True}, "has no adapter"),
        ({"method": "full", "dropout": 0.1}, "has no adapter"),
        ({"method": "full", "adapter": "x"}, "has no adapter"),
        ({"adapter": "x", "init": "pissa"}, "init='pissa' contradicts adapter='x'"),
    ],
)
def test_what_contradicts_itself_is_refused(options, said):
    with pytest.raises(MftError, match=said):
        FinetuneConfig(**options)


@pytest.mark.parametrize("target", ["embedding", "head", "*"])
def test_dora_has_no_magnitudes_for_tables(target):
    with pytest.raises(MftError, match="dora has no magnitudes for .*(embedding|head)"):
        adapted_paths(FinetuneConfig(dora=True, targets=("all_linear", target)), INFOS)


def test_dora_has_no_magnitudes_for_experts():
    config = FinetuneConfig(dora=True, targets=("mlp/up",))
    with pytest.raises(MftError, match="dora has no magnitudes for mlp/up"):
        adapted_paths(config, EXPERTS)
    assert adapted_paths(dataclasses.replace(config, dora=False), EXPERTS)


def test_all_linear_leaves_experts_and_tables_out():
    paths = adapted_paths(FinetuneConfig(), EXPERTS)
    assert paths == [path for path in LINEAR if path != "layers/mlp/up/kernel"]


def test_a_tied_head_cannot_be_a_target():
    tied = param_infos(dataclasses.replace(CONFIG, tied_head=True))
    assert adapted_paths(FinetuneConfig(targets=("embedding",)), tied) == ["embedding/table"]
    with pytest.raises(MftError, match="'head' matches no linear layer"):
        adapted_paths(FinetuneConfig(targets=("head",)), tied)
