"""One toy run for all tests of a worker: its configuration, its folder, where it ended; and runs
whose validation goes as a test says."""

import io

import jax
import pytest
from rich.console import Console

from mft_jax import testing
from mft_jax.config import resolve
from mft_jax.run import parts, session
from mft_jax.run.display import Display


@pytest.fixture(scope="session")
def toy(tmp_path_factory, sharing_programs):
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder)
    workdir = folder / "run"
    first = jax.devices()[:1]
    # As in `single_device` and `shared_programs`, which are of a module.
    with sharing_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: first)
        outcome = session.train(resolve(config), workdir, Display(Console(file=io.StringIO())))
    return config, workdir, outcome


@pytest.fixture
def validation_ratios(monkeypatch):
    """`validation_ratios(*ratios)`: the losses of a run's validation passes, over the first's."""
    measure = parts.full_pass

    def script(*ratios: float) -> None:
        passes, first = iter(ratios), []

        def scripted(*arguments):
            if not first:
                first.append(measure(*arguments))
                return first[0]
            return first[0]._replace(sum=next(passes) * first[0].sum)

        monkeypatch.setattr(parts, "full_pass", scripted)

    return script
