"""Per-task gradients cost one backward pass (contract 3.5), and weights may follow from losses.

Everything in float64: LoRA on an NF4 base, stacked layers under scan and remat, packed rows that
mix tasks. The oracle differentiates every task's term by itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax import gradients, losses
from mft_jax.arrays import over_stack
from mft_jax.data.packing import fill_row
from mft_jax.finetune import combine
from mft_jax.finetune.attach import init_frozen, init_trainable, store_weight
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.gradients import StepSpec
from mft_jax.losses import ObjectiveConfig, make_objective
from mft_jax.models import attention_rule
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import init_params
from mft_jax.models.params import param_infos
from mft_jax.types import TaskTable

MODEL = ModelConfig(98, 64, 128, 2, 4, 2, 16, 32, qkv_bias=True)
INFOS = param_infos(MODEL)
TABLE = TaskTable(("a", "b", "c", "d"))  # d is absent from every batch
TASKS, LENGTH = len(TABLE), 24
EXPECTED = {"token": np.array([40.0, 30.0, 10.0, 5.0]), "sample": np.array([4.0, 3.0, 2.0, 1.0])}
# One of every kind: by task, pooled, focal by sample, and focal by task, which is not linear.
OBJECTIVES = ["task_token_mean", "token_mean", "focal_sample", "focal_task"]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tuning_for(method) -> FinetuneConfig:
    if method == "dora":
        return FinetuneConfig(rank=4, alpha=8.0, dora=True, dropout=0.3)
    return FinetuneConfig(method=method, rank=4, alpha=8.0)


def compute_for(method="qlora", **objective) -> StepSpec:
    tuning = tuning_for(method)
    made = make_objective(ObjectiveConfig(vocab_chunk=40, **objective), TABLE, EXPECTED)
    return StepSpec(MODEL, tuning, made, "float64", remat=True)


def start(method="qlora"):
    """(trainable, frozen) in float64: adapters with a B that is not zero."""
    tuning = tuning_for(method)
    params = {path: 3 * w for path, w in jax.jit(lambda: init_params(MODEL, 0))().items()}
    put = functools.partial(store_weight, tuning, dtype=jnp.float64)
    stored = {
        path: over_stack(functools.partial(put, info), len(info.stack))(params[path])
        for path, info in INFOS.items()
    }
    trainable = init_trainable(tuning, stored, INFOS, 0)
    keys = iter(jax.random.split(jax.random.key(1), 99))
    trainable = jax.tree.map(
        lambda x: x.astype(jnp.float64) + 0.1 * jax.random.normal(next(keys), x.shape), trainable
    )
    return trainable, init_frozen(tuning, stored)


def batch_of(micro_batches: int = 1):
    """4 rows of 2 or 3 segments; every row mixes tasks."""
    rng = np.random.default_rng(0)
    rows = []
    for tasks in ((0, 1), (0, 0, 2), (1, 0), (0, 1, 1)):
        lengths = rng.integers(5, LENGTH // len(tasks) + 1, len(tasks))
        tokens = [rng.integers(0, 98, n) for n in lengths]
        weights = [(np.arange(n) >= n // 3).astype(np.float32) for n in lengths]
        rows.append(fill_row(tokens, weights, tasks, LENGTH))
    batch = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *rows)
    return jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)


def loss_of(compute, frozen, batch, weight):
    """The objective as a plain function of the trainable tree."""

    def loss(trainable):
        run = gradients.measurer(compute, frozen)
        stats = gradients.measure_all(run, trainable, batch)
        counts = gradients.batch_counts(compute.objective, batch)
        return losses.total_loss(compute.objective, stats.features, counts, weight)

    return loss


def one_by_one(compute, trainable, frozen, batch, key=None):
    """[T, ...]: a task alone in the objective with equal weights, times K."""
    one_hot = jnp.eye(TASKS)

    def term(trainable, mask):
        run = gradients.measurer(compute, frozen, key)
        stats = gradients.measure_all(run, trainable, batch)
        counts = gradients.batch_counts(compute.objective, batch)
        objective = compute.objective._replace(alpha=mask)
        equal = jnp.full(TASKS, 1.0 / TASKS)
        return TASKS * losses.total_loss(objective, stats.features, counts, equal)

    alone = jax.jit(jax.grad(term))
    rows = [alone(trainable, mask) for mask in one_hot]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def worst(got, want) -> float:
    """Largest error relative to the largest value of a leaf."""
    errors = jax.tree.map(
        lambda g, w: float(jnp.abs(g - w).max() / jnp.maximum(jnp.abs(w).max(), 1e-30)), got, want
    )
    return max(jax.tree.leaves(errors))


@functools.cache
def both(method="qlora", name="task_token_mean", normalization="batch", micro_batches=1):
    """(task gradients, the oracle's rows, compute, frozen, trainable, batch)"""
    compute = compute_for(method, name=name, normalization=normalization)
    trainable, frozen = start(method)
    batch = batch_of(micro_batches)
    run = jax.jit(functools.partial(gradients.task_gradients, compute))
    key = gradients.step_key(compute, jnp.array(5))  # None but for what drops out
    stats, got = run(trainable, frozen, batch, key)
    want = one_by_one(compute, trainable, frozen, batch, key)
    return stats, got, want, compute, frozen, trainable


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_backward_gives_every_tasks_own_gradient(name):
    _, got, want, *_ = both(name=name)
    assert worst(got.rows, want) < 1e-12
    assert all(np.abs(leaf[:3]).max() > 1e-4 for leaf in jax.tree.leaves(got.rows))
    assert all(np.abs(leaf[3]).max() == 0 for leaf in jax.tree.leaves(got.rows))


@pytest.mark.parametrize("method", ["lora", "full", "dora"])
def test_dense_bases_full_training_and_magnitudes_that_drop_out_too(method):
    _, got, want, *_ = both(method)
    assert worst(got.rows, want) < 1e-11  # norm scales of nearly no gradient among the full tree


def test_attention_that_leaks_between_segments_is_found_out(monkeypatch):
    def leaking(inputs, window=0):
        rows, length = inputs.segment_ids.shape
        causal = jnp.tril(jnp.ones((length, length), bool))
        return jnp.broadcast_to(causal, (rows, length, length))

    monkeypatch.setattr(attention_rule, "visible", leaking)
    compute, (trainable, frozen) = compute_for(), start()
    batch = batch_of()
    _, got = gradients.task_gradients(compute, trainable, frozen, batch)
    assert worst(got.rows, one_by_one(compute, trainable, frozen, batch)) > 1e-2


@pytest.mark.parametrize(
    ("name", "normalization"),
    [(name, "batch") for name in OBJECTIVES]
    + [("token_mean", "dataset"), ("focal_task", "dataset")],
)
def test_task_gradients_combine_to_the_gradient_of_the_objective(name, normalization):
    _, got, _, compute, frozen, trainable = both(name=name, normalization=normalization)
    weight = jnp.array([0.1, 0.5, 0.3, 0.1])
    want = jax.jit(jax.grad(loss_of(compute, frozen, batch_of(), weight)))(trainable)
    assert worst(got.combine(compute.objective, weight), want) < 1e-11


@pytest.mark.parametrize(
    ("name", "ahead"), [("task_token_mean", True), ("sample_mean", False), ("focal_task", False)]
)
def test_gradients_and_statistics_are_the_same_for_any_accumulation(name, ahead):
    compute, (trainable, frozen) = compute_for(name=name), start()
    objective = compute.objective
    weight = jnp.array([0.1, 0.5, 0.3, 0.1])

    @functools.partial(jax.jit, static_argnums=0)
    def run(parts):
        batch = batch_of(parts)
        counts = gradients.batch_counts(objective, batch)

        def choose(stats):
            assert (stats is None) == ahead
            return gradients.slopes(objective, stats, counts, weight), None

        measure = gradients.measurer(compute, frozen)
        stats, grads, _ = gradients.backward(measure, trainable, batch, choose, ahead=ahead)
        return losses.mean_losses(objective, stats.features, counts), grads

    want = jax.jit(jax.grad(loss_of(compute, frozen, batch_of(), weight)))(trainable)
    reference = run(1)[0]
    for parts in (1, 2, 4):
        sums, grads = run(parts)
        assert worst(grads, want) < 1e-11
        assert worst(sums, reference) < 1e-12


def test_task_gradients_are_the_same_for_any_accumulation():
    _, one, *_ = both(name="focal_task")
    _, four, *_ = both(name="focal_task", micro_batches=4)
    assert worst(four.rows, one.rows) < 1e-11


def test_gramian_is_that_of_the_flattened_gradients_and_of_the_last_block_alone():
    _, got, *_ = both()
    flat = np.concatenate([np.reshape(x, (TASKS, -1)) for x in jax.tree.leaves(got.rows)], axis=1)
    compute = compute_for()
    np.testing.assert_allclose(
        gradients.gramian(compute, "all", got.rows, got.rows), flat @ flat.T, rtol=1e-12
    )
    last = [np.reshape(x[:, -1], (TASKS, -1)) for x in jax.tree.leaves(got.rows)]
    flat = np.concatenate(last, axis=1)
    made = gradients.gramian(compute, "last_block", got.rows, got.rows)
    np.testing.assert_allclose(made, flat @ flat.T, rtol=1e-12)


def test_validation_gradients_are_those_of_mean_nll_whatever_the_objective():
    compute = compute_for(name="focal_task", alpha={"a": 3.0})
    trainable, frozen = start()
    batch = jax.tree.map(lambda x: x[0], batch_of())
    got = gradients.valid_gradients(compute, trainable, frozen, batch)
    _, plain, *_ = both()
    # The mean nll of KDD Eq. 1's terms: 3 of 4 tasks are present, each has a third, times 4.
    assert worst(jax.tree.map(lambda x: x, got), plain.rows) < 1e-11


def test_combined_adapters_compute_what_lora_computes():
    trainable, frozen = start()
    tuning = FinetuneConfig(method="qlora", rank=4, alpha=8.0)
    path = "layers/mlp/up/kernel"
    x = jax.random.normal(jax.random.key(0), (2, 3, 64), jnp.float64)
    ids = jnp.array([[0, 1, 2], [3, 0, 0]])
    repeated = combine.repeat_by_task(trainable, TASKS)
    assert repeated[path]["a"].shape == (2, TASKS, 64, 4)
    plain = combine.combine(tuning, INFOS, trainable, frozen, jnp.float64)[path]
    split = combine.combine_by_task(tuning, INFOS, repeated, frozen, jnp.float64, ids)[path]
    first = [jax.tree.map(lambda w: w[0], weight) for weight in (plain, split)]
    np.testing.assert_array_equal(x @ first[0], x @ first[1])
