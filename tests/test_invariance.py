"""Sums and counts travel (contract 3.3): a step is the same for any micro-batch, mesh and packing.

Loss, gradient and weights in float64, to 1e-10 of the largest value, for every kind of balancer
(no signal, validation losses, training losses, losses after the step, gradients of tasks) with
every objective.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.arrays import over_stack
from mft_jax.balancers.registry import BALANCERS, BalancerConfig, make_balancer
from mft_jax.data.packing import fill_row
from mft_jax.finetune.attach import init_frozen, init_trainable, store_weight
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.gradients import StepSpec
from mft_jax.losses import FORMS, ObjectiveConfig, make_objective
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import UNSHARDED, init_params
from mft_jax.models.params import param_infos
from mft_jax.sharding import MeshConfig, batch_sharding, make_mesh, placement, tree_shardings
from mft_jax.train_state import TrainState
from mft_jax.train_step import make_train_step
from mft_jax.types import TaskSums, TaskTable

MODEL = ModelConfig(98, 64, 128, 1, 4, 2, 16, 32, qkv_bias=True)
INFOS = param_infos(MODEL)
TABLE = TaskTable(("a", "b", "c", "d"))  # d is absent from every batch
TASKS, LENGTH, ROWS = len(TABLE), 32, 8
TUNING = FinetuneConfig(method="qlora", rank=4, alpha=8.0)
SGD = optax.sgd(0.5)


def samples(seed):
    """16 samples of very uneven tasks, (tokens, weights, task); neighbours fit one row together."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(3, 2 * ROWS, p=[0.6, 0.3, 0.1])
    tasks[:3] = 0, 1, 2
    lengths = rng.integers(5, LENGTH // 2, 2 * ROWS)
    return [
        (rng.integers(0, 98, n), (np.arange(n) >= n // 3).astype(np.float32), int(task))
        for n, task in zip(lengths, tasks, strict=True)
    ]


def rows_of(content, samples_per_row):
    rows = [
        fill_row(*zip(*content[i : i + samples_per_row], strict=True), LENGTH)
        for i in range(0, len(content), samples_per_row)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def start(dtype):
    """(trainable, frozen): random base, adapters with a B that is not zero."""
    params = {path: 3 * w for path, w in jax.jit(lambda: init_params(MODEL, 0))().items()}
    put = functools.partial(store_weight, TUNING, dtype=dtype)
    stored = {
        path: jax.jit(over_stack(functools.partial(put, info), len(info.stack)))(params[path])
        for path, info in INFOS.items()
    }
    trainable = init_trainable(TUNING, stored, INFOS, 0)
    keys = iter(jax.random.split(jax.random.key(1), 99))
    trainable = jax.tree.map(
        lambda x: x.astype(dtype) + 0.1 * jax.random.normal(next(keys), x.shape, dtype), trainable
    )
    return trainable, init_frozen(TUNING, stored)


def make_step(
    balancer_name, objective_name, normalization="batch", dtype="float64", placement=UNSHARDED
):
    config = ObjectiveConfig(objective_name, normalization, vocab_chunk=40)
    expected = {"token": np.array([80.0, 40, 10, 3]), "sample": np.array([10.0, 5, 1, 0.5])}
    objective = make_objective(config, TABLE, expected)
    compute = StepSpec(MODEL, TUNING, objective, dtype, True, placement=placement)
    balancer = make_balancer(
        BalancerConfig(name=balancer_name), TABLE, total_steps=8, valid_micro_batches=1
    )
    return balancer, jax.jit(make_train_step(compute, balancer, SGD, lambda step: 0.5))


def two_steps(names, parts=1, mesh_sizes=(), samples_per_row=2):
    """(losses, weights, update) of two steps, so that every state has been through one."""
    mesh = make_mesh(MeshConfig(*mesh_sizes)) if mesh_sizes else None
    balancer, step = make_step(*names, placement=placement(mesh, INFOS) if mesh else UNSHARDED)
    trainable, frozen = start(jnp.float32 if len(names) > 3 else jnp.float64)
    ones = np.full(TASKS, 4.0)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        trainable,
        SGD.init(trainable),
        balancer.init(TASKS, TaskSums(jnp.asarray(ones * 5), jnp.asarray(ones))),
    )
    place = [lambda x: x] * 2
    if mesh:
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        placed = jax.device_put(trainable, tree_shardings(mesh, INFOS, trainable))
        state = jax.device_put(state, whole)._replace(trainable=placed)
        frozen = jax.device_put(frozen, tree_shardings(mesh, INFOS, frozen))
        place = [functools.partial(jax.device_put, device=batch_sharding(mesh, n)) for n in (1, 0)]
    seen = []
    for seed in (10, 11):
        batch = rows_of(samples(seed), samples_per_row)
        batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        valid = place[1](rows_of(samples(seed + 10), samples_per_row))
        state, metrics = step(state, frozen, place[0](batch), valid)
        seen.append((metrics.loss, metrics.weight, metrics.train, metrics.grad_norm))
    change = jax.tree.map(lambda new, old: np.asarray(new) - old, state.trainable, trainable)
    return jax.device_get((seen, change))


def assert_close(got, want, tolerance):
    def compare(path, got, want):
        atol = tolerance * np.nanmax(np.abs(want), initial=0.0)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, got, want)


KINDS = [
    ("coba", "task_token_mean", "batch"),
    ("lbtw", "token_mean", "dataset"),
    ("famo", "focal_task", "batch"),
    ("gradnorm", "task_sample_mean", "dataset"),
    ("mgda", "focal_sample", "batch"),
]
ARRANGEMENTS = {
    "8 micro-batches of 1 row": {"parts": 8},
    "2 micro-batches of unpacked rows on 2x2x2 devices": {
        "parts": 2,
        "samples_per_row": 1,
        "mesh_sizes": (2, 2, 2),
    },
}


@pytest.mark.parametrize("names", KINDS, ids="-".join)
def test_a_step_is_invariant_to_micro_batch_size_device_count_and_packing(names):
    with jax.enable_x64(True):
        want = two_steps(names)
        assert np.ptp(want[0][1][1]) > 1e-4, "the balancer has something to say"
        for arrangement in ARRANGEMENTS.values():
            assert_close(two_steps(names, **arrangement), want, 1e-10)


def test_in_bfloat16_it_is_invariant_to_the_rounding_of_a_gradient():
    """Products of 8 bits, summed in another order: 0.5 % of a loss, 5 % of the update's norm.

    No leaf of the update and no weights (CoBa's follow from small differences of losses) move more
    than bfloat16 itself moves them from float32.
    """
    names = ("coba", "task_token_mean", "batch", "bfloat16")
    want, split = (two_steps(names, parts=parts) for parts in (1, 8))
    exact = two_steps((*names[:3], "float32"))
    measured = [[(loss, train, norm) for loss, _, train, norm in seen] for seen, _ in (split, want)]
    assert_close(*measured, 5e-3)
    squares = np.zeros(2)
    moved = [[seen[1][1], *jax.tree.leaves(update)] for seen, update in (split, want, exact)]
    for got, leaf, precise in zip(*moved, strict=True):
        assert np.linalg.norm(got - leaf) < np.linalg.norm(leaf - precise)
    for got, leaf in zip(*(jax.tree.leaves(update) for _, update in (split, want)), strict=True):
        squares += np.square([np.linalg.norm(got - leaf), np.linalg.norm(leaf)])
    assert squares[0] < 0.05**2 * squares[1]


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_steps_with_an_absent_task(name):
    objectives = sorted(FORMS)
    objective = objectives[sorted(BALANCERS).index(name) % len(objectives)]
    (seen, change) = two_steps((name, objective, "batch", "float32"))
    for loss, weight, train, _ in seen:
        assert np.isfinite(loss) and train.count[3] == 0
        np.testing.assert_allclose(np.abs(weight).sum(), 1.0, rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(change))
