"""A model and tasks small enough for a test or a doctest: real files, real code paths."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from safetensors.numpy import save_file

from mft_jax import config as configs
from mft_jax.arrays import over_stack
from mft_jax.finetune.attach import init_frozen, init_trainable, store_weight
from mft_jax.finetune.tuning import FinetuneConfig
from mft_jax.huggingface.base_weights import hf_shape, read_model
from mft_jax.huggingface.folders import model_folder
from mft_jax.models.config import ModelConfig
from mft_jax.models.decoder import init_params
from mft_jax.models.families import FAMILIES
from mft_jax.models.params import param_infos
from mft_jax.types import Params

# In memory ----------------------------------------------------------------------------------------


def toy_weights(
    model_config: ModelConfig,
    tuning: FinetuneConfig,
    dtype: jax.typing.DTypeLike = jnp.float32,
    noise: float = 0.1,
) -> tuple[Params, Params]:
    """`(trainable, frozen)` of a random base, with weights large enough that every part matters.

    `noise`: standard deviation of what is added to the trainable weights; B of LoRA starts at 0.
    """
    infos = param_infos(model_config)

    @jax.jit  # one program: the many small ones would take longer to compile
    def made() -> tuple[Params, Params]:
        store = functools.partial(store_weight, tuning, dtype=dtype)
        params = init_params(model_config, 0)
        weights = {
            path: over_stack(functools.partial(store, info), len(info.stack))(3 * params[path])
            for path, info in infos.items()
        }
        keys = iter(jax.random.split(jax.random.key(1), 99))
        trainable = jax.tree.map(
            lambda x: x.astype(dtype) + noise * jax.random.normal(next(keys), x.shape, dtype),
            init_trainable(tuning, weights, infos, 0),
        )
        return trainable, init_frozen(tuning, weights)

    return made()


def add_noise(tree: Any, size: float = 0.05, seed: int = 1) -> Any:
    """The tree with independent normal noise of standard deviation `size` on every leaf."""
    rng = np.random.default_rng(seed)

    def noisy(leaf: Any) -> jax.Array:
        noise = size * rng.standard_normal(leaf.shape)
        return jnp.asarray(np.asarray(leaf) + np.asarray(noise, leaf.dtype))

    return jax.tree.map(noisy, tree)


def largest_relative_error(got: Any, want: Any) -> float:
    """The largest error of a leaf relative to that leaf's largest value; NaN where one is NaN."""
    errors = jax.tree.map(lambda g, w: np.abs(g - w).max() / np.abs(w).max(), got, want)
    return float(np.max(jax.tree.leaves(errors)))


# On disk ------------------------------------------------------------------------------------------


def tiny_checkpoint(folder: Path, family: str = "qwen2", variant: str = "", seed: int = 0) -> Path:
    """A random Hugging Face folder of one of the family's tiny configs, with the built-in model's
    tokenizer (4,096 tokens)."""
    builtin = model_folder("builtin:tiny")
    folder.mkdir(parents=True)
    hf_config = FAMILIES[family].tiny_config(variant)
    (folder / "config.json").write_text(json.dumps(hf_config), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(builtin / name, folder / name)
    family_, model_config = read_model(folder)
    infos, rng = param_infos(model_config), np.random.default_rng(seed)
    tensors = {}
    for entry in family_.entries(model_config):
        info = infos[entry.path]
        centre = 1.0 if info.kind == "norm" and not model_config.norm_offset else 0.0
        for name, _ in entry.tensors():
            noise = rng.normal(centre, 0.05, hf_shape(entry, infos))
            tensors[name] = noise.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


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


def toy_config(
    folder: Path, steps: int = 10, family: str = "qwen2", variant: str = ""
) -> ml_collections.ConfigDict:
    """A whole QLoRA and CoBa run of a few seconds; `folder` gets its model and data."""
    config = configs.default()
    config.model.path = str(tiny_checkpoint(folder / "model", family, variant))
    config.model.compute_dtype = "float32"
    config.data.tasks = tuple(toy_tasks(folder / "data", {"add": 90, "echo": 60, "rare": 30}))
    config.data.row_length = 64
    config.finetune.rank = 4
    config.balancer.coba.warmup_updates = 2
    config.balancer.coba.history_updates = 5
    config.optim.warmup_steps = min(2, steps - 1)
    config.loop.steps = steps
    config.loop.rows_per_step = 8
    config.loop.valid_rows = 8
    config.loop.eval_every_steps = 5
    config.loop.save_every_steps = 5
    config.loop.log_every_steps = 1
    return config


def write_config(folder: Path, config: ml_collections.ConfigDict) -> Path:
    """The configuration as a file that `--config` takes."""
    path = folder / "config.py"
    path.write_text(
        "import json\nimport ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n",
        "utf-8",
    )
    return path


def read_rows(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of one kind in the run's record; a line still being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row["kind"] == kind]


def load_module(path: Path) -> ModuleType:
    """A Python file outside the package, such as a configuration or a script, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
