"""The schedule counts optimiser steps from 0; weight decay spares vectors; norms are clipped."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mft_jax.optim import OptimConfig, learning_rate, optimizer, warmup_steps
from mft_jax.types import MftError

CONFIG = OptimConfig(learning_rate=2.0, warmup_steps=4, min_rate_fraction=0.1)


def rates(config: OptimConfig, total: int) -> np.ndarray:
    schedule = learning_rate(config, total)
    return np.array([float(schedule(jnp.asarray(step))) for step in range(total + 1)])


def test_warmup_rises_linearly_from_the_first_step_and_is_never_zero():
    np.testing.assert_allclose(rates(CONFIG, 12)[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)


def test_cosine_falls_from_the_peak_to_the_minimum_at_the_end():
    got = rates(CONFIG, 12)[4:]
    want = [2.0 * (0.9 * (1 + math.cos(math.pi * t / 8)) / 2 + 0.1) for t in range(9)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", [0, 1])
def test_without_a_ramp_the_first_step_has_the_peak_rate(warmup):
    got = rates(OptimConfig(learning_rate=2.0, warmup_steps=warmup), 5)
    assert got[0] == pytest.approx(2.0) and got[-1] == pytest.approx(0.2)
    assert np.all(np.diff(got) <= 0)


@pytest.mark.parametrize("total", [1, 2, 9, 10, 50, 199, 200, 1000])
def test_the_default_warmup_is_at_most_a_tenth_of_the_steps(total):
    optim_config = OptimConfig(learning_rate=2.0)
    warmup = warmup_steps(optim_config, total)
    assert warmup == min(20, total // 10)
    assert np.argmax(rates(optim_config, total)) == max(warmup - 1, 0)
    assert warmup_steps(OptimConfig(warmup_steps=30), total) == 30


@pytest.mark.parametrize("warmup", [-1, 12, 20])
def test_a_warmup_that_leaves_no_step_is_refused(warmup):
    with pytest.raises(MftError, match=f"warmup_steps={warmup} .* 12 steps"):
        learning_rate(OptimConfig(warmup_steps=warmup), 12)


VECTORS = {"layers/attention/q/bias", "final_norm/scale"}
PARAMS = {
    "layers/mlp/up/kernel": {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))},
    "layers/mlp/down/kernel": {"a": jnp.ones((2, 3)), "magnitude": jnp.ones(2)},
    "embedding/table": jnp.ones((2, 2)),
    "layers/attention/q/bias": jnp.ones(2),
    "final_norm/scale": jnp.ones(2),
}


def updates(config: OptimConfig, gradient: float) -> dict:
    chain = optimizer(config, 10, VECTORS)
    grads = {
        path: {k: jnp.full_like(v, gradient) for k, v in leaf.items()}
        if isinstance(leaf, dict)
        else jnp.full_like(leaf, gradient)
        for path, leaf in PARAMS.items()
    }
    return chain.update(grads, chain.init(PARAMS), PARAMS)[0]


def test_weight_decay_shrinks_matrices_and_spares_vectors():
    config = OptimConfig(learning_rate=0.5, warmup_steps=0, weight_decay=0.1)
    made = updates(config, 0.0)
    for matrix in (*made["layers/mlp/up/kernel"].values(), made["embedding/table"]):
        np.testing.assert_allclose(matrix, -0.05, rtol=1e-6)
    for path in ("layers/attention/q/bias", "final_norm/scale"):
        np.testing.assert_array_equal(made[path], 0.0)
    np.testing.assert_array_equal(made["layers/mlp/down/kernel"]["magnitude"], 0.0)


def test_the_global_norm_is_clipped_before_adam_sees_it():
    config = OptimConfig(warmup_steps=0, clip_norm=1.0)
    chain = optimizer(config, 10, VECTORS)
    grads = {"a/kernel": jnp.array([3.0, 0.0]), "b/kernel": jnp.array([0.0, 4.0])}
    _, state = chain.update(grads, chain.init(grads), grads)
    moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(moment["a/kernel"], [0.06, 0.0], rtol=1e-5)  # 0.1 * 3 / 5
    np.testing.assert_allclose(moment["b/kernel"], [0.0, 0.08], rtol=1e-5)


def test_lora_plus_speeds_up_only_b():
    config = OptimConfig(learning_rate=0.5, warmup_steps=0, weight_decay=0.1)
    plain = updates(config, 0.3)
    plus = updates(dataclasses.replace(config, lora_plus_ratio=8.0), 0.3)
    adapter = "layers/mlp/up/kernel"
    np.testing.assert_allclose(plus[adapter]["b"], 8 * plain[adapter]["b"], rtol=1e-6)
    plus[adapter]["b"] = plain[adapter]["b"]
    for path, leaf in PARAMS.items():
        for part in leaf if isinstance(leaf, dict) else ():
            np.testing.assert_array_equal(plus[path][part], plain[path][part])
        if not isinstance(leaf, dict):
            np.testing.assert_array_equal(plus[path], plain[path])


def test_the_ratio_of_lora_plus_is_positive():
    with pytest.raises(MftError, match="lora_plus_ratio=0"):
        OptimConfig(lora_plus_ratio=0.0)
    with pytest.raises(MftError, match=r"optim.clip_norm=0.0 .*expected a number above 0$"):
        OptimConfig(clip_norm=0.0)
    with pytest.raises(MftError, match="lora_plus_ratio=inf"):
        OptimConfig(lora_plus_ratio=float("inf"))
