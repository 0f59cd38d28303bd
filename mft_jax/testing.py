"""A model and tasks small enough for a test or a doctest: real files, real code paths."""

import json
import shutil
from pathlib import Path

import jax
import ml_collections
import numpy as np
from safetensors.numpy import save_file

from mft_jax import config as configs
from mft_jax.huggingface.base_weights import hf_shape, read_model
from mft_jax.huggingface.folders import model_folder
from mft_jax.models.families import FAMILIES
from mft_jax.models.params import param_infos
from mft_jax.types import Params


def tiny_checkpoint(folder: Path, family: str = "qwen2", variant: str = "", seed: int = 0) -> Path:
    """A random Hugging Face folder of one of the family's tiny configs, with the built-in model's
    tokenizer (4,096 tokens)."""
    builtin = model_folder("builtin:tiny")
    folder.mkdir(parents=True)
    hf_config = FAMILIES[family].tiny_config(variant)
    (folder / "config.json").write_text(json.dumps(hf_config), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(builtin / name, folder / name)
    family_, config = read_model(folder)
    infos, rng = param_infos(config), np.random.default_rng(seed)
    tensors = {}
    for entry in family_.entries(config):
        info = infos[entry.path]
        centre = 1.0 if info.kind == "norm" and not config.norm_offset else 0.0
        for name, _ in entry.tensors():
            noise = rng.normal(centre, 0.05, hf_shape(entry, infos))
            tensors[name] = noise.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def noisy(tree: Params, size: float = 0.1, seed: int = 1) -> Params:
    """Every leaf moved by a random array of its own: an adapter that is not nothing."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + size * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def toy_tasks(folder: Path, samples: dict[str, int]) -> list[dict[str, str]]:
    """One JSONL file of prompt and answer per task, with as many samples as named."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for index, (name, count) in enumerate(samples.items()):
        path = folder / f"{name}.jsonl"
        rows = [
            {"prompt": f"{name}: {i} and {i * i % 17}", "answer": str(i + index) * (1 + i % 3)}
            for i in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        tasks.append({"name": name, "path": str(path)})
    return tasks


def toy_config(folder: Path, steps: int = 10) -> ml_collections.ConfigDict:
    """A whole QLoRA and CoBa run of a few seconds; `folder` gets its model and data."""
    config = configs.default()
    config.model.path = str(tiny_checkpoint(folder / "model"))
    config.model.compute_dtype = "float32"
    config.data.tasks = tuple(toy_tasks(folder / "data", {"add": 90, "echo": 60, "rare": 30}))
    config.data.row_length = 64
    config.finetune.rank = 4
    config.balancer.coba.warmup_updates = 2
    config.balancer.coba.history_updates = 5
    config.optim.warmup_steps = 2
    config.loop.steps = steps
    config.loop.rows_per_step = 8
    config.loop.valid_rows = 8
    config.loop.eval_every_steps = 5
    config.loop.save_every_steps = 5
    config.loop.log_every_steps = 1
    return config
