"""CoBa against a float64 oracle of its equations, and what its weights never do."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.balancers.base import RunFacts, Signals
from mft_jax.balancers.coba import CobaConfig, coba
from mft_jax.types import TaskSums, TaskTable

# float32 against float64: slopes are small differences of ratios near 1, so they carry the
# rounding of the ratios, and RCS, ACS and DF amplify it.
RELATIVE = 2e-4
STEPS, TASKS, HISTORY, WARMUP = 500, 5, 20, 10


def load_oracle():
    spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CobaOracle


CobaOracle = load_oracle()


def observations(num_tasks: int = TASKS) -> tuple[TaskSums, TaskSums]:
    """(initial [T], observed [S, T]): noisy, task 0 diverges from step 250, task 1 is often
    absent, task 2 is absent for 100 steps, task 3 until step 5.
    """
    rng = np.random.default_rng(0)
    step = np.arange(STEPS)[:, None]
    rate = rng.uniform(0.003, 0.03, num_tasks)
    loss = 0.3 + rng.uniform(1, 2, num_tasks) * np.exp(-rate * step)
    loss[:, 0] += 0.004 * np.maximum(step[:, 0] - 250, 0)
    loss *= rng.lognormal(0, 0.02, loss.shape)
    count = rng.integers(1, 200, loss.shape).astype(np.float32)
    count[:, 1] *= rng.random(STEPS) < 0.7
    count[150:250, 2] = 0
    count[:5, 3] = 0
    initial = TaskSums(jnp.asarray(loss[0] * 10, jnp.float32), jnp.full(num_tasks, 10.0))
    return initial, TaskSums(jnp.asarray(loss * count, jnp.float32), jnp.asarray(count))


@functools.cache
def balancer(every: int = 1, ablate: str = "none"):
    settings = CobaConfig(
        history_updates=HISTORY, warmup_updates=WARMUP, update_every_steps=every, ablate=ablate
    )
    return coba(settings, RunFacts(TaskTable(("any",)), STEPS, valid_micro_batches=1))


@functools.cache
def runner(every: int = 1, ablate: str = "none"):
    """`run(state, steps, observed) -> (state, {name: [S, ...]})`, compiled."""
    made = balancer(every, ablate)

    def body(state, inputs):
        weight, state = made.update(state, Signals(*inputs))
        return state, {**made.logs(state), "weight": weight}

    return jax.jit(lambda state, steps, observed: jax.lax.scan(body, state, (steps, observed)))


def run(initial, observed, every=1, ablate="none", state=None, first=0):
    steps = jnp.arange(first, first + len(observed.count))
    state = (
        balancer(every, ablate).init(observed.count.shape[1], initial) if state is None else state
    )
    return runner(every, ablate)(state, steps, observed)


@functools.cache
def oracle_run(every: int, ablate: str):
    initial, observed = observations()
    model = CobaOracle(np.asarray(initial.mean(), float), HISTORY, WARMUP, 5.0, ablate)
    records = []
    for step, (sums, counts) in enumerate(zip(*map(np.asarray, observed), strict=True)):
        if step % every == 0:
            pairs = zip(sums.astype(float), counts.astype(float), strict=True)
            record = model.update(step, [s / c if c > 0 else None for s, c in pairs])
        records.append(record)
    return {name: np.array([record[name] for record in records]) for name in records[0]}


@pytest.mark.parametrize(
    ("every", "ablate"), [(1, "none"), (4, "none"), (1, "rcs"), (1, "acs"), (1, "df")]
)
def test_every_quantity_follows_the_equations_for_500_steps(every, ablate):
    want = oracle_run(every, ablate)
    _, got = run(*observations(), every, ablate)
    for name, series in want.items():
        atol = RELATIVE * np.abs(series).max()
        np.testing.assert_allclose(got[name], series, rtol=RELATIVE, atol=atol, err_msg=name)


def test_the_oracle_run_visits_what_it_should():
    want = oracle_run(1, "none")
    assert np.all(want["weight"][:WARMUP] == 1 / TASKS)
    assert want["df"].min() < 0.1 and np.mean(want["df"] == 1.0) > 0.05
    assert np.all(want["slope"][:, 0][300:] > 0), "task 0 diverges"
    assert len(np.unique(want["slope"][150:250, 2])) == 1, "an absent task keeps its slope"
    assert want["weight"].max() > 0.5


def test_a_diverging_task_loses_weight():
    _, got = run(*observations())
    assert np.mean(got["weight"][260:290, 0]) < np.mean(got["weight"][200:250, 0])


@pytest.mark.parametrize("loss", [1.0, 0.7137, 3e-5])
def test_flat_losses_give_exactly_uniform_weights(loss):
    initial = TaskSums(jnp.full(TASKS, 1.0), jnp.full(TASKS, 1.0))
    _, observed = observations()
    count = jnp.minimum(observed.count, 1.0)  # tasks come and go, so steps are uneven
    _, got = run(initial, TaskSums(loss * count, count))
    np.testing.assert_array_equal(got["weight"], np.float32(1 / TASKS))


@pytest.mark.parametrize("num_tasks", [1, 64])
def test_weights_are_a_distribution_for_any_number_of_tasks(num_tasks):
    initial, observed = observations(max(num_tasks, 4))
    initial, observed = jax.tree.map(lambda x: x[..., :num_tasks], (initial, observed))
    _, got = run(initial, observed)
    weight = np.asarray(got["weight"])
    assert np.all(np.isfinite(weight)) and np.all(weight >= 0)
    np.testing.assert_allclose(weight.sum(1), 1.0, rtol=1e-6)
    if num_tasks == 1:
        np.testing.assert_allclose(weight, 1.0, rtol=1e-6)


def test_nothing_is_nan_when_no_task_is_ever_present():
    initial, observed = observations()
    nothing = jax.tree.map(jnp.zeros_like, observed)
    _, got = run(initial, nothing)
    np.testing.assert_array_equal(got["weight"], np.float32(1 / TASKS))
    assert np.all(np.isnan(got.pop("valid_loss"))), "an absent task has no loss"
    assert all(np.all(np.isfinite(series)) for series in got.values())


def test_a_state_restored_midway_continues_bit_for_bit():
    initial, observed = observations()
    want_state, want = run(initial, observed)
    first, second = (jax.tree.map(lambda x, p=p: x[p], observed) for p in np.s_[:237, 237:])
    state, _ = run(initial, first)
    leaves, structure = jax.tree.flatten(state)
    restored = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    end_state, got = run(initial, second, state=restored, first=237)
    for name, series in got.items():
        np.testing.assert_array_equal(series, want[name][237:], err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, end_state, want_state)


def test_a_step_between_two_updates_changes_nothing():
    initial, observed = observations()
    state, got = run(initial, observed, every=4)
    assert int(state.num_updates) == STEPS // 4
    for name in ("ratio", "weight", "df"):
        series = np.asarray(got[name]).reshape(STEPS // 4, 4, -1)
        assert np.all(series == series[:, :1]), name


def test_counts_left_out_are_those_of_the_papers_appendix():
    run = RunFacts(TaskTable(("a", "b")), total_steps=30, valid_micro_batches=3)
    ones = TaskSums(jnp.ones(2), jnp.ones(2))
    state = coba(CobaConfig(update_every_steps=4), run).init(2, ones)
    assert state.ratio_history.shape == (2, 6), "N = 2 M"
    assert state.max_slope_history.shape == (8,), "30 steps hold 8 updates"
    balancer, weights = coba(CobaConfig(), run), []
    state = balancer.init(2, ones)
    for step in range(5):
        seen = TaskSums(jnp.array([0.9**step, 0.99**step]), jnp.ones(2))
        weight, state = balancer.update(state, Signals(jnp.asarray(step), seen))
        weights.append(bool(weight[0] == weight[1]))
    assert weights == [True, True, True, False, False], "W = M"
