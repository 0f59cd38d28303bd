"""One toy run for all tests of a worker: its configuration, its folder, where it ended."""

import io

import pytest
from rich.console import Console

from mft_jax import testing
from mft_jax.config import resolve
from mft_jax.run import loop
from mft_jax.run.display import Display


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder)
    workdir = folder / "run"
    outcome = loop.train(resolve(config), workdir, Display(Console(file=io.StringIO())))
    return config, workdir, outcome
