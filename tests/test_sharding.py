"""Where every leaf lies on a mesh, what is refused, and what travels between devices."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mft_jax import sharding
from mft_jax.arrays import over_stack
from mft_jax.finetune.attach import store_weight, trainable_shapes
from mft_jax.finetune.combine import combine
from mft_jax.finetune.tuning import FinetuneConfig, adapted_paths
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import UNSHARDED, bind
from mft_jax.models.params import param_infos
from mft_jax.sharding import (
    MeshConfig,
    batch_sharding,
    leaf_shardings,
    make_mesh,
    placement,
    process_rows,
    rows_on_devices,
    tree_shardings,
)
from mft_jax.types import MftError
from mft_jax.weights.storage import quantize

CONFIG = ModelConfig(98, 64, 128, 2, 4, 2, 16, 64, qkv_bias=True)
INFOS = param_infos(CONFIG)
GATE, DOWN = INFOS["layers/mlp/gate/kernel"], INFOS["layers/mlp/down/kernel"]


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(2, 2, 2))


def stack(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def quantized(dtype: str, *shape: int):
    return jax.eval_shape(jax.vmap(lambda w: quantize(w, dtype)), stack(*shape))


def test_one_axis_may_take_what_the_others_leave_over():
    assert dict(make_mesh(MeshConfig(-1, 2, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]).shape)["data"] == 1


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (-1, 0, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(MftError, match="does not fit 8 devices"):
        make_mesh(MeshConfig(*sizes))


def test_every_logical_axis_has_a_rule():
    assert {axis for info in INFOS.values() for axis in info.axes} <= sharding.RULES.keys()


def test_rows_lie_over_data_and_fsdp_and_micro_batches_stay_whole(mesh):
    assert sharding.batch_sharding(mesh).spec == P(("data", "fsdp"), None)
    assert sharding.batch_sharding(mesh, 1).spec == P(None, ("data", "fsdp"), None)
    assert sharding.rows_divisor(mesh) == 4


def test_codes_and_scales_lie_as_their_weight(mesh):
    dense = leaf_shardings(mesh, GATE, stack(2, 128, 512)).spec
    assert dense == P(None, "fsdp", "tensor")
    nf4 = leaf_shardings(mesh, GATE, quantized("nf4", 2, 128, 512))
    assert nf4.codes.spec == nf4.scale_codes.spec == dense
    assert nf4.scale_min.spec == nf4.scale_step.spec == P(None, "fsdp", None)
    int4 = leaf_shardings(mesh, GATE, quantized("int4", 2, 128, 512))
    assert int4.codes.spec == int4.group_scales.spec == dense


def test_scale_rows_that_do_not_divide_are_whole_on_every_device(mesh):
    nf4 = leaf_shardings(mesh, GATE, quantized("nf4", 2, 64, 512))
    assert nf4.codes.spec == P(None, "fsdp", "tensor")
    assert nf4.scale_codes.spec == P(None, None, "tensor")


def test_an_adapter_lies_along_the_axis_it_shares_with_its_weight_over_all_that_divides(mesh):
    adapter = {"a": stack(2, 128, 8), "b": stack(2, 8, 64)}
    made = leaf_shardings(mesh, DOWN, adapter)
    assert made["a"].spec == P(None, ("tensor", "fsdp"), None)
    assert made["b"].spec == P(None, None, ("fsdp", "tensor"))
    by_weight = leaf_shardings(mesh, DOWN, {"a": stack(2, 126, 8), "b": stack(2, 8, 66)})
    assert by_weight["a"].spec == P(None, "tensor", None)
    assert by_weight["b"].spec == P(None, None, "fsdp")
    table = leaf_shardings(mesh, INFOS["embedding/table"], {"a": stack(96, 8), "b": stack(8, 64)})
    assert table["a"].spec == P("tensor", None)


def test_each_device_stores_its_share_of_the_adapters(mesh):
    shapes = trainable_shapes(FinetuneConfig(rank=4), INFOS)
    places = tree_shardings(mesh, INFOS, shapes)
    leaves = list(zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True))
    here = sum(math.prod(place.shard_shape(leaf.shape)) for leaf, place in leaves)
    assert here == sum(leaf.size for leaf, _ in leaves) // 4


def test_a_weight_that_the_mesh_does_not_divide_is_refused_by_name(mesh):
    with pytest.raises(MftError, match=r"embedding/table: axis 'vocab' of size 97 .*tensor=2"):
        leaf_shardings(mesh, INFOS["embedding/table"], stack(97, 64))
    with pytest.raises(MftError, match=r"gate/kernel: axis 'embed' of size 65"):
        leaf_shardings(mesh, GATE, stack(2, 65, 64))


# What travels ------------------------------------------------------------------------------------

ROWS, LENGTH = 8, 16
MOVED = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def moved(mesh, where):
    """Every (dtype, shape) that devices exchange in a QLoRA step's forward and backward pass."""
    tuning = FinetuneConfig(rank=4)
    how = {"dtype": "bfloat16", "adapted": frozenset(adapted_paths(tuning, INFOS))}

    def store(info):
        one = functools.partial(store_weight, tuning, info, **how)
        return jax.eval_shape(over_stack(one, len(info.stack)), info.struct)

    frozen = {path: store(info) for path, info in INFOS.items()}
    trees = [trainable_shapes(tuning, INFOS), frozen]
    placed = [
        jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            tree,
            tree_shardings(mesh, INFOS, tree),
        )
        for tree in trees
    ]
    ids = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=batch_sharding(mesh))

    def loss(trainable, frozen, ids):
        model = bind(CONFIG, combine(tuning, INFOS, trainable, frozen, "bfloat16"))
        hidden = model(ids, ids, ids, dtype=jnp.bfloat16, placement=where(mesh))
        return hidden.states.astype(jnp.float32).sum()

    text = jax.jit(jax.grad(loss)).lower(*placed, ids).compile().as_text()
    found = [
        shape for kinds in MOVED.findall(text) for shape in re.findall(r"(\w+)\[(.*?)\]", kinds)
    ]
    return {(kind, tuple(map(int, shape.split(",")))) for kind, shape in found if shape}


def of_other_rows(mesh, shapes):
    """Activations as wide as the model, of more rows than a device has."""
    own = ROWS // sharding.rows_divisor(mesh)
    return {
        (kind, s)
        for kind, s in shapes
        if len(s) > 2 and s[0] > own and s[1] == LENGTH and math.prod(s[2:]) >= CONFIG.width
    }


@pytest.mark.parametrize("sizes", [pytest.param((1, 8, 1), marks=pytest.mark.slow), (2, 4, 1)])
def test_activations_stay_with_their_rows_and_frozen_weights_travel_as_codes(sizes):
    mesh = make_mesh(MeshConfig(*sizes))
    assert of_other_rows(
        mesh, moved(mesh, lambda mesh: UNSHARDED)
    )  # what the compiler does by itself
    shapes = moved(mesh, lambda mesh: placement(mesh, INFOS))
    assert not of_other_rows(mesh, shapes)
    large = {kind for kind, shape in shapes if math.prod(shape) >= 64 * 64}
    assert large and large <= {"u4", "u8"}, shapes


AXES = ("data", "fsdp", "tensor")


def test_rows_of_a_process_are_those_of_its_devices():
    by_rows = np.array([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])  # process of [data, fsdp, tensor]
    assert rows_on_devices(by_rows, AXES, 0, 8) == (0, 1, 2, 3)
    assert rows_on_devices(by_rows, AXES, 1, 8) == (4, 5, 6, 7)
    fsdp_spans_processes = np.array([[[0, 0], [1, 1]], [[0, 0], [1, 1]]])
    assert rows_on_devices(fsdp_spans_processes, AXES, 0, 8) == (0, 1, 4, 5)
    assert rows_on_devices(fsdp_spans_processes, AXES, 1, 8) == (2, 3, 6, 7)


def test_processes_that_share_rows_along_tensor_provide_the_same_ones():
    two = np.array([[[0, 1], [0, 1]], [[0, 1], [0, 1]]])
    assert rows_on_devices(two, AXES, 0, 8) == rows_on_devices(two, AXES, 1, 8) == tuple(range(8))
    four = np.array([[[0, 1]], [[2, 3]]])
    rows = [rows_on_devices(four, AXES, process, 4) for process in range(4)]
    assert rows == [(0, 1), (0, 1), (2, 3), (2, 3)]
    moved = np.moveaxis(four, 2, 0)
    assert rows == [rows_on_devices(moved, ("tensor", "data", "fsdp"), p, 4) for p in range(4)]


def test_rows_of_a_process_are_the_parts_that_jax_puts_on_its_devices(mesh):
    """Every device as a process of its own, against the sharding of a batch."""
    ids = np.vectorize(lambda device: device.id)(mesh.devices)
    places = batch_sharding(mesh).devices_indices_map((8, 1))
    for device, (rows, _) in places.items():
        assert rows_on_devices(ids, AXES, device.id, 8) == tuple(range(8)[rows])
    assert process_rows(mesh, jax.process_index(), 8) == tuple(range(8))


def test_rows_that_the_devices_do_not_divide_are_an_error():
    with pytest.raises(ValueError, match="6 rows cannot be cut into 4 equal parts"):
        rows_on_devices(np.zeros((2, 2, 1), int), AXES, 0, 6)
