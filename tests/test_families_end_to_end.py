"""Every family: import, five steps, export, import again, from a user's side."""

import json

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mft_jax import config as configs
from mft_jax import trainer
from mft_jax.cli.export import export
from mft_jax.metrics import FILE_NAME
from mft_jax.models.families import FAMILIES
from mft_jax.testing import tiny_checkpoint, toy_config


def five_steps(folder, family, **finetune):
    config = toy_config(folder, steps=5)
    config.model.path = str(tiny_checkpoint(folder / family, family))
    config.balancer.name = "uniform"
    config.finetune.update(finetune)
    run, _ = trainer.train(configs.resolve(config), folder / "run", Console(quiet=True))
    return run


def losses(folder):
    """Mean validation ratio of the last evaluation, and the losses of the steps."""
    lines = (folder / "run" / FILE_NAME).read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "train"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_checkpoint_is_imported_trained_and_exported(family, tmp_path, capsys):
    run = five_steps(tmp_path, family)
    assert len(losses(tmp_path)) == 5
    assert all(np.isfinite(record["loss"]) for record in losses(tmp_path))
    moved = [adapter["b"] for adapter in run.model.trainable.values()]
    assert moved and all(not np.any(b) for b in moved), "the start is kept apart from the state"

    console = Console(width=200, force_terminal=False)
    export(tmp_path / "run", tmp_path / "adapter", "peft", "last", console)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(np.any(tensor) for name, tensor in adapter.items() if "lora_B" in name)

    # What was exported is what was trained, up to the rounding of float32.
    output = tmp_path / "merged"
    export(tmp_path / "run", output, "merged_dequantized", "last", console)
    said = capsys.readouterr().out
    assert "same first choice 100.00%" in said, said
    assert json.loads((output / "config.json").read_text())["architectures"] == [
        FAMILIES[family].architecture
    ]
    assert (output / "tokenizer.json").is_file()
    assert len(jax.tree.leaves(run.model.frozen)) > 0
