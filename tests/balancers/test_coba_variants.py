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


@pytest.mark.parametrize("number", range(4))
def test_variant_mftcoder_reproduces_the_released_code(shared_data, number):
    golden = json.loads((shared_data / "golden/mftcoder_cpu.json").read_text("utf-8"))
    case = golden["coba"]["cases"][number]
    assert not case["missing"]
    with jax.enable_x64(True):
        settings = CobaConfig(
            history_updates=case["N"],
            warmup_updates=case["W"],
            tau=float(case["tau"]),
            variant="mftcoder",
        )
        balancer = coba(settings, run_of(case["T"]))
        ones = jnp.ones(4)
        ratios = jnp.asarray(golden_ratios(case))
        # Step s >= 1 sees column s - 1 of the ratios.
        observed = jnp.concatenate([jnp.ones((4, 1)), ratios], axis=1).T

        def body(state, inputs):
            step, losses = inputs
            weight, state = balancer.update(state, Signals(step, TaskSums(losses, ones)))
            return state, weight

        steps = jnp.arange(len(observed), dtype=jnp.int32)
        _, weights = jax.jit(lambda: jax.lax.scan(
            body, balancer.init(4, TaskSums(ones, ones)), (steps, observed)
        ))()  # fmt: skip
    want = np.array(case["weights"])
    assert len(want) >= 5
    np.testing.assert_allclose(np.asarray(weights)[want[:, 0].astype(int)], want[:, 1:], atol=1e-6)


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
