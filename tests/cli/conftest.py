"""`check`: the command as a user calls it; and one toy run for all tests of a worker."""

import contextlib
import io
from pathlib import Path

import jax
import pytest

from mft_jax import testing
from mft_jax.cli import main


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    config = testing.toy_config(folder, steps=4)
    config.loop.eval_every_steps = 4
    return testing.write_config(folder, config)


@pytest.fixture(scope="session")
def trained(config_file, tmp_path_factory, sharing_programs) -> tuple[Path, str]:
    """A run's folder, and what the command printed."""
    workdir = tmp_path_factory.mktemp("run") / "toy"
    first = jax.devices()[:1]
    # As in `single_device` and `shared_programs`, which are of a module.
    with sharing_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *backend: first)
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(io.StringIO()) as out:
            main(["train", f"--config={config_file}", f"--workdir={workdir}"])
    assert ended.value.code == 0
    return workdir, out.getvalue()


@pytest.fixture
def workdir(trained) -> Path:
    return trained[0]


@pytest.fixture
def check(tmp_path, capsys):
    """`check(folder, *flags) -> (exit code, stdout, stderr)`"""
    config = tmp_path / "config.py"
    config.write_text(
        "from mft_jax import config as configs\n\n\ndef get_config():\n"
        "    config = configs.default()\n    config.model.compute_dtype = 'float32'\n"
        "    config.finetune.rank = 4\n    return config\n"
    )

    def call(folder, *flags):
        with pytest.raises(SystemExit) as ended:
            main(["check", f"--config={config}", f"--config.model.path={folder}", *flags])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def rows():
    """`rows(out)`: the printed table as {label: value}, folded lines joined."""

    def parse(out):
        table, label = {}, ""
        for line in out.splitlines():
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            if line.startswith("│") and len(cells) == 2:
                label = cells[0] or label
                table[label] = f"{table[label]} {cells[1]}" if label in table else cells[1]
        return table

    return parse
