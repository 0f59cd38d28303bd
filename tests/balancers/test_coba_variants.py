"""The released code's weights, and Eq. 7 with the denominator as printed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mft_jax.balancers.base import RunFacts, Signals
from mft_jax.balancers.coba import CobaConfig, coba
from mft_jax.balancers.convergence import convergence_slopes, divergence_factor
from mft_jax.types import MftError, TaskSums, TaskTable


def run_of(steps: int) -> RunFacts:
    return RunFacts(TaskTable(("any",)), steps, valid_micro_batches=1)


def golden_ratios(case) -> np.ndarray:
    """[4, T], by the recipe that is stored with the golden numbers."""
    r, t = np.random.RandomState(case["seed"]), np.arange(1, case["T"] + 1)
    start = np.array([0.3, 0.4, 0.2, 0.5])[:, None]
    y = 1 - start * (1 - np.exp(-t / np.array([30, 80, 200, 50])[:, None]))
    y = y + 0.01 * r.randn(4, case["T"])
    y[0] += np.maximum(0, t - 120) * 0.003
    return y


def weights_of_a_run(settings: CobaConfig, losses: np.ndarray) -> np.ndarray:
    """[steps, T]: the weights of every step. Row s of `losses` [steps, T] is what a validation
    micro-batch would yield after update s.
    """
    steps, num_tasks = losses.shape
    balancer = coba(settings, run_of(steps))
    assert balancer.needs == {"post_step_valid_losses"}
    ones = jnp.ones(num_tasks)

    def body(state, inputs):
        step, after = inputs
        weight, state = balancer.update(state, Signals(step))
        measured = (step % balancer.every_steps == 0).astype(float)
        return balancer.after_step(state, TaskSums(after * measured, ones * measured)), weight

    def run(losses):
        inputs = jnp.arange(steps, dtype=jnp.int32), losses
        return jax.lax.scan(body, balancer.init(num_tasks, TaskSums(ones, ones)), inputs)[1]

    return np.asarray(jax.jit(run)(jnp.asarray(losses, float)))


@pytest.mark.parametrize("number", range(4))
def test_variant_mftcoder_reproduces_the_released_code(shared_data, number):
    golden = json.loads((shared_data / "golden/mftcoder_cpu.json").read_text("utf-8"))
    case = golden["coba"]["cases"][number]
    assert not case["missing"]
    settings = CobaConfig(
        history_updates=case["N"],
        warmup_updates=case["W"],
        tau=float(case["tau"]),
        variant="mftcoder",
    )
    # Column j of the ratios is measured after update j + 1.
    ratios = np.concatenate([np.ones((4, 1)), golden_ratios(case)], axis=1).T
    with jax.enable_x64(True):
        weights = weights_of_a_run(settings, ratios)
    want = np.array(case["weights"])
    assert len(want) >= 5
    np.testing.assert_allclose(weights[want[:, 0].astype(int)], want[:, 1:], atol=1e-12)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


class ReleasedLoop:
    """The released loop in float64, with lists: when it weighs, when it looks, what it keeps."""

    def __init__(self, every_steps: int, warmup: int, history: int, tau: float, num_tasks: int):
        self.every_steps, self.warmup, self.history = every_steps, warmup, history
        self.tau, self.num_tasks = tau, num_tasks
        self.looks, self.slopes, self.max_slopes = [], [], []
        self.weight = np.full(num_tasks, 1 / num_tasks)

    def step(self, number: int, losses_after: np.ndarray) -> np.ndarray:
        """The weights of step `number`. The update lies between weighing and looking."""
        if number % self.every_steps == 0 and number >= self.warmup * self.every_steps:
            self.weigh(number)
        if number % self.every_steps == 0 and number >= 1:
            self.looks.append(losses_after)
        return self.weight

    def weigh(self, number: int) -> None:
        since = max(0, number // self.every_steps - self.history)
        window = np.array(self.looks)[-(number - since) :]
        x = np.arange(len(window))
        slope = np.polyfit(x, window, 1)[0]
        self.slopes.append(slope)
        self.max_slopes.append(np.polyfit(x, window.max(axis=1), 1)[0])
        tasks, recent, peaks = self.num_tasks, np.array(self.slopes)[since:], self.max_slopes
        rcs = softmax(tasks * slope / np.abs(slope).sum())
        acs = softmax(-len(recent) * slope / np.abs(recent).sum(axis=0))
        shares = softmax(-self.tau * len(peaks) * np.array(peaks) / np.abs(peaks).sum())
        df = shares[-1] * len(peaks)
        weight, least = softmax(tasks * (df * rcs + (1 - df) * acs)), 1 / (10 * tasks)
        self.weight = weight * (1 - least * tasks) + least if weight.min() < least else weight


@pytest.mark.parametrize("every_steps", [1, 3])
def test_variant_mftcoder_follows_the_released_loop_over_a_noisy_run(every_steps):
    steps, num_tasks, warmup, history = 150, 3, 4, 12
    rng = np.random.default_rng(every_steps)
    curves = 1 - np.array([0.5, 0.2, 0.3]) * (1 - np.exp(-np.arange(steps) / 40))[:, None]
    losses = curves + 0.05 * rng.normal(size=curves.shape)
    released = ReleasedLoop(every_steps, warmup, history, 5.0, num_tasks)
    want = np.stack([released.step(number, losses[number]) for number in range(steps)])
    settings = CobaConfig(
        history_updates=history,
        warmup_updates=warmup,
        update_every_steps=every_steps,
        variant="mftcoder",
    )
    with jax.enable_x64(True):
        np.testing.assert_allclose(weights_of_a_run(settings, losses), want, atol=1e-11)
    # The weights of a run on a device.
    np.testing.assert_allclose(weights_of_a_run(settings, losses), want, atol=1e-5)


def test_slopes_without_gaps_are_the_released_codes(shared_data):
    golden = json.loads((shared_data / "golden/mftcoder_cpu.json").read_text("utf-8"))
    whole = [entry for entry in golden["slope"] if min(entry["y"]) > 0]
    assert whole
    with jax.enable_x64(True):
        for entry in whole:
            y = jnp.asarray(entry["y"])[None]
            steps = jnp.arange(y.shape[1], dtype=jnp.int32)[None]
            got = convergence_slopes(y, steps, jnp.asarray([y.shape[1]]))
            assert got[0] == pytest.approx(entry["slope"], abs=1e-12)


def test_the_signed_denominator_is_eq_7_as_printed():
    slopes = np.array([-0.5, -0.4, -0.2, -0.05])
    with jax.enable_x64(True):
        padded, count = jnp.asarray([*slopes, 9.0]), jnp.asarray(4)
        for signed, total in ((True, slopes.sum()), (False, np.abs(slopes).sum())):
            z = np.exp(-2.0 * 4 * slopes / total)
            want = min(4 * z[-1] / z.sum(), 1.0)
            assert divergence_factor(padded, count, 2.0, signed=signed) == pytest.approx(want)


def test_the_variants_differ_where_a_task_starts_to_diverge():
    weights = {}
    for variant in ("default", "paper"):
        settings = CobaConfig(history_updates=4, warmup_updates=1, variant=variant)
        balancer = coba(settings, run_of(20))
        ones = jnp.ones(2)
        state = balancer.init(2, TaskSums(ones, ones))
        for step in range(12):
            seen = TaskSums(jnp.array([0.97**step, 1 - 0.02 * min(step, 6)]), ones)
            weights[variant], state = balancer.update(state, Signals(jnp.asarray(step), seen))
    assert np.abs(weights["default"] - weights["paper"]).max() > 0.01


def test_ablating_the_released_code_is_refused():
    with pytest.raises(MftError, match="not defined for variant 'mftcoder'"):
        CobaConfig(variant="mftcoder", ablate="df")
