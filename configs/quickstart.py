"""The whole way on two CPU cores: five tasks of the standard library, QLoRA, packing, CoBa.

    mft train --config=configs/quickstart.py --workdir=runs/quickstart

Expected: under 3 minutes and 2 GiB. Validation loss per task on Python 3.11, before -> after:
completion 3.91 -> 3.85, text2code 3.89 -> 3.81, comment 5.36 -> 4.70, unit_test 4.17 -> 3.77,
translation 3.91 -> 3.60; mean ratio 0.93. Another interpreter has another library, so other counts.
"""

from mft_jax import config as configs

TASKS = ("completion", "text2code", "comment", "unit_test", "translation")


def get_config():
    config = configs.default()
    config.model.path = "builtin:tiny"
    config.model.compute_dtype = "float32"  # no slower than bfloat16 on a CPU
    config.data.tasks = tuple(
        {"name": name, "path": f"stdlib:{name}", "max_samples": 2500, "max_valid_samples": 30}
        for name in TASKS
    )
    config.data.row_length = 1024
    config.finetune.method = "qlora"
    config.finetune.rank = 16
    config.objective.name = "task_token_mean"
    config.balancer.name = "coba"
    config.balancer.coba.update_every_steps = 4
    config.balancer.coba.warmup_updates = 4
    config.balancer.coba.history_updates = 10
    config.optim.learning_rate = 3e-3
    config.optim.warmup_steps = 10
    config.loop.steps = 100
    config.loop.rows_per_step = 2
    config.loop.valid_rows = 2
    config.loop.eval_every_steps = 50
    config.loop.save_every_steps = 25
    return config
