"""The same job on your own files: five tasks as JSONL in MFTCoder's format, one folder each.

    mft train --config=configs/mft_mini.py:../shared/data/mft-mini --workdir=runs/mft_mini

The part behind the colon is the folder that holds `<task>/train.jsonl.gz` and `valid.jsonl.gz`.

Expected: 6,605 packed rows, 99.89 % of their positions real tokens. On two CPU cores about 9
minutes and 3.5 GB of memory; validation loss before -> after: code_comment 5.31 -> 4.88,
code_trans 5.04 -> 3.91, code_completion 5.47 -> 4.51, unit_test 4.50 -> 3.44, text2code
5.15 -> 3.70.
"""

from mft_jax import config as configs

TASKS = ("code_comment", "code_trans", "code_completion", "unit_test", "text2code")


def get_config(folder: str = "../shared/data/mft-mini"):
    config = configs.default()
    config.model.path = "builtin:tiny"
    config.model.compute_dtype = "float32"
    config.data.tasks = tuple(
        {
            "name": name,
            "path": f"{folder}/{name}/train.jsonl.gz",
            "valid_path": f"{folder}/{name}/valid.jsonl.gz",
            "max_valid_samples": 30,
        }
        for name in TASKS
    )
    config.data.row_length = 2048
    config.finetune.method = "qlora"
    config.finetune.rank = 16
    config.objective.name = "task_token_mean"
    config.balancer.name = "coba"
    config.balancer.coba.update_every_steps = 2
    config.balancer.coba.warmup_updates = 10
    config.balancer.coba.history_updates = 20
    config.optim.learning_rate = 5e-3
    config.optim.warmup_steps = 20
    config.loop.steps = 100
    config.loop.rows_per_step = 2
    config.loop.valid_rows = 1
    config.loop.eval_every_steps = 50
    config.loop.save_every_steps = 20
    return config
