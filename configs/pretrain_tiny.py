"""Trains `builtin:tiny` from random weights: full parameters, plain text of installed packages.

    mft train --config=configs/pretrain_tiny.py --workdir=runs/pretrain_tiny
    mft export --workdir=runs/pretrain_tiny --format=merged --output=tiny

Expected: validation loss 3.19 nats per token on the libraries and 2.64 on transformers after 3,000
steps, from 8.38 and 8.37; about an hour on two CPU cores. The shipped weights are of this run:
mft_jax/builtin/tiny/README.md.
"""

from mft_jax import config as configs

LIBRARIES = (
    "jax,flax,optax,orbax,grain,datasets,numpy,etils,ml_collections,absl,tokenizers,"
    "safetensors,huggingface_hub,pyarrow"
)


def get_config():
    config = configs.default()
    config.model.path = "builtin:tiny"
    config.model.weights = "random"
    config.model.compute_dtype = "float32"
    # transformers is more text than all others together, and repeats itself more.
    config.data.tasks = (
        {"name": "libraries", "path": f"packages:{LIBRARIES}:text", "max_valid_samples": 120},
        {
            "name": "transformers",
            "path": "packages:transformers:text",
            "max_samples": 3000,
            "max_valid_samples": 40,
        },
    )
    config.data.row_length = 512
    config.data.overlong = "split"
    config.finetune.method = "full"
    config.objective.name = "token_mean"
    config.balancer.name = "uniform"
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 100
    config.optim.min_rate_fraction = 0.05
    config.optim.weight_decay = 0.1
    config.optim.beta2 = 0.95
    config.loop.steps = 3000
    config.loop.rows_per_step = 4
    config.loop.valid_rows = 8
    config.loop.eval_every_steps = 500
    config.loop.save_every_steps = 250
    return config
