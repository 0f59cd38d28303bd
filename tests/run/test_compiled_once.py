"""The real step of a run is compiled once: what it returns has the types that it was given."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from mft_jax import testing
from mft_jax.config import resolve
from mft_jax.run import parts
from mft_jax.run.base_model import load_model, prepare
from mft_jax.sharding import make_mesh
from mft_jax.types import TaskSums


@pytest.mark.parametrize("name", ["uniform", "coba", "famo", "gradnorm"])
def test_two_steps_are_one_entry_in_the_cache_of_compiled_steps(name, tmp_path):
    raw = testing.toy_config(tmp_path, steps=4)
    raw.balancer.name = name
    config, console = resolve(raw), Console(file=io.StringIO())
    mesh = make_mesh(config.mesh)
    model = load_model(config, prepare(config, console), mesh, console)
    data = parts.build_data(config, model, console)
    functions = parts.build_step_functions(config, model, mesh, data)
    initial = TaskSums(*(np.ones(len(data.tokenized.tasks)) for _ in range(2)))
    state = functions.init_state(model.trainable, initial)
    state = state._replace(balancer=functions.init_balancer(initial))
    for _ in range(2):
        batch, valid = (parts.place_batch(next(rows), mesh) for rows in (data.train, data.valid))
        state, _ = functions.step(state, model.frozen, batch, valid)
    assert functions.step._cache_size() == 1
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state.balancer))
