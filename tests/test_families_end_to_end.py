"""Every family: import, five steps, export, import again, from a user's side."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from mft_jax import config as configs
from mft_jax.cli.export import export
from mft_jax.models.families import FAMILIES
from mft_jax.record.schema import METRICS_FILE
from mft_jax.run import loop
from mft_jax.sharding import make_mesh
from mft_jax.testing import tiny_checkpoint, toy_config
from mft_jax.types import MftError


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs for one device compile twice as fast; other tests have meshes."""
    monkeypatch.setattr(loop, "make_mesh", lambda mesh: make_mesh(mesh, jax.devices()[:1]))


def five_steps(folder, family, **finetune):
    config = toy_config(folder, steps=5)
    config.model.path = str(tiny_checkpoint(folder / family, family))
    config.balancer.name = "uniform"
    config.finetune.update(finetune)
    return loop.train(configs.resolve(config), folder / "run", Console(quiet=True))


def records(folder):
    lines = (folder / "run" / METRICS_FILE).read_text("utf-8").splitlines()
    return list(map(json.loads, lines))


def losses(folder):
    return [record for record in records(folder) if record["kind"] == "train"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_checkpoint_is_imported_trained_and_exported(family, tmp_path, capsys):
    # Of the others peft compares the adapters of every layer (test_peft_parity).
    alone = FAMILIES[family].reference == "numpy"
    targets = ("all_linear",) if alone else ("attention/*",)
    run, outcome = five_steps(tmp_path, family, targets=targets)
    assert len(losses(tmp_path)) == 5
    assert all(np.isfinite(record["loss"]) for record in losses(tmp_path))
    trained = [adapter["b"] for adapter in outcome.state.trainable.values()]
    assert trained and all(np.any(b) for b in trained)

    # What was exported is what was trained, up to the rounding of float32.
    output = tmp_path / "merged"
    console = Console(width=200, force_terminal=False)
    export(tmp_path / "run", output, "merged_dequantized", "last", console)
    said = capsys.readouterr().out
    assert "same first choice 100.00%" in said, said
    assert json.loads((output / "config.json").read_text())["architectures"] == [
        FAMILIES[family].architecture
    ]
    assert (output / "tokenizer.json").is_file()
    stop = AutoTokenizer.from_pretrained(output).eos_token_id
    if FAMILIES[family].tiny_config().get("eos_token_id") != stop:
        generation = json.loads((output / "generation_config.json").read_text())
        assert stop in generation["eos_token_id"]
    assert len(jax.tree.leaves(run.weights.frozen)) > 0


COMPOSITIONS = {
    "dora": {"dora": True, "rslora": True, "dropout": 0.2, "rank": 8},
    "pissa": {"method": "lora", "init": "pissa", "targets": ("attention/*", "embedding", "head")},
    "loftq": {"init": "loftq", "quantization": "int4", "loftq_iterations": 2},
    "full": {"method": "full", "quantization": "int8"},
    "experts": {"targets": ("mlp/*", "attention/q"), "rank": 4},
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_what_was_trained_is_what_is_exported(name, tmp_path, capsys):
    family = "mixtral" if name == "experts" else "llama"
    run, _ = five_steps(tmp_path, family, **COMPOSITIONS[name])
    console = Console(width=200, force_terminal=False)
    stored = run.base.tuning.stored
    export(
        tmp_path / "run",
        tmp_path / "merged",
        "merged_dequantized" if stored else "merged",
        "last",
        console,
    )
    assert "same first choice 100.00%" in capsys.readouterr().out
    first = losses(tmp_path)[0]["loss"]
    assert 7.5 < first < 9.5, f"training starts at the base: ln(4096) = 8.3, got {first}"


def test_training_goes_on_from_an_adapter_whose_folder_may_go_then_but_not_its_base(tmp_path):
    first, _ = five_steps(tmp_path / "a", "qwen2", rank=8, alpha=12.0, targets=("attention/*",))
    export(tmp_path / "a" / "run", tmp_path / "adapter", "peft", "last", Console(quiet=True))
    base = first.config.model.path
    config = toy_config(tmp_path / "b", steps=5)
    config.model.path = base
    config.balancer.name = "uniform"
    config.finetune.adapter = str(tmp_path / "adapter")
    second, _ = loop.train(configs.resolve(config), tmp_path / "b" / "run", Console(quiet=True))
    tuning = second.base.tuning
    assert (tuning.rank, tuning.alpha, tuning.targets) == (
        8,
        12.0,
        ("attention/k", "attention/o", "attention/q", "attention/v"),
    )
    ended = [r for r in records(tmp_path / "a") if r["kind"] == "valid"][-1]
    began = next(r for r in records(tmp_path / "b") if r["kind"] == "valid")
    assert began["step"] == 0 and ended["step"] == 5
    assert began["loss"] == pytest.approx(ended["loss"], rel=1e-4)

    # From then on the run stands alone: what its folder was started from may go.
    shutil.rmtree(tmp_path / "adapter")
    again, _ = loop.train(configs.resolve(config), tmp_path / "b" / "run", Console(quiet=True))
    assert again.base.tuning == tuning
    out = tmp_path / "second"
    export(tmp_path / "b" / "run", out, "peft", "last", Console(quiet=True))
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 12

    # But not the weights that it was trained on.
    shutil.rmtree(base)
    tiny_checkpoint(Path(base), "qwen2", seed=1)  # of the same shapes
    with pytest.raises(MftError, match="not hold the model that .*run was trained on"):
        export(tmp_path / "b" / "run", tmp_path / "x", "merged", "last", Console(quiet=True))
    with pytest.raises(MftError, match="the base model in .*qwen2"):
        loop.train(configs.resolve(config), tmp_path / "b" / "run", Console(quiet=True))
