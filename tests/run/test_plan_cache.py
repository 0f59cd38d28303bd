"""Compiled plans are kept by what they follow from."""

import dataclasses

import pytest

from mft_jax.config import resolve
from mft_jax.kept import open_kept
from mft_jax.run import plan_cache
from mft_jax.run.plan_cache import cached, key
from mft_jax.run.plan_compiled import Compiled
from mft_jax.run.plan_program import Collective
from mft_jax.run.plan_step import described
from mft_jax.run.plan_topology import Topology
from mft_jax.testing import toy_config

COMPILED = Compiled(
    "TPU v5 lite", 4, 1, 2.0**34, {"adapters": 5}, 10, 20, 1, 0.0,
    (Collective("all-gather", "u4", 3, 1.5, 0.5),), 1e12, 1e11, 1e9, 2, 60.0,
)  # fmt: skip
SLICE = Topology("v5e", (2, 2))


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MFT_CACHE_GIB")
    config = resolve(toy_config(tmp_path))
    return config, described(config, lambda line: None)


def test_a_slice_is_compiled_once_and_this_machine_every_time(asked):
    config, base = asked
    calls, kept = [], open_kept(print)

    def compile_now(config, topology):
        calls.append(topology)
        return COMPILED

    assert cached(config, base, SLICE, compile_now, kept) == (COMPILED, False)
    assert cached(config, base, SLICE, compile_now, kept) == (COMPILED, True)
    here = Topology("cpu", (8,))
    for _ in range(2):
        assert cached(config, base, here, compile_now, kept) == (COMPILED, False)
    assert calls == [SLICE, here, here]


def test_the_key_follows_from_settings_model_slice_and_source(asked, monkeypatch):
    config, base = asked
    keys = {key(config, base, SLICE)}
    longer = dataclasses.replace(config.data, row_length=config.data.row_length * 2)
    keys.add(key(dataclasses.replace(config, data=longer), base, SLICE))
    keys.add(key(config, base, Topology("v6e", (2, 2))))
    deeper = dataclasses.replace(base.model_config, num_layers=7)
    keys.add(key(config, dataclasses.replace(base, model_config=deeper), SLICE))
    monkeypatch.setattr(plan_cache, "checksum_of_source", lambda: "another")
    keys.add(key(config, base, SLICE))
    assert len(keys) == 5
