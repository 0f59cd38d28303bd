"""A step is the gradient of its objective under the balancer's weights, and an update by it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.balancers.base import Balancer, RunFacts
from mft_jax.balancers.uniform import uniform
from mft_jax.data.packing import fill_row
from mft_jax.finetune import combine
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.forward import StepSpec, task_nll
from mft_jax.losses import ObjectiveConfig, make_objective
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import bind
from mft_jax.models.params import param_infos
from mft_jax.optim import OptimConfig, learning_rate, optimizer
from mft_jax.testing import toy_weights
from mft_jax.train_state import TrainState
from mft_jax.train_step import make_train_step
from mft_jax.types import Batch, TaskSums, TaskTable

MODEL = ModelConfig(98, 64, 128, 2, 4, 2, 16, 32, qkv_bias=True)
INFOS = param_infos(MODEL)
TASKS = 4  # the last is absent from every batch
LENGTH, ROWS = 32, 8
RATE = 0.5


def spec_for(method: str) -> StepSpec:
    tuning = FinetuneConfig(method=method, rank=4, alpha=8.0)
    objective_config = ObjectiveConfig("task_token_mean")
    objective = make_objective(objective_config, TaskTable(("a", "b", "c", "d")), {})
    return StepSpec(
        MODEL,
        tuning,
        objective,
        "float32",
        remat="none" if method == "qlora" else "block",
        loss_chunk=5,
    )


class Sample(NamedTuple):
    tokens: np.ndarray
    weights: np.ndarray
    task: int


def samples(seed: int) -> list[Sample]:
    """16 samples of very uneven tasks; neighbours fit one row together."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, LENGTH // 2, 2 * ROWS)
    tasks = rng.choice(3, 2 * ROWS, p=[0.6, 0.3, 0.1])
    tasks[:3] = 0, 1, 2
    return [
        Sample(rng.integers(0, 98, n), (np.arange(n) >= n // 3).astype(np.float32), task)
        for n, task in zip(lengths, tasks.tolist(), strict=True)
    ]


def rows_of(content: list[Sample], samples_per_row: int) -> Batch:
    rows = [
        fill_row(*zip(*content[i : i + samples_per_row], strict=True), LENGTH)
        for i in range(0, len(content), samples_per_row)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def micro_batched(batch: Batch, parts: int) -> Batch:
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)


@functools.cache
def start(method: str):
    """(trainable, frozen): random base, adapters with a B that is not zero."""
    trainable, frozen = toy_weights(MODEL, spec_for(method).tuning, noise=0.0)
    if method != "full":
        trainable = {
            path: {"a": ab["a"], "b": 0.1 * jax.random.normal(jax.random.key(1), ab["b"].shape)}
            for path, ab in trainable.items()
        }
    return trainable, frozen


def state_of(trainable, balancer_state, step: int = 0) -> TrainState:
    return TrainState(jnp.asarray(step, jnp.int32), trainable, SGD.init(trainable), balancer_state)


SGD = optax.sgd(RATE)  # an update is the gradient, not its sign


@functools.cache
def compiled(method: str, balancer: Balancer):
    return jax.jit(make_train_step(spec_for(method), balancer, SGD, lambda step: RATE))


# Its state is its weights, so any constant weights can be set.
UNIFORM = uniform(None, RunFacts(TaskTable(("any",)), 9, 1))
BATCHES = [(samples(10 + i), samples(20 + i)) for i in range(3)]


def one_step(method: str, batch: Batch, weight) -> tuple:
    trainable, frozen = start(method)
    before = state_of(trainable, jnp.asarray(weight, jnp.float32))
    state, metrics = compiled(method, UNIFORM)(before, frozen, micro_batched(batch, 1), batch)
    gradient = jax.tree.map(lambda new, old: (old - new) / RATE, state.trainable, trainable)
    return state, metrics, gradient


LORA = pytest.param("lora", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", [LORA, "full"])
def test_loss_and_gradient_are_those_of_the_equation_over_whole_logits(method):
    batch = jax.tree.map(jnp.asarray, rows_of(samples(0), 2))
    weight = np.float32([0.2, 0.3, 0.1, 0.4])
    trainable, frozen = start(method)
    _, metrics, gradient = one_step(method, batch, weight)

    @jax.jit
    @jax.value_and_grad
    def equation_1(trainable):
        tuning = spec_for(method).tuning
        model = bind(MODEL, combine.combine(tuning, INFOS, trainable, frozen, jnp.float32))
        hidden = model(batch.tokens, batch.positions, batch.segment_ids).states
        log_probability = jax.nn.log_softmax(hidden @ model.logit_head().table.T)
        nll = -jnp.take_along_axis(log_probability, batch.targets[..., None], axis=-1)[..., 0]
        mine = [(batch.task_ids == t) & (batch.loss_weights > 0) for t in range(3)]
        means = [jnp.where(mask, nll, 0.0).sum() / mask.sum() for mask in mine]
        return sum(w * mean for w, mean in zip(weight[:3], means, strict=True)) / weight[:3].sum()

    want, want_gradient = equation_1(trainable)
    np.testing.assert_allclose(metrics.loss, want, rtol=1e-5)
    # The gradient is read off updated parameters, which rounds it to their precision.
    for got, exact in zip(*map(jax.tree.leaves, (gradient, want_gradient)), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(want_gradient), rtol=1e-5)


def test_every_trainable_leaf_moves_and_the_step_is_counted():
    state, metrics, gradient = one_step("full", rows_of(samples(0), 2), np.full(4, 0.25))
    assert int(state.step) == 1 and set(state.trainable) == set(INFOS)
    # A key's bias shifts all scores of a query alike, which a softmax does not see.
    moved = {path for path, g in gradient.items() if np.any(g != 0)}
    assert moved >= set(state.trainable) - {"layers/attention/k/bias"}
    assert float(metrics.learning_rate) == RATE


@pytest.mark.parametrize("method", [LORA, "qlora"])
def test_a_frozen_method_changes_only_adapters(method):
    state, _, gradient = one_step(method, rows_of(samples(0), 2), np.full(4, 0.25))
    assert set(state.trainable) == {path for path, info in INFOS.items() if info.quantizable}
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_metrics_count_valid_targets_and_real_tokens_per_task():
    content = samples(0)
    _, metrics, _ = one_step("qlora", rows_of(content, 2), np.full(4, 0.25))
    for task in range(TASKS):
        mine = [sample for sample in content if sample.task == task]
        assert metrics.tokens[task] == sum(len(sample.tokens) for sample in mine)
        assert metrics.train.count[task] == sum(sample.weights[1:].sum() for sample in mine)


def test_an_absent_task_contributes_nothing_whatever_its_weight():
    batch = rows_of(samples(0), 2)
    _, with_weight, gradient = one_step("qlora", batch, [0.2, 0.3, 0.1, 0.4])
    _, without, want = one_step("qlora", batch, np.array([0.2, 0.3, 0.1, 0.0]) / 0.6)
    assert with_weight.train.count[3] == 0
    np.testing.assert_allclose(with_weight.loss, without.loss, rtol=1e-6)
    for got, expected in zip(*map(jax.tree.leaves, (gradient, want)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)


def test_a_batch_without_a_valid_token_changes_nothing_and_is_not_nan():
    batch = rows_of(samples(0), 2)
    batch = batch._replace(loss_weights=np.zeros_like(batch.loss_weights))
    state, metrics, _ = one_step("qlora", batch, np.full(4, 0.25))
    assert float(metrics.loss) == 0.0 and float(metrics.grad_norm) == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.trainable, start("qlora")[0])


def test_a_step_that_is_not_finite_changes_nothing_but_its_number():
    state, metrics, _ = one_step("qlora", rows_of(samples(0), 2), np.full(4, np.nan))
    assert not np.isfinite(metrics.loss) and int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, state.trainable, start("qlora")[0])


def spy() -> Balancer:
    """A balancer that measures in every second step; its state is the losses that it received,
    before and after the update.
    """

    def update(state, signals):
        seen = signals.valid_losses
        mean = seen.sum / jnp.maximum(seen.count, 1.0)
        return jax.nn.softmax(3 * mean), (seen, state[1])

    def after_step(state, losses):
        return state[0], losses

    def init(num_tasks, _):
        nothing = TaskSums(*jnp.zeros((2, num_tasks)))
        return nothing, nothing

    def logs(state):
        return state[0]._asdict() | {"after": state[1].sum}

    needs = frozenset({"valid_losses", "post_step_valid_losses"})
    return Balancer(init, update, logs, needs, 2, after_step)


@pytest.fixture(scope="module")
def spied():
    """(states, metrics) before and after each of three steps of `spy`."""
    trainable, frozen = start("qlora")
    balancer = spy()
    states, metrics = [state_of(trainable, balancer.init(TASKS, None))], []
    for train, valid in BATCHES:
        batch = micro_batched(rows_of(train, 2), 1)
        state, out = compiled("qlora", balancer)(states[-1], frozen, batch, rows_of(valid, 2))
        states.append(state)
        metrics.append(out)
    return states, metrics


def test_validation_is_measured_every_so_many_steps_and_absent_in_between(spied):
    states, metrics = spied
    assert [bool(m.balancer["count"].sum() > 0) for m in metrics] == [True, False, True]
    np.testing.assert_allclose(metrics[1].balancer["sum"], 0.0)
    np.testing.assert_allclose(metrics[1].balancer["after"], 0.0)
    evaluate = jax.jit(functools.partial(task_nll, spec_for("qlora")))
    for step in (0, 2):
        valid = jax.tree.map(jnp.asarray, rows_of(BATCHES[step][1], 2))
        # Under the parameters before the update, and under those after it.
        for name, state in (("sum", states[step]), ("after", states[step + 1])):
            want = evaluate(state.trainable, start("qlora")[1], valid)
            np.testing.assert_allclose(metrics[step].balancer[name], want.sum, rtol=1e-5)


def test_weights_are_constants_of_the_gradient(spied):
    states, metrics = spied
    batch = rows_of(BATCHES[0][0], 2)
    state, constant, _ = one_step("qlora", batch, metrics[0].weight)
    assert np.ptp(metrics[0].weight) > 0.1
    np.testing.assert_allclose(metrics[0].grad_norm, constant.grad_norm, rtol=1e-5)
    for got, want in zip(
        *map(jax.tree.leaves, (states[1].trainable, state.trainable)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_skipped_step_leaves_the_state_as_if_its_batch_had_never_been():
    """Two good steps with a broken batch between them are the two good steps, bit for bit."""
    optim_config = OptimConfig(warmup_steps=2)
    schedule = learning_rate(optim_config, total_steps=9)
    chain = optimizer(optim_config, 9, vectors=())
    step = jax.jit(make_train_step(spec_for("lora"), UNIFORM, chain, schedule))
    trainable, frozen = start("lora")
    weight = jnp.full(4, 0.25)
    first = TrainState(jnp.asarray(0, jnp.int32), trainable, chain.init(trainable), weight)
    batch = rows_of(samples(0), 2)
    broken = batch._replace(loss_weights=np.where(batch.loss_weights > 0, np.inf, 0.0))

    def run(*batches: Batch) -> tuple[TrainState, list]:
        state, metrics = first, []
        for one in batches:
            state, measured = step(state, frozen, micro_batched(one, 1), batch)
            metrics.append(measured)
        return state, metrics

    good, expected = run(batch, batch)
    skipped, measured = run(batch, broken, batch)
    assert not np.isfinite(measured[1].loss)
    assert (int(good.step), int(skipped.step)) == (2, 3)  # a step keeps its number
    jax.tree.map(np.testing.assert_array_equal, skipped[1:], good[1:])
    rates = [float(metrics.learning_rate) for metrics in measured]
    assert rates[0] < rates[1] == rates[2] == float(expected[1].learning_rate)
