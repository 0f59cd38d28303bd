"""How far apart two arrays of logits are, against NumPy."""

import numpy as np
import pytest

from mft_jax.huggingface.logit_difference import compare_logits


def test_the_difference_of_logits_is_that_of_numpy_in_float64():
    rng = np.random.default_rng(0)
    a, noise = rng.normal(0, 3, (5, 11)), rng.normal(0, 1, (5, 11))
    for b in (a, a + 1e-7 * noise, a + noise):
        p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (a, b))
        gap = compare_logits(a, b)
        assert gap.max_abs == np.abs(a - b).max()
        assert gap.mean_abs == pytest.approx(np.abs(a - b).mean(), rel=1e-12)
        kl = (p * np.log(p / q)).sum(axis=-1).mean()
        assert gap.kl == pytest.approx(kl, rel=1e-6, abs=1e-15)
        assert gap.top1_agreement == np.mean(a.argmax(axis=-1) == b.argmax(axis=-1))
