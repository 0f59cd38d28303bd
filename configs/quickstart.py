"""The whole way on two CPU cores: five tasks of the standard library, QLoRA, packing, CoBa.

    mft train --config=configs/quickstart.py --workdir=runs/quickstart

Expected: filled in below.
"""

from mft_jax import config as configs

TASKS = ("completion", "text2code", "comment", "unit_test", "translation")


def get_config():
    config = configs.default()
    config.model.path = "builtin:tiny"
    config.model.compute_dtype = "float32"  # no slower than bfloat16 on a CPU
    config.model.remat = False  # the activations of this small model fit
    config.data.tasks = tuple(
        {"name": name, "path": f"stdlib:{name}", "max_samples": 2500, "max_valid_samples": 30}
        for name in TASKS
    )
    config.data.row_length = 1024
    config.finetune.method = "qlora"
    config.finetune.rank = 16
    config.objective.name = "task_token_mean"
    config.balancer.name = "coba"
    config.balancer.coba.update_every_steps = 2
    config.balancer.coba.warmup_updates = 5
    config.balancer.coba.history_updates = 15
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 10
    config.loop.steps = 120
    config.loop.rows_per_step = 2
    config.loop.valid_rows = 1
    config.loop.eval_every_steps = 60
    config.loop.save_every_steps = 30
    return config
