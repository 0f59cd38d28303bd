"""One toy run for all tests of a worker: its configuration, its folder, where it ended."""

import io

import jax
import pytest
from rich.console import Console

from mft_jax import testing
from mft_jax.config import resolve
from mft_jax.run import session
from mft_jax.run.display import Display


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder)
    workdir = folder / "run"
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:  # as in `single_device`, which is of a module
        patch.setattr(jax, "devices", lambda *backend: first)
        outcome = session.train(resolve(config), workdir, Display(Console(file=io.StringIO())))
    return config, workdir, outcome
